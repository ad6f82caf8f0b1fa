"""What a training step needs of a loss, whatever it trains."""

from typing import Any, Protocol, runtime_checkable

import jax

from ddit_jax.batch import DualBatch
from ddit_jax.losses.time_buckets import Buckets


@runtime_checkable
class Loss(Protocol):
  """What is differentiated in a step.

  A corrupted batch is a tree of arrays whose first axis counts examples; each
  carries its weight in the global batch, so that losses of parts add up.
  """

  def losses(
    self, model: Any, variables: Any, corrupted: Any
  ) -> tuple[dict[str, jax.Array], dict[str, Buckets]]:
    """Losses by name, and losses in buckets, of a batch or of a part."""

  def total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """The number that is minimised."""

  def alone(self, corrupted: Any) -> dict[str, Any]:
    """The batch of each task by its name; {"both": all} if it is not split."""


@runtime_checkable
class Objective(Loss, Protocol):
  """A loss with all random draws that come before it."""

  def corrupt(
    self,
    batch: DualBatch,
    root: jax.Array,
    step: jax.Array,
    *,
    model: Any,
    variables: Any,
    null_tokens: jax.typing.ArrayLike,
  ) -> Any:
    """All random draws of one step, over the global batch."""

  def for_validation(self) -> "Objective":
    """The same loss with diffusion times that form a grid."""
