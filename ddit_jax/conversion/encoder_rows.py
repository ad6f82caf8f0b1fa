"""The mapping table of T5, CLIP and the image autoencoder. Only data."""

from ddit_jax.conversion.rows import FreshRow, LeftOver, Row, Section, qkv_rows

_T5 = "encoder.block.{n}.layer."
_T5_BLOCK = (
  Row("attention_norm", "0.layer_norm", "norm"),
  *qkv_rows(
    "qkv", "0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v"
  ),
  Row("out", "0.SelfAttention.o", "heads_out"),
  Row("mlp_norm", "1.layer_norm", "norm"),
  Row("mlp_in", "1.DenseReluDense.wi_0", "one_row", {"r": 0}),
  Row("mlp_in", "1.DenseReluDense.wi_1", "one_row", {"r": 1}),
  Row("mlp_out", "1.DenseReluDense.wo", "linear"),
)
_T5_OUTER = (
  Row("params/token_embedding", "shared.weight", "matrix"),
  Row(
    "params/position_bias",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "matrix",
  ),
  Row("params/final_norm", "encoder.final_layer_norm", "norm"),
)

_CLIP_BLOCK = (
  Row("attention_norm", "layer_norm1", "norm"),
  *qkv_rows("qkv", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
  Row("out", "self_attn.out_proj", "heads_out"),
  Row("mlp_norm", "layer_norm2", "norm"),
  Row("mlp_in", "mlp.fc1", "linear"),
  Row("mlp_out", "mlp.fc2", "linear"),
)
_CLIP_LAYERS = Section(
  "params/blocks[n]/", "text_model.encoder.layers.{n}.", _CLIP_BLOCK, ("n",)
)
_CLIP_OUTER = (
  Row(
    "params/token_embedding",
    "text_model.embeddings.token_embedding.weight",
    "matrix",
  ),
  Row(
    "params/position_embedding",
    "text_model.embeddings.position_embedding.weight",
    "matrix",
  ),
  Row("params/final_norm", "text_model.final_layer_norm", "norm"),
)
_CLIP_PROJECTION = (Row("params/projection", "text_projection", "linear"),)

_RESNET_FOLDER = (
  Row("norm_1", "norm1", "norm"),
  Row("conv_1", "conv1", "conv"),
  Row("norm_2", "norm2", "norm"),
  Row("conv_2", "conv2", "conv"),
  Row("shortcut", "conv_shortcut", "conv"),
)
_RESNET_SINGLE = (
  *_RESNET_FOLDER[:4],
  Row("shortcut", "nin_shortcut", "conv"),
)
_ENDS_FOLDER = (
  Row("conv_in", "conv_in", "conv"),
  Row("norm_out", "conv_norm_out", "norm"),
  Row("conv_out", "conv_out", "conv"),
)
_ENDS_SINGLE = (
  Row("conv_in", "conv_in", "conv"),
  Row("norm_out", "norm_out", "norm"),
  Row("conv_out", "conv_out", "conv"),
)
_ATTENTION_FOLDER = (
  Row("norm", "group_norm", "norm"),
  Row("qkv", "to_q", "one_row", {"r": 0}),
  Row("qkv", "to_k", "one_row", {"r": 1}),
  Row("qkv", "to_v", "one_row", {"r": 2}),
  Row("out", "to_out.0", "linear"),
)
# The single file writes the attention's linear layers as 1 x 1 convolutions.
_ATTENTION_SINGLE = (
  Row("norm", "norm", "norm"),
  Row("qkv", "q", "one_row_conv", {"r": 0}),
  Row("qkv", "k", "one_row_conv", {"r": 1}),
  Row("qkv", "v", "one_row_conv", {"r": 2}),
  Row("out", "proj_out", "conv_linear"),
)


def _half_folder(half: str) -> tuple[Section, ...]:
  """Encoder or decoder of the image autoencoder in a diffusers folder."""
  ours, theirs = f"params/{half}/", f"{half}."
  step = {"encoder": "down", "decoder": "up"}[half]
  return (
    Section(ours, theirs, _ENDS_FOLDER),
    Section(
      ours + step + "_{i}/resnet_{j}/",
      theirs + step + "_blocks.{i}.resnets.{j}.",
      _RESNET_FOLDER,
      ("i", "j"),
    ),
    Section(
      ours + step + "_{i}/",
      theirs + step + "_blocks.{i}.",
      (Row(f"{step}sample", f"{step}samplers.0.conv", "conv"),),
      ("i",),
    ),
    Section(
      ours + "middle/resnet_{m}/",
      theirs + "mid_block.resnets.{m}.",
      _RESNET_FOLDER[:4],
      ("m",),
    ),
    Section(
      ours + "middle/attention/",
      theirs + "mid_block.attentions.0.",
      _ATTENTION_FOLDER,
    ),
  )


def _half_single(half: str) -> tuple[Section, ...]:
  """The same in the single file; {k} counts resolutions from its side."""
  ours, theirs = f"params/{half}/", f"{half}."
  step = {"encoder": "down", "decoder": "up"}[half]
  count = {"encoder": "{i}", "decoder": "{i_reversed}"}[half]
  return (
    Section(ours, theirs, _ENDS_SINGLE),
    Section(
      ours + step + "_{i}/resnet_{j}/",
      theirs + step + "." + count + ".block.{j}.",
      _RESNET_SINGLE,
      ("i", "j"),
    ),
    Section(
      ours + step + "_{i}/",
      theirs + step + "." + count + ".",
      (Row(f"{step}sample", f"{step}sample.conv", "conv"),),
      ("i",),
    ),
    Section(
      ours + "middle/resnet_{m}/",
      theirs + "mid.block_{m_from_one}.",
      _RESNET_SINGLE[:4],
      ("m",),
    ),
    Section(
      ours + "middle/attention/", theirs + "mid.attn_1.", _ATTENTION_SINGLE
    ),
  )


# naming -> every tensor of a component.
ENCODER_NAMINGS: dict[str, tuple[Section, ...]] = {
  "t5": (
    Section("", "", _T5_OUTER),
    Section("params/blocks[n]/", _T5, _T5_BLOCK, ("n",)),
  ),
  "clip": (
    Section("", "", _CLIP_OUTER + _CLIP_PROJECTION),
    _CLIP_LAYERS,
  ),
  "clip_without_projection": (Section("", "", _CLIP_OUTER), _CLIP_LAYERS),
  "folder_vae": _half_folder("encoder") + _half_folder("decoder"),
  "single_vae": _half_single("encoder") + _half_single("decoder"),
}


# naming -> what it has no tensors for.
ENCODER_FRESH: dict[str, tuple[FreshRow, ...]] = {
  # SD3's single file need not store CLIP-L's projection: the pooled vector is
  # used as it is.
  "clip_without_projection": (
    FreshRow("params/projection/kernel", "identity", "ip"),
  ),
}

_ANOTHER_COPY = "another copy of shared.weight, equal"
_CLIP_LEFT_OVER = (
  LeftOver("text_model.embeddings.position_ids", "0, 1, 2, ...: no weight"),
  LeftOver("logit_scale", "temperature of CLIP's training"),
)
# naming -> tensors that may be there and that nothing takes.
ENCODER_LEFT_OVER: dict[str, tuple[LeftOver, ...]] = {
  "t5": (
    LeftOver(
      "encoder.embed_tokens.weight", _ANOTHER_COPY, twin="shared.weight"
    ),
    LeftOver("logit_scale", "a number of CLIP's training, not of T5"),
  ),
  "clip": _CLIP_LEFT_OVER,
  "clip_without_projection": _CLIP_LEFT_OVER,
}
