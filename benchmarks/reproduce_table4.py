"""The paper's Table 4 at small scale: do diffusion features read?

  python benchmarks/reproduce_table4.py --grid=small --out=runs/table4

For each seed, an image model is trained on the image loss alone. Then, for
equally many steps of the same batches of captions: D-DiT continues it with its
own text branch, and GPT-2 captions its features, frozen and trained along, and
those of a random network as a control. Questions are answered from the captions
by exact rules. The stages are those of `reproduction_config.py`.

Cells, resuming and results are as in `reproduce_tables.py`.
"""

import pathlib

from reproduce_tables import SeedCells, reproduce
from reproduction_config import LENGTHS
from reproduction_report import Table

_COLUMNS = (
  "judged/accuracy",
  "judged/what_number",
  "judged/what_color",
  "caption/digit_and_color",
)
# D-DiT draws images and answers, too; of them it needs as little as possible.
_CAPTIONS_ONLY = {
  "sample.image.num_inference_steps": 1,
  "evaluate.images_per_prompt": 1,
  "evaluate.questions_per_kind": 5,
  "evaluate.num_pope_images": 0,
}


class ReaderCells(SeedCells):
  """Those of Table 4.

  Attributes:
    rows: what reads the images -> evaluation.
  """

  def __init__(self, grid_name: str, seed: int, out: pathlib.Path):
    super().__init__(grid_name, seed, out)
    first = self.train("image_first", "image_first")
    features = {"captioner.features_from": first}
    trained = {"captioner.is_reader_trained": True}
    self.rows = {
      "GPT-2, random features": self._captioner("random"),
      "GPT-2, image model's features": self._captioner("frozen", features),
      "GPT-2, image model's features, trained": self._captioner(
        "trained", features | trained
      ),
      "D-DiT's own text branch": self._dual(first),
    }

  def _captioner(self, name: str, changes=()) -> pathlib.Path:
    return self.evaluate(name, self.train(name, "captioner", changes))

  def _dual(self, first: pathlib.Path) -> pathlib.Path:
    steps = LENGTHS[self._name]["captioner"][0]
    every = ("num_steps", "checkpoint_every", "validate_every")
    equal = {f"train.{name}": steps for name in every}
    run = self.train("dual", "dual", {"init_from": first, **equal})
    return self.evaluate("dual", run, changes=_CAPTIONS_ONLY)


def tables(grid_name: str, seeds: list[ReaderCells]) -> dict[str, Table]:
  """The evaluations of the table, with the number of steps in its title."""
  steps = LENGTHS[grid_name]["captioner"][0]
  title = f"Table 4: what reads the images, after {steps:,} steps"
  rows = {
    label: [seed.rows[label] for seed in seeds] for label in seeds[0].rows
  }
  return {"table4": (title, rows, _COLUMNS)}


if __name__ == "__main__":
  reproduce(__doc__, ReaderCells, tables)
