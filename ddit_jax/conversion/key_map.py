"""Where every published tensor goes: our parameters and their keys, in tables.

A row of a table names one of our modules (a weight and, where it has one, a
bias) or a single array:

  our parameter | their key | rearrangement

`KEY_SCHEMES` joins the tables of a network and gives the prefixes of both
sides. Our paths are below params/, unless they begin with constants/. Numbers
in braces are counted: {n} blocks, which our arrays stack, {i} resolutions, {j}
and {m} residual layers. A row whose array our network does not have (a bias, a
shortcut) is skipped.

The rearrangement names a pattern of `rearrange`. A slice in brackets selects
rows of our array: q, k, v of `qkv`, or shift, scale, gate of a modulation.
"""

from typing import NamedTuple

# SD3 in diffusers' format, and D-DiT. {n} is a joint block.
_EMBEDDINGS = """
constants/position_table  pos_embed.pos_embed                         grid
patch_embedding/project   pos_embed.proj                              patch
time_embedding/linear_1   time_text_embed.timestep_embedder.linear_1  linear
time_embedding/linear_2   time_text_embed.timestep_embedder.linear_2  linear
context_embedding         context_embedder                            linear
"""
_POOLED_EMBEDDING = """
pooled_embedding/linear_1  time_text_embed.text_embedder.linear_1  linear
pooled_embedding/linear_2  time_text_embed.text_embedder.linear_2  linear
"""
_SD3_HEAD = """
image_head/modulation/project  norm_out.linear  rows
image_head/project             proj_out         linear
"""
_DDIT_HEADS = """
image_head/modulation/project  image_norm_out.linear  rows
image_head/project             image_proj_out         linear
text_head/project              text_proj_out          linear
null_image                     null_image_embd        tokens
"""
_BLOCK = """
image/modulation/project  norm1.linear           rows
image/qkv[0:1]            attn.to_q              heads
image/qkv[1:2]            attn.to_k              heads
image/qkv[2:3]            attn.to_v              heads
image/out                 attn.to_out.0          heads_out
image/mlp/in              ff.net.0.proj          linear
image/mlp/out             ff.net.2               linear
text/qkv[0:1]             attn.add_q_proj        heads
text/qkv[1:2]             attn.add_k_proj        heads
text/qkv[2:3]             attn.add_v_proj        heads
text/out                  attn.to_add_out        heads_out
text/mlp/in               ff_context.net.0.proj  linear
text/mlp/out              ff_context.net.2       linear
"""
_TEXT_MODULATION = """
text/modulation/project  norm1_context.linear  rows
"""
# SD3's last text stream has scale and shift only. In D-DiT's full block they
# become the first two of shift, scale, gate, ...
_LAST_TEXT_MODULATION_TO_DDIT = """
text/modulation/project[1::-1]  norm1_context.linear  rows
"""

# Stability's single file: q, k and v in one tensor.
_STABILITY_OUTER = """
constants/position_table             pos_embed                       grid
patch_embedding/project              x_embedder.proj                 patch
time_embedding/linear_1              t_embedder.mlp.0                linear
time_embedding/linear_2              t_embedder.mlp.2                linear
context_embedding                    context_embedder                linear
image_head/modulation/project[::-1]  final_layer.adaLN_modulation.1  rows
image_head/project                   final_layer.linear              linear
"""
_STABILITY_POOLED_EMBEDDING = """
pooled_embedding/linear_1  y_embedder.mlp.0  linear
pooled_embedding/linear_2  y_embedder.mlp.2  linear
"""
_STABILITY_BLOCK = """
image/modulation/project  x_block.adaLN_modulation.1  rows
image/qkv                 x_block.attn.qkv            heads
image/out                 x_block.attn.proj           heads_out
image/mlp/in              x_block.mlp.fc1             linear
image/mlp/out             x_block.mlp.fc2             linear
text/qkv                  context_block.attn.qkv      heads
text/out                  context_block.attn.proj     heads_out
text/mlp/in               context_block.mlp.fc1       linear
text/mlp/out              context_block.mlp.fc2       linear
"""
_STABILITY_MODULATION = """
text/modulation/project  context_block.adaLN_modulation.1  rows
"""
# It stores modulations of two rows as shift, scale; diffusers and we do not.
_STABILITY_LAST_MODULATION = """
text/modulation/project[::-1]  context_block.adaLN_modulation.1  rows
"""
_STABILITY_LAST_MODULATION_TO_DDIT = """
text/modulation/project[:2]  context_block.adaLN_modulation.1  rows
"""

# What SD3 lacks, in a table of initial weights. Biases start at zero.
# The zero gates leave SD3's image velocity as it is.
_NEW_IN_DDIT = """
text_head/project                          normal(0,0.02)            linear
null_image                                 normal(0,1/sqrt(width))   tokens
blocks/{last}/text/modulation/project[2:]  zeros                     rows
blocks/{last}/text/out                     normal(0,1/sqrt(inputs))  heads_out
blocks/{last}/text/mlp/in                  normal(0,1/sqrt(inputs))  linear
blocks/{last}/text/mlp/out                 normal(0,1/sqrt(inputs))  linear
"""

_T5_OUTER = """
token_embedding  shared.weight             matrix
final_norm       encoder.final_layer_norm  norm
"""
_T5_POSITION_BIAS = """
position_bias  relative_attention_bias.weight  matrix
"""
_T5_BLOCK = """
attention_norm  0.layer_norm           norm
qkv[0:1]        0.SelfAttention.q      heads
qkv[1:2]        0.SelfAttention.k      heads
qkv[2:3]        0.SelfAttention.v      heads
out             0.SelfAttention.o      heads_out
mlp_norm        1.layer_norm           norm
mlp_gate        1.DenseReluDense.wi_0  linear
mlp_in          1.DenseReluDense.wi_1  linear
mlp_out         1.DenseReluDense.wo    linear
"""

_CLIP_OUTER = """
token_embedding     text_model.embeddings.token_embedding.weight     matrix
position_embedding  text_model.embeddings.position_embedding.weight  matrix
final_norm          text_model.final_layer_norm                      norm
"""
_CLIP_PROJECTION = """
projection  text_projection  linear
"""
# Stability's file need not store CLIP-L's projection: SD3 does not use it.
_NEW_IN_CLIP = """
projection  identity  linear
"""
_CLIP_BLOCK = """
attention_norm  layer_norm1         norm
qkv[0:1]        self_attn.q_proj    heads
qkv[1:2]        self_attn.k_proj    heads
qkv[2:3]        self_attn.v_proj    heads
out             self_attn.out_proj  heads_out
mlp_norm        layer_norm2         norm
mlp_in          mlp.fc1             linear
mlp_out         mlp.fc2             linear
"""

_CLIP_VISION_OUTER = """
class_embedding     vision_model.embeddings.class_embedding            vector
patch_embedding     vision_model.embeddings.patch_embedding            patch
position_embedding  vision_model.embeddings.position_embedding.weight  matrix
first_norm          vision_model.pre_layrnorm                          norm
final_norm          vision_model.post_layernorm                        norm
projection          visual_projection                                  linear
"""

_GPT2_OUTER = """
token_embedding     wte.weight  matrix
position_embedding  wpe.weight  matrix
final_norm          ln_f        norm
"""
_GPT2_BLOCK = """
attention_norm  ln_1         norm
qkv             attn.c_attn  heads_inputs_first
out             attn.c_proj  heads_out_inputs_first
mlp_norm        ln_2         norm
mlp_in          mlp.c_fc     linear_inputs_first
mlp_out         mlp.c_proj   linear_inputs_first
"""

_VAE_ENDS = """
conv_in   conv_in        conv
norm_out  conv_norm_out  norm
conv_out  conv_out       conv
"""
_VAE_RESNET = """
norm_1    norm1          norm
conv_1    conv1          conv
norm_2    norm2          norm
conv_2    conv2          conv
shortcut  conv_shortcut  conv
"""
_VAE_ATTENTION = """
norm      group_norm  norm
qkv[0:1]  to_q        rows
qkv[1:2]  to_k        rows
qkv[2:3]  to_v        rows
out       to_out.0    linear
"""
# The linear layers of the attention are stored as 1 x 1 convolutions.
_STABILITY_VAE_ATTENTION = """
norm      norm      norm
qkv[0:1]  q         rows_1x1
qkv[1:2]  k         rows_1x1
qkv[2:3]  v         rows_1x1
out       proj_out  linear_1x1
"""
_VAE_KEYS = {
  "down": "down_blocks.{i}",
  "up": "up_blocks.{i}",
  "resnet": "resnets.{j}",
  "sample": "{}samplers.0.conv",
  "middle": "mid_block",
  "middle_resnet": "resnets.{m}.",
  "attention": "attentions.0.",
}
# Its decoder counts resolutions from the other end.
_STABILITY_VAE_KEYS = {
  "down": "down.{i}",
  "up": "up.{i_reversed}",
  "resnet": "block.{j}",
  "sample": "{}sample.conv",
  "middle": "mid",
  "middle_resnet": "block_{m_from_one}.",
  "attention": "attn_1.",
}


class Unused(NamedTuple):
  """Known tensors that are not converted.

  Attributes:
    pattern: shell pattern of their keys.
    reason: why they are not used.
    duplicate_of: key of the tensor that they must equal, or "".
  """

  pattern: str
  reason: str
  duplicate_of: str = ""


class _KeyScheme(NamedTuple):
  """All keys of one network.

  Attributes:
    tables: (our prefix, their prefix, table).
    new: table of newly initialised arrays.
    unused: tensors that may be present but are not used.
  """

  tables: tuple[tuple[str, str, str], ...]
  new: str = ""
  unused: tuple[Unused, ...] = ()


def _vae_tables(
  keys: dict[str, str], ends: str, resnet: str, attention: str
) -> tuple[tuple[str, str, str], ...]:
  """The tables of encoder and decoder, whose stages go down and up."""
  tables = []
  for half, step in (("encoder", "down"), ("decoder", "up")):
    ours, theirs = f"{half}/{step}_{{i}}/", f"{half}.{keys[step]}."
    sample = f"{step}sample {keys['sample'].format(step)} conv"
    middle = f"{half}.{keys['middle']}."
    tables += [
      (f"{half}/", f"{half}.", ends),
      (f"{ours}resnet_{{j}}/", f"{theirs}{keys['resnet']}.", resnet),
      (ours, theirs, sample),
      (f"{half}/middle/resnet_{{m}}/", middle + keys["middle_resnet"], resnet),
      (f"{half}/middle/attention/", middle + keys["attention"], attention),
    ]
  return tuple(tables)


_NO_POOLED = "pooled-text branch: D-DiT conditions on time alone"
_SD3_UNUSED = Unused("time_text_embed.text_embedder.linear_[12].*", _NO_POOLED)
_STABILITY_UNUSED = Unused("y_embedder.mlp.[02].*", _NO_POOLED)
_T5_UNUSED = (
  Unused(
    "encoder.embed_tokens.weight", "duplicate of shared.weight", "shared.weight"
  ),
  Unused("logit_scale", "a number of CLIP's training, not of T5"),
)
_CLIP_UNUSED = (
  Unused("*_model.embeddings.position_ids", "0, 1, 2, ...: no weight"),
  Unused("logit_scale", "temperature of CLIP's training"),
)
_CLIP_VISION_UNUSED = (
  *_CLIP_UNUSED,
  Unused("text_*", "CLIP's text encoder: the images' is converted"),
)
_GPT2_UNUSED = (
  Unused("h.*.attn.bias", "the causal mask: no weight"),
  Unused("h.*.attn.masked_bias", "a number of the causal mask"),
  Unused("lm_head.weight", "duplicate of wte.weight", "wte.weight"),
)
_N, _THEIR_N = "blocks/{n}/", "transformer_blocks.{n}."
_LAST, _THEIR_LAST = "blocks/{last}/", "transformer_blocks.{last}."
_STABILITY_N, _STABILITY_LAST = "joint_blocks.{n}.", "joint_blocks.{last}."
_CLIP_N = "text_model.encoder.layers.{n}."
_VISION_N = "vision_model.encoder.layers.{n}."

# "_to_ddit" reads SD3 into D-DiT, whose last block is complete.
KEY_SCHEMES: dict[str, _KeyScheme] = {
  "ddit": _KeyScheme(
    (
      ("", "", _EMBEDDINGS + _DDIT_HEADS),
      (_N, _THEIR_N, _BLOCK + _TEXT_MODULATION),
    )
  ),
  "sd3": _KeyScheme(
    (
      ("", "", _EMBEDDINGS + _POOLED_EMBEDDING + _SD3_HEAD),
      (_N, _THEIR_N, _BLOCK + _TEXT_MODULATION),
      ("last_block/", _THEIR_LAST, _BLOCK + _TEXT_MODULATION),
    )
  ),
  "sd3_to_ddit": _KeyScheme(
    (
      ("", "", _EMBEDDINGS + _SD3_HEAD),
      (_N, _THEIR_N, _BLOCK + _TEXT_MODULATION),
      (_LAST, _THEIR_LAST, _BLOCK + _LAST_TEXT_MODULATION_TO_DDIT),
    ),
    new=_NEW_IN_DDIT,
    unused=(_SD3_UNUSED,),
  ),
  "stability": _KeyScheme(
    (
      ("", "", _STABILITY_OUTER + _STABILITY_POOLED_EMBEDDING),
      (_N, _STABILITY_N, _STABILITY_BLOCK + _STABILITY_MODULATION),
      ("last_block/", _STABILITY_LAST, _STABILITY_BLOCK),
      ("last_block/", _STABILITY_LAST, _STABILITY_LAST_MODULATION),
    )
  ),
  "stability_to_ddit": _KeyScheme(
    (
      ("", "", _STABILITY_OUTER),
      (_N, _STABILITY_N, _STABILITY_BLOCK + _STABILITY_MODULATION),
      (_LAST, _STABILITY_LAST, _STABILITY_BLOCK),
      (_LAST, _STABILITY_LAST, _STABILITY_LAST_MODULATION_TO_DDIT),
    ),
    new=_NEW_IN_DDIT,
    unused=(_STABILITY_UNUSED,),
  ),
  "t5": _KeyScheme(
    (
      ("", "", _T5_OUTER),
      ("", "encoder.block.0.layer.0.SelfAttention.", _T5_POSITION_BIAS),
      (_N, "encoder.block.{n}.layer.", _T5_BLOCK),
    ),
    unused=_T5_UNUSED,
  ),
  "clip": _KeyScheme(
    (("", "", _CLIP_OUTER + _CLIP_PROJECTION), (_N, _CLIP_N, _CLIP_BLOCK)),
    unused=_CLIP_UNUSED,
  ),
  "clip_without_projection": _KeyScheme(
    (("", "", _CLIP_OUTER), (_N, _CLIP_N, _CLIP_BLOCK)),
    new=_NEW_IN_CLIP,
    unused=_CLIP_UNUSED,
  ),
  "clip_vision": _KeyScheme(
    (("", "", _CLIP_VISION_OUTER), (_N, _VISION_N, _CLIP_BLOCK)),
    unused=_CLIP_VISION_UNUSED,
  ),
  "gpt2": _KeyScheme(
    (("", "", _GPT2_OUTER), (_N, "h.{n}.", _GPT2_BLOCK)), unused=_GPT2_UNUSED
  ),
  "vae": _KeyScheme(
    _vae_tables(_VAE_KEYS, _VAE_ENDS, _VAE_RESNET, _VAE_ATTENTION)
  ),
  "stability_vae": _KeyScheme(
    _vae_tables(
      _STABILITY_VAE_KEYS,
      _VAE_ENDS.replace("conv_norm_out", "norm_out"),
      _VAE_RESNET.replace("conv_shortcut", "nin_shortcut"),
      _STABILITY_VAE_ATTENTION,
    )
  ),
}


class _CheckpointFormat(NamedTuple):
  """Where one published format stores each network.

  Attributes:
    letter: short name on the command line.
    title: name in messages.
    networks: our name of a network -> (folder, or prefix of the keys in the
      single file; key scheme).
    plain_folders: our folder of files that are only copied -> theirs.
    model_types: of a folder that is one network, by its config.json.
  """

  letter: str
  title: str
  networks: dict[str, tuple[str, str]]
  plain_folders: dict[str, str]
  model_types: tuple[str, ...] = ()


FORMATS: dict[str, _CheckpointFormat] = {
  "sd3_folder": _CheckpointFormat(
    "a",
    "diffusers folder of SD3",
    {
      "network": ("transformer", "sd3"),
      "text_encoder": ("text_encoder_3", "t5"),
      "vae": ("vae", "vae"),
      "clip_l": ("text_encoder", "clip"),
      "clip_g": ("text_encoder_2", "clip"),
    },
    {
      "tokenizer": "tokenizer_3",
      "tokenizer_clip_l": "tokenizer",
      "tokenizer_clip_g": "tokenizer_2",
      "scheduler": "scheduler",
    },
  ),
  "single_file": _CheckpointFormat(
    "b",
    "Stability's single file of SD3",
    {
      "network": ("model.diffusion_model.", "stability"),
      # Keys continue with "transformer.", except those of stray scalars.
      "text_encoder": ("text_encoders.t5xxl.", "t5"),
      "vae": ("first_stage_model.", "stability_vae"),
      "clip_l": ("text_encoders.clip_l.", "clip"),
      "clip_g": ("text_encoders.clip_g.", "clip"),
    },
    {},
  ),
  "ddit_folder": _CheckpointFormat(
    "c",
    "D-DiT folder",
    {
      "network": ("transformer", "ddit"),
      "text_encoder": ("text_encoder", "t5"),
      "vae": ("vae", "vae"),
    },
    {"tokenizer": "tokenizer", "scheduler": "scheduler"},
  ),
  "gpt2": _CheckpointFormat(
    *("g", "transformers folder of GPT-2", {"decoder": ("", "gpt2")}, {}),
    model_types=("gpt2",),
  ),
  "clip_vision": _CheckpointFormat(
    *("v", "transformers folder of CLIP"),
    *({"image_encoder": ("", "clip_vision")}, {}),
    model_types=("clip", "clip_vision_model"),
  ),
}
