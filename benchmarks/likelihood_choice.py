"""Multiple choice by likelihood against sampled answers, on the digit world.

Every question of the digit world's exam is answered twice by one checkpoint: by
the sampler, and by the most likely of all answers that its kind has. Both see
the same images, of unseen writers.

  python benchmarks/likelihood_choice.py --checkpoint=runs/digits

Prints one JSON object: for each kind of question the accuracy of both, and the
share of questions on which they agree.
"""

import argparse
import json

import numpy as np

from ddit_jax.digits.evaluation_sets import question_items
from ddit_jax.digits.world import WORLDS
from ddit_jax.pipelines.load import load
from ddit_jax.pipelines.ranking import choice_nats


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--checkpoint", required=True)
  parser.add_argument("--per_kind", type=int, default=100)
  parser.add_argument("--text_passes", type=int, default=16)
  arguments = parser.parse_args()
  pipeline = load(arguments.checkpoint)
  world = WORLDS[pipeline.config.data.world]
  items = question_items(world, "test", arguments.per_kind, seed=0)
  images = np.stack([item.image for item in items])
  asked = [item.question.text for item in items]
  right = [item.question.answer for item in items]
  kinds = np.array([item.question.kind for item in items])
  choices = [
    sorted({a for a, k in zip(right, kinds, strict=True) if k == kind})
    for kind in kinds
  ]
  nats = choice_nats(
    pipeline,
    images,
    asked,
    choices,
    effort={"text_passes": arguments.text_passes},
  )
  chosen = [
    some[int(row.argmin())] for some, row in zip(choices, nats, strict=True)
  ]
  sampled = np.array(pipeline.answer(images, asked))
  chosen, right = np.array(chosen), np.array(right)
  report = {
    str(kind): {
      "n": int((kinds == kind).sum()),
      "by_likelihood": float((chosen == right)[kinds == kind].mean()),
      "by_sampling": float((sampled == right)[kinds == kind].mean()),
      "agree": float((chosen == sampled)[kinds == kind].mean()),
    }
    for kind in dict.fromkeys(kinds)
  }
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  main()
