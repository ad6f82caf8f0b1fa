"""The MM-DiT as pure functions of plain trees."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddit_jax.models.heads import TextHead
from ddit_jax.models.mmdit import Execution, MMDiT, Prediction
from ddit_jax.models.pure_module import PureModule, Variables
from ddit_jax.models.sizes import MMDiTConfig

# The row that stands for the mask in the text encoder's table, where training
# has one of its own (paper section 4.1).
MASK_EMBEDDING = "mask_embedding"


# A dataclass again, so that equality, by which jit finds compiled functions,
# sees the mask embedding too.
@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Network(PureModule):
  """Initialisation, application and layout of one MM-DiT.

  Its variables are {"params": trained arrays, "constants": the stored position
  table}.

  Attributes:
    has_mask_embedding: True keeps `MASK_EMBEDDING`, [context_dim], beside the
      parameters; the MM-DiT itself does not read it.
  """

  has_mask_embedding: bool

  def __init__(
    self,
    config: MMDiTConfig,
    execution: Execution = Execution(),
    *,
    parameter_dtype: str = "float32",
    has_mask_embedding: bool = False,
  ):
    """Raises ValueError for a mask embedding without a text encoder."""
    if has_mask_embedding and config.context_dim is None:
      raise ValueError(
        "model.has_mask_embedding needs a text encoder: this network embeds "
        "its tokens itself"
      )
    # The parent's dataclass is frozen.
    object.__setattr__(self, "has_mask_embedding", has_mask_embedding)
    super().__init__(
      module=MMDiT(config, execution),
      example_inputs=_smallest_inputs(config),
      parameter_dtype=parameter_dtype,
    )

  @property
  def config(self) -> MMDiTConfig:
    """Shapes and variants."""
    return self.module.config

  @property
  def execution(self) -> Execution:
    """Precision, rematerialisation, kernels."""
    return self.module.execution

  def apply(
    self,
    variables: Variables,
    latents,
    text,
    sigma,
    pooled=None,
    has_image=None,
  ) -> Prediction:
    """See `MMDiT.__call__`."""
    return self.module.apply(variables, latents, text, sigma, pooled, has_image)

  def text_logits(self, variables: Variables, text_hidden) -> jax.Array:
    """The text head alone, on any positions of `Prediction.text_hidden`."""
    dtype = jnp.dtype(self.execution.dtype)
    head = TextHead(self.config.vocab_size, dtype)
    return head.apply({"params": variables["params"]["text_head"]}, text_hidden)

  def mask_embedding(self, variables: Variables) -> jax.Array:
    """The mask's own row, [context_dim], of a network that has one."""
    return variables["params"][MASK_EMBEDDING]

  def _boxed_init(self, key: jax.Array) -> Variables:
    boxed = super()._boxed_init(key)
    if self.has_mask_embedding:
      row = jnp.zeros(self.config.context_dim, jnp.float32)
      boxed["params"][MASK_EMBEDDING] = nn.LogicallyPartitioned(
        row, ("channels",)
      )
    return boxed


def _smallest_inputs(config: MMDiTConfig) -> tuple[jax.ShapeDtypeStruct, ...]:
  """One patch and one token."""
  side = config.patch_size
  latents = (1, side, side, config.latent_channels)
  if config.context_dim is None:
    text = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  else:
    text = jax.ShapeDtypeStruct((1, 1, config.context_dim), jnp.float32)
  return (
    jax.ShapeDtypeStruct(latents, jnp.float32),
    text,
    jax.ShapeDtypeStruct((1,), jnp.float32),
  )
