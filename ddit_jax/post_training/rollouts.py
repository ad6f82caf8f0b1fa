"""A batch of prompts to a scored batch: draw, score on the host, compare.

What is drawn follows from the weights, the batch and the step's number alone.
So nothing of it is kept: a run that was stopped between or inside of these
three parts draws the same again.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key

from ddit_jax.batch import DualBatch
from ddit_jax.data.prefetch import from_mesh, to_mesh
from ddit_jax.data.text import answer_text, bare_question
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.losses.dual import CorruptedBatch, DualLoss
from ddit_jax.post_training.config import PostTraining
from ddit_jax.post_training.draws import Shown
from ddit_jax.post_training.image_draws import ImageDraws
from ddit_jax.post_training.pairs import ImagePairs, TextPairs
from ddit_jax.post_training.policy_loss import PolicyLoss
from ddit_jax.post_training.rewards import Outputs, score
from ddit_jax.post_training.text_draws import TextDraws
from ddit_jax.prng import key_for, root_key
from ddit_jax.sharding.rules import partition_spec
from ddit_jax.train.state import TrainState

# How the names of its scalars begin.
HELD_OUT, TRAINING = "held_out/", "reward/"
# Of a normal distribution: half the width of its 95 % interval.
_HALF_WIDTH = 1.96
# Task -> its stream of a corrupted batch.
_STREAMS = {"text_to_image": "images", "image_to_text": "texts"}

_Scalars = dict[str, Any]


class Rollouts:
  """Draws and scores, on the mesh and with the weights of training.

  Args:
    model: the network between its encoders.
    tokenizer: of the texts.
    config: the methods and their rewards.
    dual: the loss of a task without a method.
    null_tokens: the empty caption, [length].
    seed: of the run.
    mesh: of the run.

  Attributes:
    config: the methods.
    loss: of the scored batches.
  """

  def __init__(
    self,
    model,
    tokenizer: Tokenizer,
    config: PostTraining,
    dual: DualLoss,
    null_tokens: Int[np.ndarray, " length"],
    *,
    seed: int,
    mesh: Mesh,
  ):
    self.config, self.loss = config, PolicyLoss(config=config, dual=dual)
    self._model, self._tokenizer, self._mesh = model, tokenizer, mesh
    self._null_tokens, self._seed = null_tokens, seed
    self._rewards = {task: part.open() for task, part in config.parts.items()}
    drawers, pairs = self._drawers(), self._pairs()
    self._draws = {
      task: pairs.get(part.method, drawers[task])
      for task, part in config.parts.items()
    }
    self._held_out_draws = {
      task: drawers[task] for task, found in self._rewards.items() if found
    }
    rows = NamedSharding(mesh, partition_spec("batch"))
    self._draw = jax.jit(self._drawn, out_shardings=(None, rows))
    self._draw_held_out = jax.jit(self._held_out, out_shardings=rows)
    self._compare = jax.jit(self._compared)
    self._summarise = jax.jit(_summary, static_argnames=("names", "group_size"))

  def _drawers(self) -> dict[str, ImageDraws | TextDraws]:
    """What draws for each task."""
    images = ImageDraws(
      model=self._model,
      policy=self.config.text_to_image,
      flow_matching=self.loss.dual.flow_matching,
      null_tokens=self._null_tokens,
    )
    texts = TextDraws(
      model=self._model,
      policy=self.config.image_to_text,
      end_id=self._tokenizer.end_id,
    )
    return {"text_to_image": images, "image_to_text": texts}

  def _pairs(self) -> dict[str, ImagePairs | TextPairs]:
    """What takes the data's pairs instead, by method."""
    images = ImagePairs(
      model=self._model, flow_matching=self.loss.dual.flow_matching
    )
    texts = TextPairs(
      model=self._model,
      policy=self.config.image_to_text,
      end_id=self._tokenizer.end_id,
    )
    return {"dpo": images, "vrpo_pairs": texts}

  @property
  def reward_weights(self) -> dict[str, float]:
    """Weights of the rewards that are trained on, by their scalars' names."""
    return {
      _as_scalar(f"{TRAINING}{task}/{name}"): weight
      for task, part in self.config.parts.items()
      for name, weight in zip(part.rewards, part.weights, strict=False)
    }

  def __call__(
    self, state: TrainState, batch: DualBatch
  ) -> tuple[CorruptedBatch, _Scalars]:
    """The batch that `TrainStep.update` takes, and scalars for the log.

    Args:
      state: before the step; it is not donated.
      batch: prompts of the tasks with a method, data of the other.
    """
    drawn, shown = self._draw(state, batch)
    rewards, scalars = self._scored(shown)
    for task, values in rewards.items():
      size = self.config.parts[task].group_size
      scalars |= self._named(f"{TRAINING}{task}", task, values, size)
    return self._compare(state, batch, drawn, rewards), scalars

  def held_out(self, state: TrainState, batch: DualBatch) -> _Scalars:
    """Rewards of one draw for each prompt of `batch`, the same noise always."""
    rewards, scalars = self._scored(self._draw_held_out(state, batch))
    for task, values in rewards.items():
      scalars |= self._named(f"{HELD_OUT}{task}", task, values, 1)
    return scalars

  def _scored(self, shown: Mapping[str, Shown]):
    """Rewards [rows, kinds] of each task on the mesh, and their cost."""
    rewards, scalars = {}, {}
    for task, rows in shown.items():
      outputs = _outputs(self._tokenizer, from_mesh(rows))
      values, seconds = score(self._rewards[task], outputs)
      rewards[task] = to_mesh(values, self._mesh)
      for name, cost in seconds.items():
        scalars[f"reward_seconds/{task}/{_as_scalar(name)}"] = cost
    return rewards, scalars

  def _named(self, prefix: str, task: str, values, group_size: int) -> _Scalars:
    names = tuple(f"{prefix}/{_as_scalar(n)}" for n in self._rewards[task])
    return self._summarise(values, names=names, group_size=group_size)

  def _root(self) -> Key[Array, ""]:
    """The key that `TrainStep` has, too."""
    return key_for(root_key(self._seed), "training")

  def _drawn(self, state: TrainState, batch: DualBatch):
    """Draws of each task with a method, and what rewards see of them."""
    root, drawn, shown = self._root(), {}, {}
    for task, draws in self._draws.items():
      rows, size = getattr(batch, task), self.config.parts[task].group_size
      drawn[task], seen = draws.draw(
        state, rows, root, state.step, group_size=size
      )
      if seen is not None:
        shown[task] = seen
    return drawn, shown

  def _held_out(self, state: TrainState, batch: DualBatch):
    """What rewards see of one draw a prompt."""
    root, step = key_for(jax.random.key(0), "held_out"), jnp.int32(0)
    return {
      task: draws.draw(state, getattr(batch, task), root, step, group_size=1)[1]
      for task, draws in self._held_out_draws.items()
    }

  def _compared(
    self,
    state: TrainState,
    batch: DualBatch,
    drawn: Mapping[str, Any],
    rewards: Mapping[str, jax.Array],
  ) -> CorruptedBatch:
    """The scored draws; of a task without a method, its corrupted data."""
    root = self._root()
    scored = {
      _STREAMS[task]: draws.compare(state, drawn[task], rewards.get(task), root)
      for task, draws in self._draws.items()
    }
    rest = batch.replace(**dict.fromkeys(self._draws))
    corrupted = self.loss.dual.corrupt(
      rest,
      root,
      state.step,
      model=self._model,
      variables=state.variables(state.params),
      null_tokens=self._null_tokens,
    )
    return corrupted.replace(**scored)


def _outputs(tokenizer: Tokenizer, rows: Shown) -> Outputs:
  """What rewards see, as texts."""
  if rows.texts is None:
    prompts = [tokenizer.decode(row) for row in rows.prompts]
    blank = [""] * len(prompts)
    return Outputs(
      prompts=prompts, images=rows.images, texts=blank, references=prompts
    )
  asked = zip(rows.prompts, rows.is_prompt, strict=True)
  texts, references = (
    [
      answer_text(tokenizer, *row)
      for row in zip(tokens, rows.is_prompt, strict=True)
    ]
    for tokens in (rows.texts, rows.references)
  )
  return Outputs(
    prompts=[
      bare_question(tokenizer.decode(row[is_in])) for row, is_in in asked
    ],
    images=rows.images,
    texts=texts,
    references=references,
  )


def _as_scalar(name: str) -> str:
  """A reward's name in the log, whose names have no colon."""
  return name.replace(":", ".")


def _summary(
  rewards: Float[Array, "rows kinds"],
  *,
  names: tuple[str, ...],
  group_size: int,
) -> dict[str, Float[Array, ""]]:
  """{name: mean, name/low, name/high: its 95 % interval over prompts}."""
  kinds = rewards.shape[1]
  prompts = rewards.reshape(-1, group_size, kinds).mean(axis=1)
  mean, num_prompts = prompts.mean(axis=0), len(prompts)
  scalars = {name: mean[kind] for kind, name in enumerate(names)}
  if num_prompts > 1:
    error = prompts.std(axis=0, ddof=1) / jnp.sqrt(num_prompts)
    for kind, name in enumerate(names):
      half = _HALF_WIDTH * error[kind]
      scalars[f"{name}/low"] = mean[kind] - half
      scalars[f"{name}/high"] = mean[kind] + half
  return scalars
