"""The mapping table of the MM-DiT: diffusers', D-DiT's and Stability's names.

Only data. `..._into_ddit` are SD3's names read into D-DiT, whose last block is
a full one and which has no pooled-text branch.
"""

from ddit_jax.conversion.rows import FreshRow, LeftOver, Row, Section, qkv_rows

_IMAGE_FOLDER = (
  Row("image/modulation/project", "norm1.linear", "rows"),
  *qkv_rows("image/qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
  Row("image/out", "attn.to_out.0", "heads_out"),
  Row("image/mlp/in", "ff.net.0.proj", "linear"),
  Row("image/mlp/out", "ff.net.2", "linear"),
)
_TEXT_QKV_FOLDER = qkv_rows(
  "text/qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"
)
_TEXT_FOLDER = (
  Row("text/modulation/project", "norm1_context.linear", "rows"),
  *_TEXT_QKV_FOLDER,
  Row("text/out", "attn.to_add_out", "heads_out"),
  Row("text/mlp/in", "ff_context.net.0.proj", "linear"),
  Row("text/mlp/out", "ff_context.net.2", "linear"),
)
# SD3's last text stream: two rows, scale before shift here as in our
# two-row modulations.
_LAST_TEXT_FOLDER = (
  Row("text/modulation/project", "norm1_context.linear", "rows"),
  *_TEXT_QKV_FOLDER,
)
# Into a full block's six rows, which begin with shift, scale.
_FIRST_ROWS = {"r": slice(0, 2)}
_LAST_TEXT_FOLDER_INTO_FULL = (
  Row(
    "text/modulation/project",
    "norm1_context.linear",
    "reversed_rows",
    _FIRST_ROWS,
  ),
  *_TEXT_QKV_FOLDER,
)
_OUTER_FOLDER = (
  Row("constants/position_table", "pos_embed.pos_embed", "position_table"),
  Row("params/patch_embedding/project", "pos_embed.proj", "patch"),
  Row(
    "params/time_embedding/linear_1",
    "time_text_embed.timestep_embedder.linear_1",
    "linear",
  ),
  Row(
    "params/time_embedding/linear_2",
    "time_text_embed.timestep_embedder.linear_2",
    "linear",
  ),
  Row("params/context_embedding", "context_embedder", "linear"),
)
_POOLED_FOLDER = (
  Row(
    "params/pooled_embedding/linear_1",
    "time_text_embed.text_embedder.linear_1",
    "linear",
  ),
  Row(
    "params/pooled_embedding/linear_2",
    "time_text_embed.text_embedder.linear_2",
    "linear",
  ),
)
_IMAGE_HEAD_FOLDER = (
  Row("params/image_head/modulation/project", "norm_out.linear", "rows"),
  Row("params/image_head/project", "proj_out", "linear"),
)
_HEADS_DDIT = (
  Row("params/image_head/modulation/project", "image_norm_out.linear", "rows"),
  Row("params/image_head/project", "image_proj_out", "linear"),
  Row("params/text_head/project", "text_proj_out", "linear"),
  Row("params/null_image", "null_image_embd", "tokens"),
)

_IMAGE_SINGLE = (
  Row("image/modulation/project", "x_block.adaLN_modulation.1", "rows"),
  Row("image/qkv", "x_block.attn.qkv", "fused_heads"),
  Row("image/out", "x_block.attn.proj", "heads_out"),
  Row("image/mlp/in", "x_block.mlp.fc1", "linear"),
  Row("image/mlp/out", "x_block.mlp.fc2", "linear"),
)
_TEXT_QKV_SINGLE = (Row("text/qkv", "context_block.attn.qkv", "fused_heads"),)
_TEXT_SINGLE = (
  Row("text/modulation/project", "context_block.adaLN_modulation.1", "rows"),
  *_TEXT_QKV_SINGLE,
  Row("text/out", "context_block.attn.proj", "heads_out"),
  Row("text/mlp/in", "context_block.mlp.fc1", "linear"),
  Row("text/mlp/out", "context_block.mlp.fc2", "linear"),
)
# The single file stores two-row modulations as shift, scale.
_LAST_TEXT_SINGLE = (
  Row(
    "text/modulation/project",
    "context_block.adaLN_modulation.1",
    "reversed_rows",
  ),
  *_TEXT_QKV_SINGLE,
)
_LAST_TEXT_SINGLE_INTO_FULL = (
  Row(
    "text/modulation/project",
    "context_block.adaLN_modulation.1",
    "rows",
    _FIRST_ROWS,
  ),
  *_TEXT_QKV_SINGLE,
)
_OUTER_SINGLE = (
  Row("constants/position_table", "pos_embed", "position_table"),
  Row("params/patch_embedding/project", "x_embedder.proj", "patch"),
  Row("params/time_embedding/linear_1", "t_embedder.mlp.0", "linear"),
  Row("params/time_embedding/linear_2", "t_embedder.mlp.2", "linear"),
  Row("params/context_embedding", "context_embedder", "linear"),
  Row(
    "params/image_head/modulation/project",
    "final_layer.adaLN_modulation.1",
    "reversed_rows",
  ),
  Row("params/image_head/project", "final_layer.linear", "linear"),
)
_POOLED_SINGLE = (
  Row("params/pooled_embedding/linear_1", "y_embedder.mlp.0", "linear"),
  Row("params/pooled_embedding/linear_2", "y_embedder.mlp.2", "linear"),
)

_FOLDER_BLOCK = "transformer_blocks.{n}."
_FOLDER_LAST = "transformer_blocks.{last}."
_SINGLE_BLOCK = "joint_blocks.{n}."
_SINGLE_LAST = "joint_blocks.{last}."
_OUR_BLOCK = "params/blocks[n]/"
_OUR_LAST = "params/last_block/"
_OUR_LAST_FULL = "params/blocks[last]/"

# naming -> every tensor of the network.
NETWORK_NAMINGS: dict[str, tuple[Section, ...]] = {
  "ddit_network": (
    Section("", "", _OUTER_FOLDER + _HEADS_DDIT),
    Section(_OUR_BLOCK, _FOLDER_BLOCK, _IMAGE_FOLDER + _TEXT_FOLDER, ("n",)),
  ),
  "sd3_network": (
    Section("", "", _OUTER_FOLDER + _POOLED_FOLDER + _IMAGE_HEAD_FOLDER),
    Section(_OUR_BLOCK, _FOLDER_BLOCK, _IMAGE_FOLDER + _TEXT_FOLDER, ("n",)),
    Section(_OUR_LAST, _FOLDER_LAST, _IMAGE_FOLDER + _LAST_TEXT_FOLDER),
  ),
  "sd3_network_into_ddit": (
    Section("", "", _OUTER_FOLDER + _IMAGE_HEAD_FOLDER),
    Section(_OUR_BLOCK, _FOLDER_BLOCK, _IMAGE_FOLDER + _TEXT_FOLDER, ("n",)),
    Section(
      _OUR_LAST_FULL,
      _FOLDER_LAST,
      _IMAGE_FOLDER + _LAST_TEXT_FOLDER_INTO_FULL,
    ),
  ),
  "single_network": (
    Section("", "", _OUTER_SINGLE + _POOLED_SINGLE),
    Section(_OUR_BLOCK, _SINGLE_BLOCK, _IMAGE_SINGLE + _TEXT_SINGLE, ("n",)),
    Section(_OUR_LAST, _SINGLE_LAST, _IMAGE_SINGLE + _LAST_TEXT_SINGLE),
  ),
  "single_network_into_ddit": (
    Section("", "", _OUTER_SINGLE),
    Section(_OUR_BLOCK, _SINGLE_BLOCK, _IMAGE_SINGLE + _TEXT_SINGLE, ("n",)),
    Section(
      _OUR_LAST_FULL,
      _SINGLE_LAST,
      _IMAGE_SINGLE + _LAST_TEXT_SINGLE_INTO_FULL,
    ),
  ),
}

_FRESH_DDIT = (
  FreshRow("params/text_head/project/kernel", "normal(0, 0.02)", "iv"),
  FreshRow("params/text_head/project/bias", "zeros", "v"),
  FreshRow("params/null_image", "normal(0, 1/sqrt(w))", "nw"),
  # Zero gates: the last block's text side changes nothing at the start, and
  # the image velocity is SD3's own.
  FreshRow(
    "params/blocks[last]/text/modulation/project/kernel",
    "zeros",
    "irw",
    {"r": slice(2, 6)},
  ),
  FreshRow(
    "params/blocks[last]/text/modulation/project/bias",
    "zeros",
    "rw",
    {"r": slice(2, 6)},
  ),
  FreshRow(
    "params/blocks[last]/text/out/kernel", "normal(0, 1/sqrt(o))", "hdo"
  ),
  FreshRow("params/blocks[last]/text/out/bias", "zeros", "o"),
  FreshRow(
    "params/blocks[last]/text/mlp/in/kernel", "normal(0, 1/sqrt(i))", "io"
  ),
  FreshRow("params/blocks[last]/text/mlp/in/bias", "zeros", "o"),
  FreshRow(
    "params/blocks[last]/text/mlp/out/kernel", "normal(0, 1/sqrt(i))", "io"
  ),
  FreshRow("params/blocks[last]/text/mlp/out/bias", "zeros", "o"),
)
# naming -> what it has no tensors for.
NETWORK_FRESH: dict[str, tuple[FreshRow, ...]] = {
  "sd3_network_into_ddit": _FRESH_DDIT,
  "single_network_into_ddit": _FRESH_DDIT,
}


_NO_POOLED = "pooled-text branch: D-DiT conditions on time alone"
# naming -> tensors that may be there and that nothing takes.
NETWORK_LEFT_OVER: dict[str, tuple[LeftOver, ...]] = {
  "sd3_network_into_ddit": (
    LeftOver("time_text_embed.text_embedder.linear_[12].*", _NO_POOLED),
  ),
  "single_network_into_ddit": (LeftOver("y_embedder.mlp.[02].*", _NO_POOLED),),
}
