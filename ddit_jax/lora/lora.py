"""Adapters beside a network's kernels: kernel + alpha / rank * down @ up.

An adapter of a kernel [layers, inputs..., outputs...] is {"down": [layers,
inputs..., rank], "up": [layers, rank, outputs...]}; a kernel that is not
scanned has no layers. q, k and v are one kernel here and share one "down".
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key

from ddit_jax.errors import check_choices
from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.module import Network, Variables

# Group of targets -> modules of a stream, and how many dimensions of their
# kernels are inputs.
_TARGETS: dict[str, dict[tuple[str, ...], int]] = {
  "attention": {("qkv",): 1, ("out",): 2},
  "mlp": {("mlp", "in"): 1, ("mlp", "out"): 1},
}
_SCANNED = "blocks"
_BLOCKS = (_SCANNED, "last_block")

# Path of a module ("blocks", "image", "qkv").
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Adapters of low rank on frozen weights: targeted kernels and rank.

  Attributes:
    rank: of each adapter; 0 trains the whole network. Other ranks keep the
      network that training starts from frozen.
    alpha: adapters are scaled by alpha / rank.
    targets: names joined by commas, which matrices of both streams get one:
      "attention" (q, k, v and output), "mlp".
  """

  rank: int = 0
  alpha: float = 16.0
  targets: Literal["attention", "mlp", "attention,mlp"] = "attention"

  def __post_init__(self):
    check_choices(self)
    if self.rank < 0:
      raise ValueError(f"rank is negative: {self.rank}; 0 is off")
    if self.alpha <= 0:
      raise ValueError(f"alpha must be positive, got {self.alpha}")

  @property
  def modules(self) -> dict[Path, int]:
    """The targets' modules, and how many dimensions of a kernel are inputs."""
    found = {}
    for target in self.targets.split(","):
      found |= _TARGETS[target]
    return found

  @property
  def scale(self) -> float:
    """The factor of down @ up."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TargetKernel:
  """A kernel that gets an adapter.

  Attributes:
    batch, inputs, outputs: its sizes.
    axes: the logical axis of each of its dimensions.
  """

  batch: tuple[int, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  axes: tuple[str | None, ...]

  def down_shape(self, rank: int) -> tuple[int, ...]:
    """[layers, inputs..., rank]."""
    return (*self.batch, *self.inputs, rank)

  def up_shape(self, rank: int) -> tuple[int, ...]:
    """[layers, rank, outputs...]."""
    return (*self.batch, rank, *self.outputs)

  def check_rank(self, path: Path, rank: int) -> None:
    """Raises ValueError if the adapter could not have this rank."""
    largest = min(math.prod(self.inputs), math.prod(self.outputs))
    if rank > largest:
      raise ValueError(
        f"lora.rank {rank} is larger than {'/'.join(path)} allows ({largest}): "
        "make it smaller"
      )


def _target_kernels(
  boxed_params: Any, config: LoraConfig
) -> dict[Path, _TargetKernel]:
  """The targeted kernels of both streams of all blocks, by module path.

  Args:
    boxed_params: abstract parameters with their `nn.LogicallyPartitioned`.
    config: targets and rank.

  Raises:
    ValueError: the rank is too large for one of them.
  """
  wanted, found = config.modules, {}
  for path, leaf in flatten_dict(boxed_params).items():
    block, name = path[0], path[-1]
    if block in _BLOCKS and name == "kernel" and path[2:-1] in wanted:
      shape = nn.unbox(leaf).shape
      first = int(block == _SCANNED)
      cut = first + wanted[path[2:-1]]
      found[path[:-1]] = _TargetKernel(
        batch=shape[:first],
        inputs=shape[first:cut],
        outputs=shape[cut:],
        axes=leaf.names,
      )
      found[path[:-1]].check_rank(path[:-1], config.rank)
  return found


def _init_adapters(
  key: Key[Array, ""], kernels: dict[Path, _TargetKernel], config: LoraConfig
) -> Any:
  """New adapters, boxed; "up" is zero, so the initial network is unchanged.

  "down" is uniform in +-1/sqrt(inputs), as in PEFT. Dimensions shared with a
  kernel have the kernel's sharding; the rank is never split.
  """
  tree = {}
  for index, (path, kernel) in enumerate(sorted(kernels.items())):
    bound = math.prod(kernel.inputs) ** -0.5
    down = jax.random.uniform(
      jax.random.fold_in(key, index),
      kernel.down_shape(config.rank),
      minval=-bound,
      maxval=bound,
    )
    up = jnp.zeros(kernel.up_shape(config.rank))
    num_batch = len(kernel.batch)
    cut = num_batch + len(kernel.inputs)
    down_axes = (*kernel.axes[:cut], None)
    up_axes = (*kernel.axes[:num_batch], None, *kernel.axes[cut:])
    tree[path] = {
      "down": nn.LogicallyPartitioned(down, down_axes),
      "up": nn.LogicallyPartitioned(up, up_axes),
    }
  return unflatten_dict(tree)


def merge(base: Any, adapters: Any, scale: float) -> Any:
  """The base's parameters with every adapter added to its kernel.

  Args:
    base: the network's parameters.
    adapters: from `_init_adapters`, unboxed, or trained.
    scale: `LoraConfig.scale`.
  """
  merged, flat = flatten_dict(base), flatten_dict(adapters)
  for path in {path[:-1] for path in flat}:
    kernel = merged[*path, "kernel"]
    change = _product(
      flat[*path, "down"],
      flat[*path, "up"],
      num_batch=int(path[0] == _SCANNED),
    )
    merged[*path, "kernel"] = kernel + scale * change
  return unflatten_dict(merged)


def _product(down: jax.Array, up: jax.Array, *, num_batch: int) -> jax.Array:
  """down @ up with all dimensions of the kernel, in full precision.

  Products of `rank` columns cost little, and a merged file must contain exactly
  the kernel that was trained.
  """
  batch = tuple(range(num_batch))
  return jax.lax.dot_general(
    down,
    up,
    (((down.ndim - 1,), (num_batch,)), (batch, batch)),
    precision=jax.lax.Precision.HIGHEST,
  )


# A dataclass again, so that equality, by which jit finds compiled functions,
# includes the adapters' config.
@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class LoraNetwork(Network):
  """A `Network` whose parameters are adapters alone.

  Its variables are {"params": adapters, "constants": the position table};
  `apply` also takes {"base": the frozen parameters}, which it neither creates
  nor counts.

  Attributes:
    network: the adapted network.
    lora: rank, scale and targets.
  """

  network: Network
  lora: LoraConfig

  def __init__(self, network: Network, lora: LoraConfig):
    """Raises ValueError if the rank is larger than a targeted kernel."""
    # The parent's dataclass is frozen.
    object.__setattr__(self, "network", network)
    object.__setattr__(self, "lora", lora)
    super().__init__(
      network.config,
      network.execution,
      parameter_dtype=network.parameter_dtype,
      placement=network.placement,
      has_mask_embedding=network.has_mask_embedding,
    )
    # Outside of any trace, for a plain message.
    _target_kernels(network._abstract_boxed["params"], lora)

  def apply(self, variables: Variables, *inputs, **options) -> Prediction:
    """Applies the network with the adapters merged; see `MMDiT`."""
    return self.network.apply(self.merged(variables), *inputs, **options)

  def text_logits(
    self,
    variables: Variables,
    text_hidden: Float[Array, "batch length features"],
  ) -> Float[Array, "batch length vocab"]:
    """The frozen text head; see `Network.text_logits`."""
    frozen = {"params": variables["base"]}
    return self.network.text_logits(frozen, text_hidden)

  def mask_embedding(self, variables: Variables) -> Float[Array, " features"]:
    """The frozen row; see `Network.mask_embedding`."""
    return self.network.mask_embedding({"params": variables["base"]})

  def merged(self, variables: Variables) -> Variables:
    """Variables of the network itself, equal to these."""
    params = merge(variables["base"], variables["params"], self.lora.scale)
    return {"params": params, "constants": variables["constants"]}

  def _boxed_init(self, key: Key[Array, ""]) -> Variables:
    base = super()._boxed_init(key)
    kernels = _target_kernels(base["params"], self.lora)
    adapters = _init_adapters(key, kernels, self.lora)
    return {"params": adapters, "constants": base["constants"]}
