"""CLIP's image encoder, a vision transformer (Radford et al. 2021)."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.errors import check_bounds, check_divisible
from ddit_jax.models.config import MAX_WIDTH
from ddit_jax.models.embeddings import split_patches
from ddit_jax.models.layers import checked_dtype, for_stream, linear
from ddit_jax.models.module import PureModule
from ddit_jax.models.prenorm_block import (
  LayerNorm,
  PreNormConfig,
  check_activation,
  scanned_blocks,
)

# Of the colours in 0..1 (CLIP's preprocessing).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(PreNormConfig):
  """Shapes of one CLIP image encoder.

  Attributes:
    patch_size: side of a square patch in pixels; divides `image_size`.
    image_size: side of the images in pixels.
    projection_dim: features of the pooled output.
    activation: of the MLP, see `CLIPTextConfig`.
  """

  patch_size: int
  projection_dim: int
  image_size: int = 224
  activation: str = "quick_gelu"

  def __post_init__(self):
    super().__post_init__()
    check_bounds(
      self, patch_size=1024, image_size=2**14, projection_dim=MAX_WIDTH
    )
    check_divisible(self, image_size="patch_size")
    check_activation(self.activation)

  @property
  def num_tokens(self) -> int:
    """Patches of an image, and the class token before them."""
    return (self.image_size // self.patch_size) ** 2 + 1


# OpenAI's ViT-L/14, and one for dry runs.
CLIP_VISION_SIZES: dict[str, CLIPVisionConfig] = {
  "L": CLIPVisionConfig(
    depth=24,
    width=1024,
    num_heads=16,
    mlp_width=4096,
    patch_size=14,
    projection_dim=768,
  ),
  "toy": CLIPVisionConfig(
    depth=2,
    width=32,
    num_heads=2,
    mlp_width=64,
    patch_size=8,
    projection_dim=16,
    image_size=32,
  ),
}


@flax.struct.dataclass
class CLIPImageFeatures:
  """The outputs of a CLIP image encoder.

  Attributes:
    image_hidden: tokens after the last block, without a norm: the class token,
      then patches.
    pooled: the normed class token, projected.
  """

  image_hidden: Float[Array, "batch tokens width"]
  pooled: Float[Array, "batch projection_dim"]


class CLIPVisionEncoder(nn.Module):
  """Pixels to features.

  Attributes:
    config: shapes.
    dtype: dtype of the computation, "float32" or "bfloat16".
  """

  config: CLIPVisionConfig
  dtype: str = "float32"

  @nn.compact
  def __call__(
    self, pixels: Float[Array, "batch height width 3"]
  ) -> CLIPImageFeatures:
    """Features of images whose values were shifted and scaled, see `normed`.

    Raises:
      ValueError: the images have another size.
    """
    cfg, dtype = self.config, checked_dtype(self.dtype)
    tokens = for_stream(self._embed(pixels, dtype))
    tokens = LayerNorm(cfg.epsilon, name="first_norm")(tokens)
    blocks = scanned_blocks(
      cfg,
      activation=cfg.activation,
      is_causal=False,
      dtype=dtype,
      name="blocks",
    )
    (tokens, _), _ = blocks((tokens, tokens), None, None)
    normed = LayerNorm(cfg.epsilon, name="final_norm")(tokens[:, :1])
    project = linear(
      cfg.projection_dim,
      ("embed", "width"),
      name="projection",
      dtype=dtype,
      use_bias=False,
    )
    return CLIPImageFeatures(image_hidden=tokens, pooled=project(normed[:, 0]))

  def _embed(self, pixels, dtype):
    cfg, side = self.config, self.config.image_size
    if pixels.shape[1:3] != (side, side):
      raise ValueError(
        f"this CLIP reads images of {side} x {side} pixels, got "
        f"{pixels.shape[1]} x {pixels.shape[2]}: set image_size={side}"
      )
    project = linear(
      cfg.width,
      ("channels", "embed"),
      name="patch_embedding",
      dtype=dtype,
      use_bias=False,
    )
    patches = project(split_patches(pixels.astype(dtype), cfg.patch_size))
    init = nn.initializers.normal(cfg.width**-0.5)
    first = self.param(
      "class_embedding",
      nn.with_logical_partitioning(init, ("embed",)),
      (cfg.width,),
      jnp.float32,
    )
    positions = self.param(
      "position_embedding",
      nn.with_logical_partitioning(init, ("positions", "embed")),
      (cfg.num_tokens, cfg.width),
      jnp.float32,
    )
    shape = (len(pixels), 1, cfg.width)
    first = jnp.broadcast_to(first.astype(dtype), shape)
    tokens = jnp.concatenate([first, patches], axis=1)
    return tokens + positions[None].astype(dtype)


def normed(
  pixels: Float[Array, "batch height width 3"],
) -> Float[Array, "batch height width 3"]:
  """Colours in 0..1 as CLIP reads them."""
  mean, std = (jnp.array(x)[None, None, None] for x in (_MEAN, _STD))
  return (pixels - mean) / std


def clip_vision_encoder(
  config: CLIPVisionConfig,
  *,
  dtype: str = "float32",
  parameter_dtype: str = "float32",
) -> PureModule:
  """`CLIPVisionEncoder` as pure functions: `apply(variables, pixels)`.

  Args:
    config: shapes, for example `CLIP_VISION_SIZES["L"]`.
    dtype: dtype of the computation, "float32" or "bfloat16".
    parameter_dtype: dtype of the stored parameters, of the same two.

  Raises:
    ValueError: another dtype, such as float16.
  """
  checked_dtype(dtype)
  side = config.image_size
  return PureModule(
    module=CLIPVisionEncoder(config, dtype),
    example_inputs=(jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),),
    parameter_dtype=parameter_dtype,
  )
