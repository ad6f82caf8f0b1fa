"""Which items the report shows as the worst."""

import pytest

from ddit_jax.pipelines.benchmark_report import _scores
from ddit_jax.pipelines.evaluation_task import (
  EvaluationTask,
  items_hash,
  scored_result,
)
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.protocols.item import chosen
from ddit_jax.protocols.protocol import PROTOCOLS
from tests.protocols import official_files


@pytest.mark.parametrize("name", ["pope", "mme"])
def test_the_worst_item_of_a_subset_is_the_one_that_is_wrong(tmp_path, name):
  """Scorers count the lines of a subset anew, so its keys are not their ids."""
  official_files.MAKERS[name](tmp_path / name, 28)
  protocol = PROTOCOLS[name]
  files = BenchmarksConfig(folder=str(tmp_path)).paths(name, protocol)
  items = protocol.items(files)
  if name == "mme":
    # One image of each subtask, the second; a unit stands at its first item.
    some = [item for item in items if "/2/" in item.key]
    worst, wrong = (
      next(item for item in some if item.key == f"scene/2/{number}")
      for number in (0, 1)
    )
  else:
    some = chosen(items, 7)
    worst = wrong = some[-1]
  outputs = {item.key: item.facts["expected"] for item in some}
  is_yes = wrong.facts["expected"].lower() == "yes"
  outputs[wrong.key] = "no" if is_yes else "yes"
  task = EvaluationTask(
    name=name,
    protocol=protocol,
    files=files,
    hashes={},
    items=some,
    items_hash=items_hash(items),
    is_subset=True,
  )
  result = scored_result(
    task,
    folder=tmp_path,
    outputs=outputs,
    prompts={},
    settings={},
    predictions=protocol.write(tmp_path, some, outputs),
    is_baseline=False,
  )
  assert result.failed == ()
  scores = _scores(result)
  # MME's first figure is perception, of ten subtasks.
  assert len(scores) == {"pope": 7, "mme": 10}[name]
  assert min(scores, key=scores.__getitem__) == worst.key
