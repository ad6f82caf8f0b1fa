"""COCO captions from their files."""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.errors import InputError, first_few
from ddit_jax.evaluation import caption_scores
from ddit_jax.evaluation.ptb_tokens import count_split_lines, tokenize
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_STOPS = "the official scorer stops with an assertion"
_CAPTION = {"image_id": records.ID, "caption": records.TEXT}


def coco_captions(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """CIDEr-D, ROUGE-L and BLEU of the images that have a caption.

  Args:
    predictions: [{image_id, caption}], one an image.
    references: one file, {images: [{id}], annotations: [{image_id, caption}]}.
  """
  images, annotations = records.read_lists_in(
    references[0], {"images": {"id": records.ID}, "annotations": _CAPTION}
  )
  results = records.read_records(predictions, _CAPTION)
  records.no_repeats(
    [one["image_id"] for one in results],
    what="images",
    official=_STOPS,
  )
  captions = {one["image_id"]: one["caption"] for one in results}
  annotated = defaultdict(list)
  for one in annotations:
    annotated[one["image_id"]].append(one["caption"])
  order = list(dict.fromkeys(one["id"] for one in images))
  known = set(order)
  if unknown := [key for key in captions if key not in known]:
    raise InputError(
      f"{len(unknown)} captions are of images that {references[0]} does not "
      f"have ({first_few(unknown)}): {_STOPS}"
    )
  scored = score_captions(
    {key: captions[key] for key in order if key in captions}, annotated
  )
  if len(captions) == len(order):
    return scored
  note = (
    f"{len(captions)} of {len(order)} images have a caption: CIDEr weighs "
    "words by these, and does not compare with that of other sets"
  )
  return Scored(
    figures=scored.figures, items=scored.items, notes=(note, *scored.notes)
  )


def score_captions(
  captions: Mapping[Any, str], annotated: Mapping[Any, Sequence[str]]
) -> Scored:
  """Scores a caption an image, as fractions (papers report 100 x CIDEr).

  Args:
    captions: by image, in the order of the annotation file, which decides the
      last digit of means.
    annotated: people's captions by image.
  """
  if bare := [key for key in captions if not annotated.get(key)]:
    raise InputError(
      f"{len(bare)} images have no reference caption ({first_few(bare)}): "
      f"{_STOPS}"
    )
  if not captions:
    raise InputError("there is no caption to score")
  candidates, references = tokenized(captions, annotated)
  cider = caption_scores.cider(candidates, references)
  rouge = caption_scores.rouge_l(candidates, references)
  bleu, _ = caption_scores.bleu(candidates, references)
  ids = tuple(str(key) for key in captions)
  items = {
    name: ItemScores(ids=ids, groups=ids, scores=tuple(map(float, scores)))
    for name, scores in (("cider", cider), ("rouge_l", rouge))
  }
  texts = [*captions.values(), *(t for key in captions for t in annotated[key])]
  notes = ()
  if split := count_split_lines(texts):
    notes = (
      f"{split} captions hold a line separator other than a line feed, which "
      "shifts all later captions in the official tokenizer; here it is a blank",
    )
  return Scored(
    figures={
      "cider": float(np.mean(cider)),
      "rouge_l": float(np.mean(rouge)),
      "bleu": {str(order): one for order, one in enumerate(bleu, 1)},
      "images": len(candidates),
    },
    items=items,
    notes=notes,
  )


def tokenized(
  captions: Mapping[Any, str], annotated: Mapping[Any, Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
  """(tokens of each caption, tokens of each image's references).

  References and captions are two texts of their own for the tokenizer.
  """
  tokens = iter(tokenize([t for key in captions for t in annotated[key]]))
  references = [[next(tokens) for _ in annotated[key]] for key in captions]
  return tokenize(captions.values()), references
