"""Named sizes of the MM-DiT, and the config of its shapes."""

import dataclasses

from ddit_jax.errors import check_bounds, check_divisible

# Far above any network; a damaged config could ask for billions.
MAX_DEPTH, MAX_GRID, MAX_WIDTH = 1024, 1024, 2**18


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
  """Shapes and variants of one MM-DiT (SD3 paper figure 2; D-DiT section 3).

  Every size has a bound far above published networks, so that a damaged or
  hostile config is refused before anything is built.

  Attributes:
    depth: number of joint blocks, at most 1024.
    width: features of both token streams.
    num_heads: attention heads; divides `width`.
    mlp_ratio: hidden features of an MLP divided by `width`.
    patch_size: side of a square patch, in latent pixels.
    latent_channels: channels of the latents (16 for SD3's autoencoder, 3 for
      pixels).
    max_grid: side of the stored position table, in patches.
    base_grid: grid side at which positions have their training scale, in
      patches.
    context_dim: features of the text encoder's output; None means that the
      text stream starts from its own token embedding (End-to-End variant).
    max_text_length: length of the learned text position table; only used
      when `context_dim` is None.
    vocab_size: rows of the text head, one per tokenizer id; 0 means that
      there is no text head (plain SD3).
    pooled_dim: features of SD3's pooled text vector; 0 means none (D-DiT).
    num_null_image_tokens: learned tokens that stand for a missing image;
      0 means that an image is always needed (plain SD3).
    is_last_text_block_full: False means that the last block's text stream
      stops at its attention, as in SD3 (`context_pre_only`).
    has_qk_norm: True adds RMS normalisation of queries and keys.
    gate_init: initial value of the residual gates' biases; 0 makes every
      block the identity (adaLN-Zero).
    has_heads: False leaves out both heads and the null image: a network whose
      image tokens are read after its last block.
  """

  depth: int
  width: int
  num_heads: int
  mlp_ratio: int = 4
  patch_size: int = 2
  latent_channels: int = 16
  max_grid: int = 192
  base_grid: int = 64
  context_dim: int | None = 4096
  max_text_length: int = 0
  vocab_size: int = 32100
  pooled_dim: int = 0
  num_null_image_tokens: int = 8
  is_last_text_block_full: bool = True
  has_qk_norm: bool = False
  gate_init: float = 0.0
  has_heads: bool = True

  def __post_init__(self):
    check_bounds(
      self,
      depth=MAX_DEPTH,
      width=MAX_WIDTH,
      num_heads=MAX_WIDTH,
      mlp_ratio=64,
      patch_size=64,
      latent_channels=MAX_WIDTH,
      max_grid=MAX_GRID,
      base_grid=MAX_GRID,
    )
    check_divisible(self, width="num_heads")
    if self.width % 4:
      raise ValueError(
        f"width {self.width} must be a multiple of 4: the position table has "
        "sine and cosine of two coordinates"
      )
    if self.context_dim is None and self.max_text_length < 1:
      raise ValueError(
        "a network without a text encoder (context_dim None) needs "
        f"max_text_length >= 1, got {self.max_text_length}"
      )
    if not self.is_last_text_block_full and self.vocab_size:
      raise ValueError("a text head needs is_last_text_block_full=True")

  @property
  def head_dim(self) -> int:
    return self.width // self.num_heads

  def first_blocks(self, count: int) -> "MMDiTConfig":
    """The first blocks without heads, to read the image tokens after them.

    Args:
      count: number of blocks; those of SD3 whose text stream is not full
        cannot end it.

    Raises:
      ValueError: there are fewer blocks.
    """
    most = self.depth - (not self.is_last_text_block_full)
    if not 1 <= count <= most:
      raise ValueError(
        f"block {count} cannot be read: this network's are numbered 1 to {most}"
      )
    return dataclasses.replace(
      self,
      depth=count,
      num_null_image_tokens=0,
      is_last_text_block_full=True,
      has_heads=False,
    )


def _pixel_size(depth: int, width: int, num_heads: int, grid: int, patch: int):
  """A from-scratch size on pixels with its own token embedding."""
  return MMDiTConfig(
    depth=depth,
    width=width,
    num_heads=num_heads,
    patch_size=patch,
    latent_channels=3,
    max_grid=grid,
    base_grid=grid,
    context_dim=None,
    max_text_length=64,
    vocab_size=64,
    has_qk_norm=True,
    gate_init=1.0,
  )


SIZES: dict[str, MMDiTConfig] = {
  # 16 x 16 pixels in 4 x 4 patches: the laptop quickstart.
  "tiny": _pixel_size(4, 96, 4, grid=4, patch=4),
  # 48 x 48 pixels in 4 x 4 patches: one accelerator, minutes.
  "small": _pixel_size(8, 384, 6, grid=12, patch=4),
  # D-DiT on SD3-medium and T5-XXL (the paper's main model).
  "sd3_medium": MMDiTConfig(depth=24, width=1536, num_heads=24),
  # The End-to-End variant (Table 9) on SD3's latents: GPT-2's ids and a learned
  # token embedding instead of T5. The paper gives 1.1 B parameters and the
  # tokenizer; depth and width are ours. The mask is GPT-2's vocabulary size,
  # 50257, appended as the last id.
  "end_to_end": MMDiTConfig(
    depth=20,
    width=1152,
    num_heads=18,
    context_dim=None,
    max_text_length=256,
    vocab_size=50258,
    has_qk_norm=True,
  ),
  # The graphs of both at toy size, for dry runs.
  "toy_sd3": MMDiTConfig(
    depth=2, width=32, num_heads=2, max_grid=8, base_grid=4, context_dim=24
  ),
  "toy_end_to_end": MMDiTConfig(
    depth=2,
    width=32,
    num_heads=2,
    max_grid=8,
    base_grid=4,
    context_dim=None,
    max_text_length=16,
    has_qk_norm=True,
  ),
  # Untouched SD3-medium, for baselines.
  "sd3_medium_base": MMDiTConfig(
    depth=24,
    width=1536,
    num_heads=24,
    vocab_size=0,
    pooled_dim=2048,
    num_null_image_tokens=0,
    is_last_text_block_full=False,
  ),
}


def size(name: str, **changes) -> MMDiTConfig:
  """The named size, with `changes` to its fields.

  Another `max_grid` keeps the distance of positions: `base_grid` follows.

  Raises:
    ValueError: no size has this name, or its fields do not fit together.
  """
  if name not in SIZES:
    raise ValueError(f"unknown model size {name!r}; there are {sorted(SIZES)}")
  base = SIZES[name]
  if "max_grid" in changes and "base_grid" not in changes:
    ratio = base.base_grid / base.max_grid
    changes["base_grid"] = max(1, round(changes["max_grid"] * ratio))
  return dataclasses.replace(base, **changes)
