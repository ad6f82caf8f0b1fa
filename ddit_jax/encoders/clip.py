"""CLIP's text encoders L and G, as Stable Diffusion 3 uses them."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddit_jax.errors import check_bounds
from ddit_jax.models.config import MAX_WIDTH
from ddit_jax.models.layers import checked_dtype, for_stream, linear
from ddit_jax.models.module import PureModule
from ddit_jax.models.prenorm_block import (
  LayerNorm,
  PreNormConfig,
  check_activation,
  scanned_blocks,
)

_Tokens = Float[Array, "batch length width"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(PreNormConfig):
  """Shapes of one CLIP text encoder.

  Attributes:
    activation: of the MLP: "quick_gelu", x * sigmoid(1.702 x), or "gelu",
      the exact one.
    projection_dim: features of the pooled output.
    vocab_size: number of token ids; the highest one ends every text.
    max_length: rows of the learned position table.
  """

  activation: str
  projection_dim: int
  vocab_size: int = 49408
  max_length: int = 77

  def __post_init__(self):
    super().__post_init__()
    check_bounds(
      self, projection_dim=MAX_WIDTH, vocab_size=2**24, max_length=2**20
    )
    check_activation(self.activation)


# OpenAI's ViT-L/14 and OpenCLIP's ViT-bigG/14.
CLIP_SIZES: dict[str, CLIPTextConfig] = {
  "L": CLIPTextConfig(
    depth=12,
    width=768,
    num_heads=12,
    mlp_width=3072,
    activation="quick_gelu",
    projection_dim=768,
  ),
  "G": CLIPTextConfig(
    depth=32,
    width=1280,
    num_heads=20,
    mlp_width=5120,
    activation="gelu",
    projection_dim=1280,
  ),
}


@flax.struct.dataclass
class CLIPFeatures:
  """The outputs of a CLIP text encoder that Stable Diffusion 3 uses.

  Attributes:
    penultimate: output of the last block but one, without a norm.
    pooled: the normed last output at the text's end, projected.
  """

  penultimate: Float[Array, "batch length width"]
  pooled: Float[Array, "batch projection_dim"]


class CLIPTextEncoder(nn.Module):
  """Token ids to features; a token attends to itself and those before it.

  Attributes:
    config: shapes.
    dtype: dtype of the computation, "float32" or "bfloat16".
  """

  config: CLIPTextConfig
  dtype: str = "float32"

  @nn.compact
  def __call__(self, ids: Int[Array, "batch length"]) -> CLIPFeatures:
    """Features of token ids; each text must hold the highest id, its end.

    Raises:
      ValueError: the ids are not integers of shape [batch, length], or longer
        than the position table.
    """
    cfg, dtype = self.config, checked_dtype(self.dtype)
    tokens = for_stream(self._embed(ids, dtype))
    blocks = scanned_blocks(
      cfg,
      activation=cfg.activation,
      is_causal=True,
      dtype=dtype,
      name="blocks",
    )
    (tokens, penultimate), _ = blocks((tokens, tokens), None, None)
    normed = LayerNorm(cfg.epsilon, name="final_norm")(tokens)
    # Padding may repeat the end's id; argmax returns the first.
    end = jnp.argmax(ids, axis=1)
    at_end = jnp.take_along_axis(normed, end[:, None, None], axis=1)[:, 0]
    project = linear(
      cfg.projection_dim,
      ("embed", "width"),
      name="projection",
      dtype=dtype,
      use_bias=False,
    )
    return CLIPFeatures(penultimate=penultimate, pooled=project(at_end))

  def _embed(self, ids: Int[Array, "batch length"], dtype) -> _Tokens:
    cfg = self.config
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
      raise ValueError(
        "CLIP takes integer token ids of shape [batch, length], got "
        f"{ids.dtype} of shape {ids.shape}"
      )
    if ids.shape[1] > cfg.max_length:
      raise ValueError(
        f"text of {ids.shape[1]} tokens but CLIP has {cfg.max_length} "
        "positions: shorten the text"
      )
    tables = {
      name: self.param(
        name,
        nn.with_logical_partitioning(
          nn.initializers.normal(0.02), (axis, "embed")
        ),
        (num_rows, cfg.width),
        jnp.float32,
      )
      for name, axis, num_rows in (
        ("token_embedding", "vocab", cfg.vocab_size),
        ("position_embedding", "tokens", cfg.max_length),
      )
    }
    tokens = jnp.take(tables["token_embedding"], ids, axis=0)
    positions = tables["position_embedding"][None, : ids.shape[1]]
    return (tokens + positions).astype(dtype)


def clip_text_encoder(
  config: CLIPTextConfig,
  *,
  dtype: str = "float32",
  parameter_dtype: str = "float32",
) -> PureModule:
  """`CLIPTextEncoder` as pure functions: `apply(variables, ids)`.

  Args:
    config: shapes, for example `CLIP_SIZES["L"]`.
    dtype: dtype of the computation, "float32" or "bfloat16".
    parameter_dtype: dtype of the stored parameters, of the same two.

  Raises:
    ValueError: another dtype, such as float16.
  """
  checked_dtype(dtype)
  return PureModule(
    module=CLIPTextEncoder(config, dtype),
    example_inputs=(jax.ShapeDtypeStruct((1, 1), jnp.int32),),
    parameter_dtype=parameter_dtype,
  )


def join_context(
  clip_l: CLIPFeatures,
  clip_g: CLIPFeatures,
  t5: Float[Array, "batch t5_length t5_width"],
) -> tuple[
  Float[Array, "batch joint_length t5_width"], Float[Array, "batch pooled"]
]:
  """(context, pooled vector) of the MM-DiT (SD3 paper, figure 2).

  The features of both CLIP encoders are concatenated and padded with zeros to
  T5's width; T5's tokens follow. The pooled vectors are concatenated. Zeros in
  place of T5's features omit T5, as in SD3's training.

  Raises:
    ValueError: the CLIP features differ in length or are wider than T5's.
  """
  l_shape, g_shape = clip_l.penultimate.shape, clip_g.penultimate.shape
  if l_shape[:2] != g_shape[:2] or l_shape[0] != t5.shape[0]:
    raise ValueError(
      f"features of CLIP-L {l_shape}, CLIP-G {g_shape} and T5 {t5.shape} do "
      "not belong together: give all three the same batch and both CLIP "
      "encoders the same length"
    )
  clip = jnp.concatenate([clip_l.penultimate, clip_g.penultimate], axis=-1)
  missing = t5.shape[-1] - clip.shape[-1]
  if missing < 0:
    raise ValueError(
      f"CLIP's features, {clip.shape[-1]} together, are wider than T5's "
      f"{t5.shape[-1]}: use the encoders SD3 was trained with"
    )
  clip = jnp.pad(clip, ((0, 0), (0, 0), (0, missing)))
  context = jnp.concatenate([clip, t5.astype(clip.dtype)], axis=1)
  pooled = jnp.concatenate([clip_l.pooled, clip_g.pooled], axis=-1)
  return context, pooled
