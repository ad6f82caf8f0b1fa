"""Caption scores against arithmetic in the open, and by hand."""

import itertools
import math
import time

import numpy as np
import pytest

from ddit_jax.evaluation.caption_scores import bleu, cider, rouge_l

WORDS = "a red dog cat sits on the mat near two".split()


def sentences(rng, count):
  return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)]


def counted(text, order):
  words = text.split()
  grams = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
  return {gram: grams.count(gram) for gram in grams}


def slow_cider(candidates, references):
  """Equation (2) of CIDEr with the clipping and the penalty of CIDEr-D."""
  scores = np.zeros((4, len(candidates)))
  for order in range(1, 5):
    seen = [
      set().union(*(counted(text, order) for text in texts))
      for texts in references
    ]
    vocabulary = sorted(
      set().union(*seen, *(counted(text, order) for text in candidates))
    )
    frequency = np.array([sum(g in one for one in seen) for g in vocabulary])
    idf = np.log(len(references)) - np.log(np.maximum(frequency, 1))

    def vector(text, order=order, vocabulary=vocabulary, idf=idf):
      table = counted(text, order)
      return np.array([table.get(gram, 0) for gram in vocabulary]) * idf

    for image, (text, texts) in enumerate(
      zip(candidates, references, strict=True)
    ):
      for other in texts:
        a, b = vector(text), vector(other)
        product = np.minimum(a, b) @ b
        lengths = [max(len(t.split()) - 1, 0) for t in (text, other)]
        if np.any(a) and np.any(b):
          product /= np.linalg.norm(a) * np.linalg.norm(b)
        penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / 72)
        scores[order - 1, image] += product * penalty / len(texts)
  return 10 * scores.mean(axis=0)


def test_cider_agrees_with_vectors_over_the_vocabulary():
  rng = np.random.default_rng(0)
  references = [sentences(rng, n) for n in (1, 5, 2, 3, 5, 4)]
  candidates = [*sentences(rng, 4), references[4][0], ""]
  ours = cider(candidates, references)
  # Rounding alone: 2e-15 measured.
  assert ours == pytest.approx(slow_cider(candidates, references), abs=1e-13)
  assert ours[5] == 0  # an empty caption


def test_one_image_alone_has_a_cider_of_zero():
  assert cider(["a dog"], [["a dog"]]) == [0]


def test_ciders_length_is_the_number_of_bigrams():
  # One word and none both have length 0, so no penalty separates them.
  references = [["a"], ["b b b b b b b"]]
  assert cider(["a", "c"], references)[0] == pytest.approx(2.5)


def test_bleu_by_hand():
  # Unigrams 3 of 4, bigrams 1 of 3; the closest reference has 4 words.
  score, of_image = bleu(["the cat sat down"], [["the cat is down", "no"]])
  assert score[0] == pytest.approx(3 / 4, rel=1e-8)
  assert score[1] == pytest.approx(math.sqrt(3 / 4 * 1 / 3), rel=1e-8)
  assert [order[0] for order in of_image] == score


def test_bleu_of_a_corpus_sums_counts_and_penalises_its_length():
  score, _ = bleu(["a b", "c"], [["a b c"], ["c d e"]])
  # 3 of 3 unigrams, 3 words for 6.
  assert score[0] == pytest.approx(math.exp(1 - 6 / 3), rel=1e-8)


def test_of_two_references_as_close_the_shorter_counts():
  score, _ = bleu(["a b c"], [["a b c d", "a b"]])
  assert score[0] == pytest.approx(1, rel=1e-8)


def test_rouge_takes_the_best_precision_and_the_best_recall():
  # "a b" and "a b c d": precision 2/2, recall 2/3 of the first.
  score = rouge_l(["a x b"], [["a b z", "a b c d x"]])[0]
  precision, recall = 2 / 3, 2 / 3
  beta = 1.2**2
  expected = (1 + beta) * precision * recall / (recall + beta * precision)
  assert score == pytest.approx(expected)
  assert list(rouge_l(["", "a"], [["a"], ["b"]])) == [0, 0]


def common_length(first, second):
  """The table, as in textbooks."""
  table = np.zeros((len(first) + 1, len(second) + 1), int)
  for i, word in enumerate(first):
    for j, other in enumerate(second):
      longer = max(table[i, j + 1], table[i + 1, j])
      table[i + 1, j + 1] = table[i, j] + 1 if word == other else longer
  return table[-1, -1]


def test_rouge_has_the_longest_common_subsequence():
  rng = np.random.default_rng(0)
  for ours, theirs in itertools.pairwise(sentences(rng, 400)):
    words, others = ours.split(), theirs.split()
    common = common_length(words, others)
    precision, recall = common / len(words), common / len(others)
    beta = 1.2**2
    want = 0.0
    if common:
      want = (1 + beta) * precision * recall / (recall + beta * precision)
    assert rouge_l([ours], [[theirs]])[0] == want


def test_rouge_of_long_texts_takes_no_product_of_their_lengths():
  """It would be four thousand million steps."""
  text = " ".join(map(str, range(20_000)))
  begin = time.process_time()
  assert rouge_l([text], [[text] * 10])[0] == pytest.approx(1)
  # Measured: 0.6 s.
  assert time.process_time() - begin < 20


@pytest.mark.parametrize("score", [cider, bleu, rouge_l])
def test_images_need_a_caption_and_a_reference(score):
  with pytest.raises(ValueError, match="1 captions for 0 images"):
    score(["a"], [])
  with pytest.raises(ValueError, match="at least one reference"):
    score(["a"], [[]])
