"""GenEval's verdict: do the detected boxes match the prompt?

Source: evaluate_images.py and summary_scores.py of djghosh13/geneval at
af4902f. The detector is not included: boxes, scores and colour names are given,
and all arithmetic on boxes is float32 as in the original.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

TASKS = (
  "single_object",
  "two_object",
  "counting",
  "colors",
  "position",
  "color_attr",
)
_COLORS = "red orange yellow green blue purple pink brown black white".split()
_MIN_SCORE = 0.3
_MIN_COUNTING_SCORE = 0.9
_MAX_OBJECTS_PER_CLASS = 16
POSITION_MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class Detection:
  """One detected object.

  Attributes:
    class_name: class of the object.
    box: left, top, right, bottom in pixels, y downwards.
    score: the detector's confidence in [0, 1].
    color: name of its colour; None if not determined.
  """

  class_name: str
  box: tuple[float, float, float, float]
  score: float = 1.0
  color: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
  """Whether an image matches its prompt, and what is wrong.

  Attributes:
    is_correct: True if nothing is wrong.
    reasons: one line for each error, empty if correct.
  """

  is_correct: bool
  reasons: tuple[str, ...]


def judge(
  metadata: Mapping, detections: Iterable[Detection], *, max_overlap: float = 1
) -> Verdict:
  """Judges one image.

  Args:
    metadata: one line of GenEval's evaluation_metadata.jsonl: "tag",
      "include" (clauses with "class", "count" and perhaps "color" or
      "position": [relation, index of the target clause]) and perhaps
      "exclude" ("class", "count": this many are too many).
    detections: all boxes of the image, in the detector's order.
    max_overlap: boxes of one class that overlap a better one by this much
      (intersection over union) are dropped; 1 keeps them all.
  """
  kept = keep(detections, tag=metadata["tag"], max_overlap=max_overlap)
  reasons: list[str] = []
  groups: list[list[Detection] | None] = []
  for clause in metadata.get("include", ()):
    group = kept.get(clause["class"], [])[: clause["count"]]
    wrong = _wrong_with(clause, group, groups)
    groups.append(None if wrong else group)
    reasons += wrong
  for clause in metadata.get("exclude", ()):
    found = len(kept.get(clause["class"], []))
    if found >= clause["count"]:
      reasons.append(
        f"expected {clause['class']}<{clause['count']}, found {found}"
      )
  return Verdict(is_correct=not reasons, reasons=tuple(reasons))


def keep(
  detections: Iterable[Detection], *, tag: str, max_overlap: float = 1
) -> dict[str, list[Detection]]:
  """The detections to use, best first, by class.

  Kept are scores above 0.3 (above 0.9 for counting), at most 16 a class; of
  equal scores the later detection comes first, as in the original.
  """
  of_class = defaultdict(list)
  for detection in detections:
    of_class[detection.class_name].append(detection)
  limit = _MIN_COUNTING_SCORE if tag == "counting" else _MIN_SCORE
  kept = {}
  for class_name, found in of_class.items():
    scores = np.array([d.score for d in found], np.float32)
    order = np.argsort(scores, kind="stable")[::-1]
    best = [found[i] for i in order if scores[i] > limit]
    best = _without_overlaps(best[:_MAX_OBJECTS_PER_CLASS], max_overlap)
    if best:
      kept[class_name] = best
  return kept


def relations(first: Detection, second: Detection) -> frozenset[str]:
  """Position of `first` relative to `second`; none, one or two relations.

  The offset of the centres is shrunk by a tenth of the summed sizes on each
  axis, then compared with half the length of the unshrunk offset.
  """
  boxes = np.array([first.box, second.box], np.float32).reshape(2, 2, 2)
  centers = boxes.mean(axis=1)
  summed_sizes = np.abs(boxes[:, 1] - boxes[:, 0]).sum(axis=0)
  offset = centers[0] - centers[1]
  margin = POSITION_MARGIN * summed_sizes
  shrunk = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0)
  if (np.abs(shrunk) < 1e-3).all():
    return frozenset()
  right, down = shrunk / np.linalg.norm(offset)
  holds = {
    "left of": right < -0.5,
    "right of": right > 0.5,
    "above": down < -0.5,
    "below": down > 0.5,
  }
  return frozenset(name for name, is_true in holds.items() if is_true)


def task_scores(
  tags: Sequence[str], is_correct: Sequence[bool]
) -> dict[str, float]:
  """Fraction of correct images for each task present, and "overall".

  "overall" is the plain mean of the tasks, regardless of their sizes.

  Raises:
    ValueError: for no images or unequal lengths.
  """
  if not tags or len(tags) != len(is_correct):
    raise ValueError(
      f"{len(tags)} tags for {len(is_correct)} verdicts: give one verdict a "
      "tag, and at least one"
    )
  verdicts_of = defaultdict(list)
  for tag, verdict in zip(tags, is_correct, strict=True):
    verdicts_of[tag].append(bool(verdict))
  scores = {tag: sum(v) / len(v) for tag, v in verdicts_of.items()}
  return scores | {"overall": sum(scores.values()) / len(scores)}


def _wrong_with(
  clause: Mapping,
  group: Sequence[Detection],
  earlier_groups: Sequence[Sequence[Detection] | None],
) -> list[str]:
  """The error of an include clause: at most one line."""
  name, count = clause["class"], clause["count"]
  if len(group) < count:
    return [f"expected {name}>={count}, found {len(group)}"]
  if "color" in clause:
    wanted = clause["color"]
    colors = [detection.color for detection in group]
    if colors.count(wanted) < count:
      return [
        f"expected {wanted} {name}>={count}, found {colors.count(wanted)} "
        f"{wanted}; and {_color_counts(colors)}"
      ]
  if "position" in clause:
    relation, target = clause["position"]
    return _wrong_position(name, relation, group, earlier_groups[target])
  return []


def _wrong_position(
  name: str,
  relation: str,
  group: Sequence[Detection],
  targets: Sequence[Detection] | None,
) -> list[str]:
  if targets is None:
    return [f"no target for {name} to be {relation}"]
  for detection in group:
    for target in targets:
      found = relations(detection, target)
      if relation not in found:
        return [
          f"expected {name} {relation} target, found "
          f"{' and '.join(sorted(found))} target"
        ]
  return []


def _color_counts(colors: Sequence[str | None]) -> str:
  """ "1 red, 2 blue": GenEval's ten colours first, then others by name."""
  others = sorted({str(color) for color in colors} - set(_COLORS))
  named = [str(color) for color in colors]
  return ", ".join(
    f"{named.count(color)} {color}"
    for color in (*_COLORS, *others)
    if color in named
  )


def _without_overlaps(
  best_first: Sequence[Detection], max_overlap: float
) -> list[Detection]:
  kept: list[Detection] = []
  for candidate in best_first:
    if max_overlap == 1 or all(
      _overlap(candidate, better) < max_overlap for better in kept
    ):
      kept.append(candidate)
  return kept


def _overlap(first: Detection, second: Detection) -> float:
  """Intersection over union; a box from 3 to 5 is three pixels wide."""
  a, b = (np.array(d.box, np.float32) for d in (first, second))
  intersection = _area(
    np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])
  )
  union = _area(a) + _area(b) - intersection
  return float(intersection / union) if union else 0.0


def _area(box: Float[np.ndarray, " 4"]) -> np.float32:
  width, height = np.maximum(box[2:] - box[:2] + 1, 0)
  return width * height
