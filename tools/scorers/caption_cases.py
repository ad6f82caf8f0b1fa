"""Our side of the cases of tokens and captions."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ddit_jax.evaluation import caption_scores, ptb_tokens
from ddit_jax.scoring import captions, records
from scorers.compare import ROUNDING, Comparison, unread
from scorers.folder import Folder

# What came after each caption when it was recorded, and other lines that make
# the tokenizer see the end of a sentence or of a number.
_NEXT_LINE = "the dog"
_OTHER_NEXT_LINES = ("The dog", "Dogs", "A", "5 dogs", "")


def ptb(folder: Folder) -> Iterator[Comparison]:
  """Captions and their tokens."""
  body = folder.json("tokens.json")
  read = ("setting", "punctuation_removed", "cases")
  yield from unread("tokens.json", body, *read)
  yield Comparison(
    name="tokens.json/punctuation_removed",
    expected=sorted(body["punctuation_removed"]),
    got=sorted(ptb_tokens.PUNCTUATION),
  )
  for number, case in enumerate(body["cases"]):
    lines = [case["caption"].replace("\n", " "), _NEXT_LINE]
    got: dict[str, Any] = {
      "ptb": " ".join(ptb_tokens.all_tokens(lines)[0]),
      "tokens": ptb_tokens.tokenize(lines)[0],
    }
    others = "other_outcomes_by_next_line"
    if others in case:
      outcomes = {
        ptb_tokens.tokenize([lines[0], line])[0] for line in _OTHER_NEXT_LINES
      }
      got[others] = [one for one in case[others] if one in outcomes]
    yield Comparison(
      name=f"tokens.json/{number} {case['caption']!r:.40}",
      expected={key: one for key, one in case.items() if key != "caption"},
      got=got,
    )


def coco_caption(folder: Folder) -> Iterator[Comparison]:
  """Captions, all of them and three subsets."""
  results = records.read_any(folder.one("*results.json"))
  annotation_file = next(
    path
    for path in folder.all("captions_*.json")
    if not path.name.endswith("results.json")
  )
  body = records.read_any(annotation_file)
  annotated = defaultdict(list)
  for one in body["annotations"]:
    annotated[one["image_id"]].append(one["caption"])
  expected = folder.json("expected.json")
  order = [one["id"] for one in body["images"]]
  pairs = expected.pop("two_image_ids", [])
  single = expected.pop("one_image_id", None)
  ids = [one["image_id"] for one in results]
  subsets = {
    "full": ids,
    "first_third_of_results": ids[: len(ids) // 3],
    "two_images": pairs,
    "one_image": [single],
  }
  text_of = {one["image_id"]: one["caption"] for one in results}
  for name, output in expected.items():
    chosen = set(subsets.get(name, ())) & set(ids)
    yield Comparison(
      name=f"expected.json/{name}",
      expected=output,
      got=_output(
        {key: text_of[key] for key in order if key in chosen}, annotated
      )
      if chosen
      else {},
      tolerance=ROUNDING,
    )


def _output(chosen: dict[Any, str], annotated: dict) -> dict[str, Any]:
  """The output of the published scorer for some of the images."""
  scored = captions.score_captions(chosen, annotated)
  candidates, references = captions.tokenized(chosen, annotated)
  figures, items = scored.figures, scored.items
  return {
    "tokens": {
      "candidates": {
        str(key): [one] for key, one in zip(chosen, candidates, strict=True)
      },
      "references": {
        str(key): some for key, some in zip(chosen, references, strict=True)
      },
    },
    "CIDEr": figures["cider"],
    "CIDEr_per_image": dict(
      zip(items["cider"].ids, items["cider"].scores, strict=True)
    ),
    "ROUGE_L": figures["rouge_l"],
    "ROUGE_L_per_image": dict(
      zip(items["rouge_l"].ids, items["rouge_l"].scores, strict=True)
    ),
    "BLEU": list(figures["bleu"].values()),
    "BLEU_per_image": caption_scores.bleu(candidates, references)[1],
  }
