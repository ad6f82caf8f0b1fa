"""Held-out rewards: logged beside the training reward, and a reason to stop."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddit_jax.batch import DualBatch
from ddit_jax.errors import InputError
from ddit_jax.monitor.metric_writer import MetricWriter, read_scalars
from ddit_jax.post_training.rollouts import HELD_OUT, Rollouts
from ddit_jax.train.loop import Progress


class HeldOutRewards:
  """Scores one draw for each held-out prompt; a loop hook.

  Its memory is the run's log, which a resumed run cuts at the restored step.

  Args:
    rollouts: of the run.
    batch: the validation batch on the mesh; the noise is always the same.
    writer: receives "held_out/TASK/REWARD" with its interval.
    folder: the workdir, where the log is.
  """

  def __init__(
    self,
    rollouts: Rollouts,
    batch: DualBatch,
    writer: MetricWriter,
    folder: pathlib.Path,
  ):
    self._rollouts, self._batch, self._writer = rollouts, batch, writer
    self._log = folder / "scalars.jsonl"
    self._max_falls = rollouts.config.max_falls_in_row

  def __call__(self, progress: Progress) -> None:
    """Raises InputError if a held-out reward fell while the reward rose."""
    scalars = self._rollouts.held_out(progress.state, self._batch)
    if not scalars:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    self._writer.write_scalars(progress.step, scalars)
    if not self._max_falls:
      return
    num_falls = {}
    if jax.process_index() == 0:
      log, weights = read_scalars(self._log), self._rollouts.reward_weights
      num_falls = falls_in_row(log, weights)
    most = max(num_falls.values(), default=0)
    if jax.process_count() > 1:
      most = int(multihost_utils.broadcast_one_to_all(np.int32(most)))
    if most > self._max_falls:
      raise InputError(
        f"step {progress.step}: a held-out reward lay below its best one at "
        f"{most} validations in a row ({num_falls or 'see process 0'}), while "
        "the training reward rose: take an earlier checkpoint, or start again "
        "with a larger kl_weight or other rewards"
      )


def falls_in_row(
  log: Sequence[Mapping[str, float]], weights: Mapping[str, float]
) -> dict[str, int]:
  """For each held-out reward, the last validations in a row at which it fell.

  It fell where its interval lies below that of the best validation before,
  and the mean of its task's weighted training rewards since the validation
  before is above that of the best one.

  Args:
    log: the lines of scalars.jsonl.
    weights: of the rewards that are trained on, by their names in the log.
  """
  names = {name for line in log for name in line if name.startswith(HELD_OUT)}
  means = {n for n in names if f"{n}/low" in names and f"{n}/high" in names}
  return {name: _falls_of(name, log, weights) for name in sorted(means)}


def _falls_of(
  name: str, log: Sequence[Mapping[str, float]], weights: Mapping[str, float]
) -> int:
  task = name.split("/")[1]
  own = {key: w for key, w in weights.items() if key.split("/")[1] == task}
  best, falls, rewards, reward = None, 0, [], -np.inf
  for line in log:
    if own and own.keys() <= line.keys():
      rewards.append(sum(w * line[key] for key, w in own.items()))
    if name not in line:
      continue
    reward = float(np.mean(rewards)) if rewards else reward
    now = line[name], line[f"{name}/low"], line[f"{name}/high"], reward
    is_fall = best is not None and now[2] < best[1] and now[3] > best[3]
    falls = falls + 1 if is_fall else 0
    if best is None or now[0] > best[0]:
      best = now
    rewards = []
  return falls
