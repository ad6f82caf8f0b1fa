"""The MM-DiT as pure functions of plain trees."""

import jax
import jax.numpy as jnp

from ddit_jax.models.mmdit import Execution, MMDiT, Prediction
from ddit_jax.models.pure_module import PureModule, Variables
from ddit_jax.models.sizes import MMDiTConfig


class Network(PureModule):
  """Initialisation, application and layout of one MM-DiT.

  Its variables are {"params": trained arrays, "constants": the stored position
  table}.
  """

  def __init__(
    self,
    config: MMDiTConfig,
    execution: Execution = Execution(),
    *,
    parameter_dtype: str = "float32",
  ):
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
