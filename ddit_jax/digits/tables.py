"""The metrics of one checkpoint in the shape of the paper's Tables 2 and 3."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddit_jax.digits.metrics import Metrics
from ddit_jax.digits.prompts import TAGS

# What is also measured in the handwriting of training, and its suffix.
TRAIN_WRITERS = "_train_writers"
_BY_CELL = ("vqa/accuracy", "caption/digit_and_color")
_COMPOSITIONS = ("_seen_pairs", "_heldout_pairs")
CELLS = tuple(f"{name}{cell}" for name in _BY_CELL for cell in _COMPOSITIONS)

_MME_POINTS = 200
# Title of a column -> name of the metric, and how it is printed.
_UNDERSTANDING = {
  "VQA": ("vqa/accuracy", 100),
  "VQA number": ("vqa/accuracy/number", 100),
  "VQA yes/no": ("vqa/accuracy/yes/no", 100),
  "VQA other": ("vqa/accuracy/other", 100),
  "GQA": ("gqa/accuracy", 100),
  "GQA consistency": ("gqa/consistency", 100),
  "POPE": ("pope/accuracy", 100),
  "MME existence": ("mme/existence", _MME_POINTS),
  "MME position": ("mme/position", _MME_POINTS),
  "MME color": ("mme/color", _MME_POINTS),
  "CIDEr": ("caption/cider", 100),
  "caption facts F1": ("caption/fact_f1", 100),
}


def as_markdown(metrics: Mapping[str, Mapping[str, Any]]) -> str:
  """All tables: generation, understanding, and by what training has seen.

  Per cent, MME points of 200, CIDEr x 100, each with its 95 % interval.
  Metrics that a world does not have are left out.

  Args:
    metrics: of an evaluation with `is_full`.
  """
  return "\n".join(
    [
      *_section("Generation (the columns of Table 2)", _generation(metrics)),
      *_section("Understanding (those of Table 3)", _understanding(metrics)),
      *_section("By writers and compositions", _cells(metrics)),
    ]
  )


_Rows = dict[str, list[str]]


def _generation(metrics: Metrics) -> tuple[list[str], _Rows]:
  """The tasks, of all prompts and by what training has seen."""
  tags = [tag for tag in TAGS if f"generation/{tag}" in metrics]
  names = [*tags, "overall", "strict", "soft_tifa"]
  rows = {
    "all": [_cell(metrics.get(f"generation/{name}")) for name in names],
    "seen compositions": [],
    "held-out compositions": [],
    "real scenes": [_reference(metrics, name, "oracle") for name in names],
    "another prompt's images": [
      _reference(metrics, name, "prior_baseline") for name in names
    ],
  }
  for label, suffix in zip(
    ("seen compositions", "held-out compositions"), _COMPOSITIONS, strict=True
  ):
    # The task "colors" is that of a digit and its colour.
    rows[label] = [
      _cell(
        metrics.get(
          f"generation/{'digit_and_color' if n == 'colors' else n}{suffix}"
        )
      )
      for n in names
    ]
  return [name.replace("_", " ") for name in names], rows


def _reference(metrics: Metrics, name: str, kind: str) -> str:
  return f"{100 * metrics[f'generation/{name}'][kind]:.1f}"


def _understanding(metrics: Metrics) -> tuple[list[str], _Rows]:
  there = {
    title: (metrics[name], scale)
    for title, (name, scale) in _UNDERSTANDING.items()
    if name in metrics
  }
  rows = {"checkpoint": [_cell(*one) for one in there.values()]}
  for label, kind in (
    ("without the image", "prior_baseline"),
    ("true answers", "oracle"),
  ):
    rows[label] = [f"{s * one[kind]:.1f}" for one, s in there.values()]
  return list(there), rows


def _cells(metrics: Metrics) -> tuple[list[str], _Rows]:
  rows = {
    f"{writers}, {composition} compositions": [
      _cell(metrics.get(f"{name}{cell}{suffix}")) for name in _BY_CELL
    ]
    for writers, suffix in (
      ("training writers", TRAIN_WRITERS),
      ("unseen writers", ""),
    )
    for composition, cell in zip(
      ("seen", "held-out"), _COMPOSITIONS, strict=True
    )
  }
  return ["VQA", "captions right"], rows


def _section(title: str, table: tuple[Sequence[str], _Rows]) -> list[str]:
  columns, rows = table
  return [
    f"### {title}",
    "",
    f"| | {' | '.join(columns)} |",
    f"| --- |{' --- |' * len(columns)}",
    *(f"| {label} | {' | '.join(row)} |" for label, row in rows.items()),
    "",
  ]


def _cell(record: Mapping[str, Any] | None, scale: float = 100) -> str:
  if record is None:
    return ""
  low, high = (scale * end for end in record["interval"])
  return f"{scale * record['value']:.1f} [{low:.1f}, {high:.1f}]"
