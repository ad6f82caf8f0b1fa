"""The trained network, as Flax Linen modules.

In reading order:

- `config`: shapes and named sizes.
- `mmdit`: the whole network and its two heads.
- `joint_block`: one block, two streams that attend jointly.
- `attention`: the kernels of joint attention, on a mesh.
- `chunked_attention`: a few heads at a time, for the caches of a CPU.
- `single_block`: the kernel of short sequences on TPUs.
- `splash`: that of long ones.
- `context_attention`: attention over tokens that are split.
- `prenorm_block`: the block of CLIP and of GPT-2.
- `gpt2`: a causal language model.
- `captioner`: GPT-2 that continues an image's features.
- `remat`: what the backward pass recomputes of a block.
- `embeddings`: patches, positions, tokens, times.
- `layers`: linear maps and norms.
- `module`: any Linen module as pure functions of a plain parameter tree.
- `flops`: floating-point operations of one pass.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "config": ["MMDiTConfig", "size"],
    "mmdit": ["Execution", "MMDiT", "Prediction"],
    "module": ["Network", "PureModule"],
  },
)
