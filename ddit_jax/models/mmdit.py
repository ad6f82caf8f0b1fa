"""The MM-DiT: embeddings of both modalities, joint blocks, two heads."""

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ddit_jax.errors import check_choices
from ddit_jax.models.attention import AttentionKernel
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import (
  PatchEmbedding,
  TokenEmbedding,
  VectorEmbedding,
  centred_crop,
  join_patches,
  sine_cosine_table,
  sinusoid,
)
from ddit_jax.models.joint_block import (
  JointBlock,
  Modulation,
  Tokens,
  Vector,
  modulate,
)
from ddit_jax.models.layers import (
  for_products,
  for_stream,
  layer_norm,
  linear,
)
from ddit_jax.models.remat import Remat, offloaded_names, remat_policy
from ddit_jax.sharding.rules import constrain


class ImageHead(nn.Module):
  """Final adaLN (scale and shift, no gate) and a linear map to patches.

  Attributes:
    patch_dim: values in a patch, patch_size ** 2 * channels.
    dtype: dtype of the computation.
  """

  patch_dim: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "batch tokens width"],
    vector: Float[Array, "batch width"],
  ) -> Float[Array, "batch tokens patch_dim"]:
    modulation = Modulation(
      rows=2, width=tokens.shape[-1], dtype=self.dtype, name="modulation"
    )
    scale, shift = modulation(vector)
    project = linear(
      self.patch_dim,
      ("embed", "channels"),
      name="project",
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros_init(),
    )
    return project(modulate(tokens, shift, scale))


class TextHead(nn.Module):
  """LayerNorm and a linear map to the vocabulary; independent of time.

  Attributes:
    vocab_size: one logit per tokenizer id.
    dtype: dtype of the computation.
  """

  vocab_size: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "batch length width"]
  ) -> Float[Array, "batch length vocab"]:
    project = linear(
      self.vocab_size,
      ("embed", "vocab"),
      name="project",
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros_init(),
    )
    logits = project(for_products(layer_norm(tokens)))
    return constrain(logits, "batch", "tokens", "vocab")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
  """How the network is executed; does not change the computed function.

  Attributes:
    dtype: of the computation; parameters are float32 in both.
    remat: what the backward pass recomputes of a block: "none", "full"
      (everything), "dots" (all but the linear maps), "save_attention" (all but
      the attention) or "save_all_but_qkv" (all but the attention and the linear
      maps, of which it recomputes queries, keys and values). "chip" is
      "save_all_but_qkv" on devices of 64 GiB and more, else "full".
    offload: names of tensors that such a `remat` saves, joined by commas, which
      wait for the backward pass in the host's memory: "modulation",
      "attention", "attention_out", "mlp_in", "mlp_out".
    scan_unroll: blocks per iteration of the scan.
    attention_kernel: see `attention.choose_kernel`.
  """

  dtype: Literal["float32", "bfloat16"] = "float32"
  remat: Remat = "none"
  offload: str = ""
  scan_unroll: int = 1
  attention_kernel: AttentionKernel = "auto"

  def __post_init__(self):
    check_choices(self)
    if self.scan_unroll < 1:
      raise ValueError(f"scan_unroll must be positive: {self.scan_unroll}")
    offloaded_names(self.remat, self.offload)


_KeysValues = Float[Array, "depth batch patches 2 heads head_dim"]


@flax.struct.dataclass
class ImageKeys:
  """What the text attends to of an image.

  Attributes:
    keys_values: of every block.
    is_key: False where a token is not attended to; None if all are.
  """

  keys_values: _KeysValues
  is_key: Bool[Array, "batch patches"] | None


@flax.struct.dataclass
class Prediction:
  """The network's outputs.

  Attributes:
    velocity: noise minus clean latents; None without an image or heads.
    logits: None without a text head.
    text_hidden: the text head's input.
    image_residual: what the blocks add to the image tokens.
    image_hidden: the image head's input; None if no block was run.
    image_keys: for a later call, if asked for.
  """

  velocity: Float[Array, "batch height width channels"] | None
  logits: Float[Array, "batch length vocab"] | None
  text_hidden: Float[Array, "batch length features"] | None = None
  image_residual: Float[Array, "batch patches hidden"] | None = None
  image_hidden: Float[Array, "batch patches hidden"] | None = None
  image_keys: ImageKeys | None = None


def _skipped_by_layer(
  layers: tuple[int, ...], rows: Bool[Array, " batch"] | None, depth: int
) -> Bool[Array, "depth batch"] | None:
  """True where a row leaves a block out; None if no row does.

  Args:
    layers: indices of the blocks, from 0.
    rows: which rows leave them out.
    depth: number of blocks.
  """
  if rows is None:
    return None
  is_listed = jnp.zeros(depth, bool).at[jnp.array(layers)].set(True)
  return is_listed[:, None] & rows[None]


def _joint_mask(
  is_image_key: Bool[Array, "batch patches"] | None, text_tokens: Tokens
) -> Bool[Array, "batch keys"] | None:
  """Which tokens may be attended to: those of the image, and the whole text."""
  if is_image_key is None:
    return None
  is_text_key = jnp.ones(text_tokens.shape[:2], bool)
  return jnp.concatenate([is_image_key, is_text_key], axis=1)


class MMDiT(nn.Module):
  """MM-DiT of SD3, with D-DiT's text head and null image (D-DiT section 3).

  Attributes:
    config: shapes and variants.
    execution: precision, rematerialisation, kernels.
  """

  config: MMDiTConfig
  execution: Execution = Execution()

  @nn.compact
  def __call__(
    self,
    latents: Float[Array, "batch height width channels"] | None,
    text: Float[Array, "batch length features"] | Int[Array, "batch length"],
    sigma: Float[Array, " batch"],
    pooled: Float[Array, "batch pooled"] | None = None,
    has_image: Bool[Array, " batch"] | None = None,
    skip_layers: tuple[int, ...] = (),
    is_skipping: Bool[Array, " batch"] | None = None,
    image_residual: Float[Array, "batch patches hidden"] | None = None,
    keeps_image_keys: bool = False,
    image_keys: ImageKeys | None = None,
  ) -> Prediction:
    """Predicts velocity and token logits.

    Args:
      latents: noisy or clean latents; None uses the learned null image.
      text: the text encoder's features, or token ids if the network embeds
        tokens itself (`config.context_dim` None).
      sigma: image time in [0, 1]; 0 when the image is a clean condition.
      pooled: SD3's pooled text vector; None omits its branch.
      has_image: False where the learned null image replaces the latents (the
        velocity of such rows is meaningless); None if all rows have an image.
      skip_layers: blocks that the rows of `is_skipping` leave out.
      is_skipping: True for those rows; None if there are none.
      image_residual: of an earlier call with latents close to these. It stands
        for all blocks (an approximation), and there are no logits.
      keeps_image_keys: True returns `image_keys`.
      image_keys: of an earlier call with these latents and a text close to
        this one. The image is not run then (an approximation), and there is no
        velocity.

    Raises:
      ValueError: shapes that do not match the configuration.
    """
    dtype = jnp.dtype(self.execution.dtype)
    image_tokens = self._image_tokens(latents, text.shape[0], dtype)
    vector = self._vector(sigma, pooled, dtype)
    if image_keys is not None:
      return self._text_alone(text, vector, image_keys, dtype)
    if image_residual is not None:
      tokens = image_tokens + image_residual.astype(dtype)
      velocity = self._velocity(latents, tokens, vector, dtype)
      return Prediction(velocity, None, image_residual=image_residual)
    text_tokens = self._text_tokens(text, dtype)
    image_tokens, is_image_key = self._or_null_image(image_tokens, has_image)
    skipped = _skipped_by_layer(skip_layers, is_skipping, self.config.depth)
    before = image_tokens
    (image_tokens, text_tokens), kept = self._run_blocks(
      *(image_tokens, text_tokens, vector, is_image_key, skipped, dtype),
      keeps_image_keys=keeps_image_keys,
    )
    return Prediction(
      velocity=self._velocity(latents, image_tokens, vector, dtype),
      logits=self._logits(text_tokens, dtype),
      text_hidden=text_tokens,
      image_residual=image_tokens - before,
      image_hidden=image_tokens,
      image_keys=ImageKeys(kept, is_image_key) if keeps_image_keys else None,
    )

  def _text_alone(self, text, vector, image_keys: ImageKeys, dtype):
    """The logits of a text beside an image that was run before."""
    tokens = self._text_tokens(text, dtype)
    (_, tokens), _ = self._run_blocks(
      *(tokens[:, :0], tokens, vector, image_keys.is_key, None, dtype),
      image_keys=image_keys.keys_values,
    )
    return Prediction(None, self._logits(tokens, dtype), text_hidden=tokens)

  def _image_tokens(self, latents, batch: int, dtype) -> Tokens:
    cfg = self.config
    table = self.variable(
      "constants",
      "position_table",
      lambda: jnp.asarray(
        sine_cosine_table(cfg.max_grid, cfg.width, cfg.base_grid)
      ),
    ).value
    # Created even if unused: the parameter tree must not depend on the inputs
    # of the first call.
    null_image = None
    if cfg.num_null_image_tokens:
      null_image = self.param(
        "null_image",
        nn.with_logical_partitioning(
          nn.initializers.normal(cfg.width**-0.5), ("positions", "embed")
        ),
        (cfg.num_null_image_tokens, cfg.width),
        jnp.float32,
      )
    embed = PatchEmbedding(
      cfg.width, cfg.patch_size, dtype, name="patch_embedding"
    )
    if latents is None:
      if null_image is None:
        raise ValueError("this network has no null image: give it latents")
      shape = (batch, *null_image.shape)
      return jnp.broadcast_to(null_image.astype(dtype), shape)
    if latents.shape[-1] != cfg.latent_channels:
      raise ValueError(
        f"latents have {latents.shape[-1]} channels, the network takes "
        f"{cfg.latent_channels}"
      )
    rows, columns = self._grid(latents)
    positions = centred_crop(table, rows, columns)
    tokens = embed(latents) + positions.astype(dtype)
    return for_stream(tokens)

  def _text_tokens(self, text, dtype) -> Tokens:
    cfg = self.config
    if cfg.context_dim is None:
      if not jnp.issubdtype(text.dtype, jnp.integer):
        raise ValueError(
          "this network embeds token ids itself but got features of dtype "
          f"{text.dtype}"
        )
      tokens = TokenEmbedding(
        cfg.vocab_size,
        cfg.max_text_length,
        cfg.width,
        dtype,
        name="token_embedding",
      )(text)
    else:
      if text.shape[-1] != cfg.context_dim or text.ndim != 3:
        raise ValueError(
          f"text features have shape {text.shape}, the network takes [batch, "
          f"length, {cfg.context_dim}]"
        )
      project = linear(
        cfg.width, ("channels", "embed"), name="context_embedding", dtype=dtype
      )
      tokens = project(text.astype(dtype))
    return for_stream(tokens)

  def _vector(self, sigma, pooled, dtype) -> Vector:
    """Time, and SD3's pooled text, as the vector that modulates all blocks."""
    width = self.config.width
    vector = VectorEmbedding(width, dtype, name="time_embedding")(
      sinusoid(sigma)
    )
    if self.config.pooled_dim:
      embed = VectorEmbedding(width, dtype, name="pooled_embedding")
      if pooled is not None:
        vector = vector + embed(pooled)
      elif self.is_initializing():
        embed(jnp.zeros((sigma.shape[0], self.config.pooled_dim), dtype))
    elif pooled is not None:
      raise ValueError("this network has no pooled-text branch (pooled_dim 0)")
    return vector

  def _or_null_image(
    self, image_tokens: Tokens, has_image: Bool[Array, " batch"] | None
  ) -> tuple[Tokens, Bool[Array, "batch tokens"] | None]:
    """Inserts the null image in rows without an image; (tokens, key mask).

    The null image fills the first tokens of such a row. The key mask hides the
    others, so the text is processed exactly as without latents. It is None if
    all rows have an image.
    """
    if has_image is None:
      return image_tokens, None
    null_image = self.get_variable("params", "null_image")
    num_tokens = image_tokens.shape[1]
    if null_image is None or len(null_image) > num_tokens:
      have = 0 if null_image is None else len(null_image)
      raise ValueError(
        f"has_image needs a null image of at most {num_tokens} tokens, as many "
        f"as there are patches; this network's has {have}"
      )
    null_image = nn.unbox(null_image).astype(image_tokens.dtype)
    missing = num_tokens - len(null_image)
    padded = jnp.pad(null_image, ((0, missing), (0, 0)))[None]
    is_null = (jnp.arange(num_tokens) < len(null_image))[None]
    tokens = jnp.where(has_image[:, None, None], image_tokens, padded)
    return tokens, has_image[:, None] | is_null

  def _run_blocks(
    self,
    image_tokens: Tokens,
    text_tokens: Tokens,
    vector,
    is_image_key: Bool[Array, "batch patches"] | None,
    skipped: Bool[Array, "depth batch"] | None,
    dtype,
    *,
    keeps_image_keys: bool = False,
    image_keys: _KeysValues | None = None,
  ) -> tuple[tuple[Tokens, Tokens], _KeysValues | None]:
    cfg, run = self.config, self.execution
    key_mask = _joint_mask(is_image_key, text_tokens)
    policy = remat_policy(run.remat, run.offload)
    block = JointBlock
    if policy is not None:
      block = nn.remat(JointBlock, prevent_cse=False, policy=policy)
    num_scanned = cfg.depth - (not cfg.is_last_text_block_full)
    first, rest = None, [None]
    if skipped is not None:
      first, rest = skipped[:num_scanned], skipped[num_scanned:]
    scanned = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, 0, 0),
      length=num_scanned,
      unroll=min(run.scan_unroll, num_scanned),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(
      *(cfg, True, dtype, run.attention_kernel, keeps_image_keys),
      name="blocks",
    )
    streams, kept = scanned(
      *((image_tokens, text_tokens), vector, key_mask, first), image_keys
    )
    if not cfg.is_last_text_block_full:
      last = block(cfg, False, dtype, run.attention_kernel, name="last_block")
      streams, _ = last(streams, vector, key_mask, rest[0])
    return streams, kept

  def _logits(self, text_tokens: Tokens, dtype):
    if not (self.config.vocab_size and self.config.has_heads):
      return None
    head = TextHead(self.config.vocab_size, dtype, name="text_head")
    return head(text_tokens)

  def _velocity(self, latents, image_tokens, vector, dtype):
    cfg = self.config
    if not cfg.has_heads:
      return None
    patch_dim = cfg.patch_size**2 * cfg.latent_channels
    head = ImageHead(patch_dim, dtype, name="image_head")
    # Called without latents too, so that its parameters always exist.
    patches = head(image_tokens, vector)
    if latents is None:
      return None
    return join_patches(
      patches, grid=self._grid(latents), patch_size=cfg.patch_size
    )

  def _grid(self, latents) -> tuple[int, int]:
    _, height, width, _ = latents.shape
    return height // self.config.patch_size, width // self.config.patch_size
