"""Attention of two joined streams: which kernel, on which part of the mesh.

`joint_attention` is what a block calls. It gives every device its examples and
heads under `jax.shard_map` and runs one of the kernels there:

- "xla": two products and a float32 softmax between them, left to XLA.
- "chunked": the same of a few heads at a time, for the caches of a CPU.
- "cudnn": NVIDIA's fused kernel, for half precision.
- "single_block": a Pallas kernel for short sequences on TPUs.
- "splash": the Pallas kernel of JAX for TPUs, see `splash`.
- "ring": XLA again, for tokens that are split over the mesh axis `context`. The
  other kernels need heads that split over it, see `context_attention`.

The scores of the XLA kernel go through memory in float32; those of the Pallas
kernels never do. All scores of a head fit a TPU core's memory at the 320 to 512
joint tokens of 256-pixel images, so one block holds them; at the 1,100 to 1,300
of 512 pixels they do not.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ddit_jax.errors import InputError
from ddit_jax.models.chunked_attention import chunked_attention
from ddit_jax.models.context_attention import (
  all_to_all_attention,
  ring_attention,
)
from ddit_jax.models.layers import pad_tokens
from ddit_jax.sharding.rules import divisible_spec, partition_spec

AttentionKernel = Literal[
  "auto", "xla", "chunked", "cudnn", "single_block", "splash", "ring"
]

# The remat name of the attention's result.
ATTENTION = "attention"

_CONTEXT = "context"

# Joint tokens up to and from which "auto" takes these kernels on a TPU.
_SINGLE_BLOCK_TOKENS, _SPLASH_TOKENS = 640, 1024
# And on a CPU.
_CHUNKED_TOKENS = 128

# `_`: the two streams may differ in length.
Heads = Float[Array, "batch _ heads head_dim"]
# And in rows: queries, keys and values; of tokens that ask nothing, keys and
# values alone.
StackedHeads = Float[Array, "batch _ _ heads head_dim"]


def joint_attention(
  image: StackedHeads,
  text: StackedHeads,
  *,
  kernel: AttentionKernel,
  key_mask: Bool[Array, "batch keys"] | None = None,
) -> tuple[Heads, Heads]:
  """Every query of both streams attends to all of their keys.

  Under `jax.set_mesh` each device computes its own examples and heads.

  Args:
    image: queries, keys and values of the image tokens, or keys and values
      alone.
    text: queries, keys and values of the text tokens.
    kernel: one that `choose_kernel` returned for them and the mesh.
    key_mask: True where a key may be attended to, image tokens first; None
      means everywhere. Every example needs one such key.

  Returns:
    What the queries of the image (none, if it has none) and of the text take
    up.
  """
  num_image, num_text = image.shape[1], text.shape[1]
  mesh_shape = _shape(jax.sharding.get_abstract_mesh())
  ways = mesh_shape.get(_CONTEXT, 1)
  if key_mask is None and (num_image % ways or num_text % ways):
    key_mask = jnp.ones((len(text), num_image + num_text), bool)
  masks = (None, None)
  if key_mask is not None:
    masks = key_mask[:, :num_image], key_mask[:, num_image:]
  parts = (image, masks[0]), (text, masks[1])
  if not mesh_shape:
    return _join_and_attend(*parts, kernel=kernel)
  parts = tuple(_padded(part, ways) for part in parts)
  specs = tuple(_part_specs(part, mesh_shape) for part in parts)
  # Pallas calls do not say over which axes their results vary.
  image_out, text_out = jax.shard_map(
    functools.partial(_join_and_attend, kernel=kernel, ways=ways),
    in_specs=specs,
    # Without the rows.
    out_specs=tuple(PartitionSpec(*s[:2], *s[3:]) for s, _ in specs),
    check_vma=False,
  )(*parts)
  return image_out[:, :num_image], text_out[:, :num_text]


def _padded(part, ways: int):
  """Tokens that split evenly; those added are keys that none may see."""

  def pad(array):
    return pad_tokens(array, ways * math.ceil(array.shape[1] / ways))

  return tuple(None if array is None else pad(array) for array in part)


def _part_specs(part, mesh_shape: dict[str, int]):
  """The split of one stream's stacked heads and key mask."""
  heads = divisible_spec(
    partition_spec("batch", "tokens", "rows", "heads", "head_dim"),
    part[0].shape,
    mesh_shape,
  )
  return heads, None if part[1] is None else PartitionSpec(*heads[:2])


def _join_and_attend(image, text, *, kernel: AttentionKernel, ways: int = 1):
  """Attention of the examples, heads and queries of one device."""
  streams, masks = zip(image, text, strict=True)
  mask = None if masks[0] is None else jnp.concatenate(masks, axis=1)
  if kernel == "single_block" and ways == 1:
    from ddit_jax.models.single_block import single_block_attention

    return single_block_attention(streams, key_mask=mask, remat_name=ATTENTION)
  num_queries = [0 if one.shape[2] == 2 else one.shape[1] for one in streams]
  query = jnp.concatenate(
    [one[:, :n, 0] for one, n in zip(streams, num_queries, strict=True)], axis=1
  )
  key, value = (
    jnp.concatenate([one[:, :, row] for one in streams], axis=1)
    for row in (-2, -1)
  )
  if kernel == "ring":
    attended = ring_attention(query, key, value, mask, _CONTEXT, ATTENTION)
  elif ways > 1:
    attended = all_to_all_attention(
      query,
      key,
      value,
      mask,
      axis=_CONTEXT,
      attend=functools.partial(attend, kernel=kernel),
    )
  else:
    attended = attend(query, key, value, mask, kernel=kernel)
  return attended[:, : num_queries[0]], attended[:, num_queries[0] :]


def attend(
  query: Float[Array, "batch queries heads head_dim"],
  key: Float[Array, "batch keys heads head_dim"],
  value: Float[Array, "batch keys heads head_dim"],
  key_mask: Bool[Array, "batch keys"] | None = None,
  *,
  kernel: AttentionKernel = "xla",
) -> Float[Array, "batch queries heads head_dim"]:
  """Softmax attention on one device, scaled by 1 / sqrt(head_dim).

  The softmax is in float32. The result carries the remat name `ATTENTION`.

  Args:
    query: queries of all heads.
    key: keys of all heads.
    value: values of all heads.
    key_mask: True where a key may be attended to; None means everywhere. Every
      example needs one such key.
    kernel: one that `choose_kernel` returned, but the ring.
  """
  if kernel == "splash":
    # Imported on first use: Pallas is large, and only TPUs need it.
    from ddit_jax.models.splash import splash_attention

    return splash_attention(
      query, key, value, key_mask=key_mask, checkpoint_name=ATTENTION
    )
  if kernel == "single_block":
    from ddit_jax.models.single_block import single_block_attention

    stacked = jnp.stack([query, key, value], axis=2)
    return single_block_attention(
      (stacked,), key_mask=key_mask, remat_name=ATTENTION
    )[0]
  if kernel == "chunked":
    attended = chunked_attention(query, key, value, key_mask=key_mask)
    return checkpoint_name(attended, ATTENTION)
  num_queries, mask = query.shape[1], None
  if key_mask is not None and kernel == "cudnn":
    # It takes even lengths only, and a mask of every query.
    query, key, value, key_mask = (
      pad_tokens(array, array.shape[1] + array.shape[1] % 2)
      for array in (query, key, value, key_mask)
    )
    shape = (len(query), 1, query.shape[1], key.shape[1])
    mask = jnp.broadcast_to(key_mask[:, None, None, :], shape)
  elif key_mask is not None:
    mask = key_mask[:, None, None, :]
  attended = jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation=kernel
  )
  return checkpoint_name(attended[:, :num_queries], ATTENTION)


def choose_kernel(
  kernel: AttentionKernel,
  *,
  num_tokens: int,
  num_heads: int,
  head_dim: int,
  dtype: DTypeLike,
  mesh: AbstractMesh,
) -> AttentionKernel:
  """The kernel that "auto" stands for; any other is checked and returned.

  Args:
    kernel: "xla", "chunked", "cudnn" (NVIDIA, half precision only),
      "single_block" and "splash" (TPU), "ring" (with `mesh.context` only) or
      "auto": the ring where the heads do not split over `mesh.context`, cuDNN's
      kernel for half precision on NVIDIA GPUs, on TPUs the Pallas kernel of
      short sequences for half precision and that of long ones, chunks of heads
      for long ones on a CPU, else XLA's.
    num_tokens: keys of an example, of both streams and all devices.
    num_heads: of all devices.
    head_dim: features of a head.
    dtype: of the queries.
    mesh: of devices that need not be attached; an empty one stands for one
      device of JAX's default platform.

  Raises:
    InputError: the kernel cannot run on the platform or the mesh.
  """
  if _is_ring(kernel, num_heads, _shape(mesh)):
    return "ring"
  platform = _platform(mesh)
  is_half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
  takes_cudnn = is_half and head_dim % 8 == 0 and head_dim <= 128
  if kernel == "auto":
    if platform == "gpu" and takes_cudnn:
      return "cudnn"
    if platform == "tpu" and num_tokens >= _SPLASH_TOKENS:
      return "splash"
    if platform == "tpu" and num_tokens <= _SINGLE_BLOCK_TOKENS and is_half:
      return "single_block"
    if platform == "cpu" and num_tokens >= _CHUNKED_TOKENS:
      return "chunked"
    return "xla"
  _check_platform(kernel, platform)
  if kernel == "cudnn" and not takes_cudnn:
    raise InputError(
      "model.execution.attention_kernel='cudnn' takes bfloat16 heads of 8, 16, "
      f"... 128 features, not {dtype} ones of {head_dim}: set "
      'model.execution.dtype="bfloat16" or attention_kernel="auto"'
    )
  return kernel


def _is_ring(
  kernel: AttentionKernel, num_heads: int, mesh_shape: dict[str, int]
) -> bool:
  ways, tensor = mesh_shape.get(_CONTEXT, 1), mesh_shape.get("tensor", 1)
  local_heads = num_heads if num_heads % tensor else num_heads // tensor
  setting = f"model.execution.attention_kernel={kernel!r}"
  if kernel == "ring" and ways == 1:
    raise InputError(
      f"{setting} needs tokens that are split: set mesh.context above 1, or "
      'the kernel to "auto"'
    )
  if kernel not in ("auto", "ring") and local_heads % ways:
    raise InputError(
      f"{setting} needs heads that split over mesh.context = {ways}, but a "
      f'device has {local_heads}: set it to "auto" or "ring"'
    )
  return kernel == "ring" or local_heads % ways > 0


def _check_platform(kernel: AttentionKernel, platform: str) -> None:
  tpu = dict.fromkeys(("single_block", "splash"), "tpu")
  needed = {"cudnn": "gpu", **tpu}.get(kernel, platform)
  if platform != needed:
    raise InputError(
      f"model.execution.attention_kernel={kernel!r} runs on a {needed}, not on "
      f'a {platform}: set it to "auto" or "xla"'
    )


def _shape(mesh: AbstractMesh) -> dict[str, int]:
  """Devices along each axis; empty for one device."""
  return {} if mesh.empty or mesh.size == 1 else dict(mesh.shape)


def _platform(mesh: AbstractMesh) -> str:
  """Of the devices that the traced program is for: "cpu", "gpu", "tpu"."""
  device = mesh.abstract_device
  platform = jax.default_backend() if device is None else device.platform
  return "gpu" if platform == "cuda" else platform
