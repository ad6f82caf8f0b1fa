"""Seconds to score captions and answers, here and by the published scorers.

The peers are installed by hand, into a folder of their own:

  pip install --no-deps --target=PEERS pycocoevalcap salesforce-lavis
  python benchmarks/scoring_speed.py --peers=PEERS

pycocoevalcap 1.2 is the published CIDEr-D; its tokenizer runs in Java, so its
row needs Java. The VQA v2 evaluator is not on PyPI; LAVIS 1.0.2 has a copy, an
older one, which normalises the annotators' answers less: those drawn here need
no more. Captions and answers are drawn from a long-tailed vocabulary. Rounds
alternate, and a ratio is of the medians of CPU seconds, those of child
processes included.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import pathlib
import shutil
import statistics
import sys
import types
from collections.abc import Callable, Mapping

import numpy as np

from ddit_jax.evaluation import caption_scores, vqa_accuracy
from ddit_jax.evaluation.ptb_tokens import tokenize
from ddit_jax.scoring.vqa import Annotation, score_vqa

REFERENCES = 5
VOCABULARY = 8_000
ANSWERS = 3_000
ANNOTATORS = 10

Job = Callable[[], float]


def captions(rng: np.random.Generator, count: int) -> list[str]:
  """Sentences of 6 to 14 words; frequent words first."""
  letters = "etaoinshrdlu"
  words = ["".join(word) for word in itertools.product(letters, repeat=4)]
  lengths = rng.integers(6, 15, count)
  drawn = iter(np.minimum(rng.zipf(1.3, lengths.sum()), VOCABULARY) - 1)
  return [
    " ".join(words[next(drawn)] for _ in range(length)).capitalize() + "."
    for length in lengths
  ]


def caption_jobs(
  peers: pathlib.Path, num_captions: int, rng: np.random.Generator
) -> dict[str, tuple[Job, Job]]:
  """(ours, theirs) for the tokens and for CIDEr-D of the same tokens."""
  sys.path.insert(0, str(peers))
  from pycocoevalcap.cider.cider_scorer import CiderScorer
  from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

  texts = captions(rng, num_captions * (REFERENCES + 1))
  tokens = tokenize(texts)
  candidates = tokens[:num_captions]
  references = [
    tokens[place : place + REFERENCES]
    for place in range(num_captions, len(tokens), REFERENCES)
  ]

  def their_cider() -> float:
    scorer = CiderScorer()
    for candidate, some in zip(candidates, references, strict=True):
      scorer += (candidate, some)
    return float(scorer.compute_score()[0])

  def their_tokens() -> float:
    given = {key: [{"caption": text}] for key, text in enumerate(texts)}
    found = PTBTokenizer().tokenize(given)
    return float(sum(len(found[key][0].split()) for key in given))

  jobs = {
    f"CIDEr-D of {num_captions:,} captions": (
      lambda: float(caption_scores.cider(candidates, references).mean()),
      their_cider,
    )
  }
  if shutil.which("java"):
    jobs[f"tokens of {len(texts):,} captions"] = (
      lambda: float(sum(len(text.split()) for text in tokenize(texts))),
      their_tokens,
    )
  return jobs


def answer_jobs(
  peers: pathlib.Path, num_answers: int, rng: np.random.Generator
) -> dict[str, tuple[Job, Job]]:
  """(ours, theirs) for the accuracy of answers."""
  path = peers / "lavis" / "common" / "vqa_tools" / "vqa_eval.py"
  # Not by name: importing lavis imports its models.
  spec = importlib.util.spec_from_file_location("vqa_eval", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  table = np.array([f"answer-{number}" for number in range(ANSWERS)])
  drawn = table[
    np.minimum(rng.zipf(1.5, (num_answers, ANNOTATORS + 1)), ANSWERS) - 1
  ].tolist()
  predictions = {key: row[0] for key, row in enumerate(drawn)}
  annotations = [
    Annotation(
      question_id=key,
      image_id=key,
      answers=tuple(row[1:]),
      identities=tuple(map(str, range(ANNOTATORS))),
      types={"question_type": "what", "answer_type": "other"},
    )
    for key, row in enumerate(drawn)
  ]

  def their_accuracy() -> float:
    # The evaluator changes the annotations in place.
    truth = {
      key: {
        "question_type": "what",
        "answer_type": "other",
        "answers": [
          {"answer": answer, "answer_id": number}
          for number, answer in enumerate(row[1:])
        ],
      }
      for key, row in enumerate(drawn)
    }
    results = {key: {"answer": answer} for key, answer in predictions.items()}
    evaluator = module.VQAEval(
      types.SimpleNamespace(qa=truth, getQuesIds=lambda: list(truth)),
      types.SimpleNamespace(qa=results),
    )
    with contextlib.redirect_stdout(io.StringIO()):
      evaluator.evaluate()
    return evaluator.accuracy["overall"]

  def our_accuracy() -> float:
    scored = score_vqa(annotations, predictions, vqa_accuracy.vqav2)
    return scored.figures["accuracy"]

  return {
    f"VQA accuracy of {num_answers:,} answers": (our_accuracy, their_accuracy)
  }


def cpu_seconds() -> float:
  """Of this process and of its children."""
  return sum(os.times()[:4])


def measure(jobs: Mapping[str, tuple[Job, Job]], rounds: int) -> None:
  """Prints the medians of alternating rounds."""
  print(f"{'':<36} {'ours':>9} {'theirs':>9} {'ratio':>7}  results")
  for name, pair in jobs.items():
    seconds: tuple[list[float], list[float]] = ([], [])
    results = [0.0, 0.0]
    for _ in range(rounds):
      for side, job in enumerate(pair):
        start = cpu_seconds()
        results[side] = job()
        seconds[side].append(cpu_seconds() - start)
    ours, theirs = map(statistics.median, seconds)
    print(
      f"{name:<36} {ours:>7.2f} s {theirs:>7.2f} s {theirs / ours:>6.1f}x  "
      f"{results[0]!r} and {results[1]!r}",
      flush=True,
    )


def main() -> None:
  """Runs the benchmark."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--peers", type=pathlib.Path, required=True)
  parser.add_argument("--captions", type=int, default=10_000)
  parser.add_argument("--answers", type=int, default=200_000)
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  jobs = caption_jobs(args.peers, args.captions, rng)
  jobs |= answer_jobs(args.peers, args.answers, rng)
  measure(jobs, args.rounds)


if __name__ == "__main__":
  main()
