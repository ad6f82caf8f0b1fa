"""CIDEr-D, BLEU and ROUGE-L of tokenized captions.

Source: salaniz/pycocoevalcap at ad63453. Captions are texts of tokens with
blanks between, as `ptb_tokens` makes them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

_MAX_ORDER = 4
_CIDER_SIGMA = 6.0
_ROUGE_BETA = 1.2
# Keep BLEU's fractions finite, as published.
_SMALL = 1e-9
_TINY = 1e-15

_NGram = tuple[str, ...]
_NGramCounts = list[dict[_NGram, int]]
_PerImage = Float64[np.ndarray, " images"]


def cider(
  candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> _PerImage:
  """CIDEr-D of each image; the corpus's score is the mean.

  N-grams are weighted by their frequency among the references given here, so
  scores of different sets of images do not compare, and one image alone is 0.

  Args:
    candidates: one caption an image.
    references: the captions of people, at least one an image.

  Raises:
    ValueError: no images, unequal lengths, or an image without reference.
  """
  _check(candidates, references)
  counted = [[_ngrams(text) for text in texts] for texts in references]
  images_with = Counter(
    ngram
    for counts in counted
    for ngram in {gram for one in counts for order in one for gram in order}
  )
  log_images = math.log(len(candidates))
  idf = {g: log_images - math.log(n) for g, n in images_with.items()}
  return np.array(
    [
      _cider_of_image(_ngrams(candidate), counts, idf, log_images)
      for candidate, counts in zip(candidates, counted, strict=True)
    ]
  )


def bleu(
  candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[float], list[list[float]]]:
  """BLEU-1 to BLEU-4: (of the corpus, of each image for each order).

  The reference length is the closest one of each image, the shorter of two.
  The corpus's score is of summed counts, not the mean of the images.

  Raises:
    ValueError: as `cider`.
  """
  _check(candidates, references)
  rows = [
    _bleu_counts(candidate, texts)
    for candidate, texts in zip(candidates, references, strict=True)
  ]
  totals = tuple(
    np.sum([row[part] for row in rows], axis=0) for part in range(4)
  )
  of_image = [_bleu_of_counts(*row) for row in rows]
  by_order = [list(scores) for scores in zip(*of_image, strict=True)]
  return _bleu_of_counts(*totals), by_order


def rouge_l(
  candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> _PerImage:
  """ROUGE-L of each image with beta 1.2; the corpus's score is the mean.

  Precision and recall are each the best over the references.

  Raises:
    ValueError: as `cider`.
  """
  _check(candidates, references)
  return np.array(
    [
      _rouge_of_image(candidate, texts)
      for candidate, texts in zip(candidates, references, strict=True)
    ]
  )


def _check(
  candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> None:
  if not candidates or len(candidates) != len(references):
    raise ValueError(
      f"{len(candidates)} captions for {len(references)} images: give one an "
      "image, and at least one"
    )
  if not all(references):
    raise ValueError("every image needs at least one reference caption")


def _ngrams(text: str) -> _NGramCounts:
  """Counts of the n-grams of each order, in order of appearance."""
  words = text.split()
  later = [words[skip:] for skip in range(_MAX_ORDER)]
  return [
    Counter(zip(*later[:order], strict=False))
    for order in range(1, _MAX_ORDER + 1)
  ]


def _cider_of_image(
  candidate: _NGramCounts,
  references: Sequence[_NGramCounts],
  idf: Mapping[_NGram, float],
  unseen: float,
) -> float:
  weights, norms, length = _weighted(candidate, idf, unseen)
  sums = [0.0] * _MAX_ORDER
  for reference in references:
    other_weights, other_norms, other_length = _weighted(reference, idf, unseen)
    penalty = math.e ** (
      -(float(length - other_length) ** 2) / (2 * _CIDER_SIGMA**2)
    )
    for order in range(_MAX_ORDER):
      theirs = other_weights[order]
      product = 0.0
      for gram, weight in weights[order].items():
        if (other := theirs.get(gram)) is not None:
          product += min(weight, other) * other
      if norms[order] != 0 and other_norms[order] != 0:
        product /= norms[order] * other_norms[order]
      sums[order] += product * penalty
  total = 0.0
  for one in sums:
    total += one
  return total / _MAX_ORDER / len(references) * 10


def _weighted(
  counts: _NGramCounts, idf: Mapping[_NGram, float], unseen: float
) -> tuple[list[dict[_NGram, float]], list[float], int]:
  """(tf-idf weights, norms, number of bigrams) of one caption."""
  weights = [
    {gram: count * idf.get(gram, unseen) for gram, count in table.items()}
    for table in counts
  ]
  norms = []
  for table in weights:
    squares = 0.0
    for weight in table.values():
      squares += weight * weight
    norms.append(math.sqrt(squares))
  return weights, norms, sum(counts[1].values())


def _bleu_counts(
  candidate: str, references: Sequence[str]
) -> tuple[list[int], list[int], int, int]:
  """(matched n-grams, n-grams, length, reference length) of an image."""
  best: list[dict[_NGram, int]] = [{} for _ in range(_MAX_ORDER)]
  for text in references:
    for table, counts in zip(best, _ngrams(text), strict=True):
      for gram, count in counts.items():
        table[gram] = max(table.get(gram, 0), count)
  length = len(candidate.split())
  matched = [
    sum(min(table.get(gram, 0), count) for gram, count in counts.items())
    for table, counts in zip(best, _ngrams(candidate), strict=True)
  ]
  guessed = [max(0, length - order) for order in range(_MAX_ORDER)]
  closest = min(
    (len(text.split()) for text in references),
    key=lambda other: (abs(other - length), other),
  )
  return matched, guessed, length, closest


def _bleu_of_counts(
  matched: Sequence[int],
  guessed: Sequence[int],
  length: int,
  reference_length: int,
) -> list[float]:
  product, scores = 1.0, []
  for order in range(_MAX_ORDER):
    product *= (float(matched[order]) + _TINY) / (
      float(guessed[order]) + _SMALL
    )
    scores.append(product ** (1.0 / (order + 1)))
  ratio = (float(length) + _TINY) / (float(reference_length) + _SMALL)
  penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
  return [score * penalty for score in scores]


def _rouge_of_image(candidate: str, references: Sequence[str]) -> float:
  # Not split(): the empty caption is one empty token, as published.
  words = candidate.split(" ")
  precision = recall = 0.0
  for text in references:
    others = text.split(" ")
    common = _common_length(words, others)
    precision = max(precision, common / len(words))
    recall = max(recall, common / len(others))
  if precision == 0 or recall == 0:
    return 0.0
  square = _ROUGE_BETA**2
  return (1 + square) * precision * recall / (recall + square * precision)


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
  """Length of the longest common subsequence.

  A row of its table is a whole number, whose bit i is 0 where the length grows
  at word i of `second` (Hyyrö 2004): long texts take little time.
  """
  places: dict[str, int] = {}
  for place, word in enumerate(second):
    places[word] = places.get(word, 0) | 1 << place
  all_ones = (1 << len(second)) - 1
  row = all_ones
  for word in first:
    common = row & places.get(word, 0)
    row = (row + common | row - common) & all_ones
  return len(second) - row.bit_count()
