"""Tiny checkpoints in all three formats, made by PyTorch's own classes.

The diffusers folder is saved by diffusers and transformers; the single file
and the D-DiT folder are rewritten from it by slow, literal rules that share
nothing with the mapping table.
"""

import json
import pathlib
import re

import diffusers
import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.torch
import torch
import transformers

from ddit_jax.data.tokenizers import word_tokenizer

DEPTH, WIDTH, VOCABULARY = 3, 128, 9
NULL_TOKENS = 8


def sd3_transformer() -> diffusers.SD3Transformer2DModel:
  """SD3's network with heads 64 wide, as the single file needs."""
  model = diffusers.SD3Transformer2DModel(
    sample_size=8,
    patch_size=2,
    in_channels=16,
    out_channels=16,
    num_layers=DEPTH,
    attention_head_dim=64,
    num_attention_heads=WIDTH // 64,
    joint_attention_dim=32,
    caption_projection_dim=WIDTH,
    pooled_projection_dim=192,
    pos_embed_max_size=6,
  )
  return filled(model, 1)


def autoencoder() -> diffusers.AutoencoderKL:
  """SD3's autoencoder with three resolutions of one or two residual blocks."""
  model = diffusers.AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(32, 64, 64),
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=32,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    use_quant_conv=False,
    use_post_quant_conv=False,
  )
  return filled(model, 2)


def t5_encoder(width: int = 32) -> transformers.T5EncoderModel:
  """T5 v1.1 whose heads are not width / num_heads wide."""
  config = transformers.T5Config(
    vocab_size=16,
    d_model=width,
    d_kv=4,
    d_ff=40,
    num_layers=2,
    num_heads=3,
    feed_forward_proj="gated-gelu",
  )
  return filled(transformers.T5EncoderModel(config), 3)


def clip_encoder(width: int) -> transformers.CLIPTextModelWithProjection:
  """CLIP's text encoder with heads 64 wide."""
  config = transformers.CLIPTextConfig(
    vocab_size=20,
    hidden_size=width,
    intermediate_size=3 * width,
    num_hidden_layers=2,
    num_attention_heads=width // 64,
    max_position_embeddings=7,
    projection_dim=width,
    hidden_act="quick_gelu" if width == 64 else "gelu",
    bos_token_id=18,
    eos_token_id=19,
    pad_token_id=1,
  )
  return filled(transformers.CLIPTextModelWithProjection(config), width)


def filled(model: torch.nn.Module, seed: int) -> torch.nn.Module:
  """Every parameter random, of magnitude 1/sqrt(inputs), in evaluation mode."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in model.parameters():
      fan_in = max(parameter[0].numel(), 16)
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.copy_(noise * fan_in**-0.5)
  return model.eval()


def save_sd3_folder(folder: pathlib.Path) -> None:
  """Format (a) in float16, T5 in three shards."""
  parts = {
    "transformer": sd3_transformer(),
    "vae": autoencoder(),
    "text_encoder": clip_encoder(64),
    "text_encoder_2": clip_encoder(128),
  }
  for name, model in parts.items():
    model.half().save_pretrained(folder / name)
  t5_encoder().half().save_pretrained(
    folder / "text_encoder_3", max_shard_size="9KB"
  )
  save_tokenizer(folder / "tokenizer_3")
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
  scheduler.save_pretrained(folder / "scheduler")
  index = {"_class_name": "StableDiffusion3Pipeline"}
  (folder / "model_index.json").write_text(json.dumps(index))


def save_tokenizer(folder: pathlib.Path, num_words: int = 5) -> None:
  """A word tokenizer with T5's special tokens, in transformers' files."""
  words = [f"word{number}" for number in range(num_words)]
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=word_tokenizer(words).backend,
    pad_token="</s>",
    eos_token="</s>",
  ).save_pretrained(folder)


def read_folder(folder: pathlib.Path) -> dict[str, torch.Tensor]:
  """All tensors of all files of a folder."""
  tensors = {}
  for path in sorted(folder.glob("*.safetensors")):
    tensors |= safetensors.torch.load_file(path)
  return tensors


def save_single_file(
  path: pathlib.Path, sd3_folder: pathlib.Path, *, has_encoders: bool = True
) -> None:
  """Format (b) from format (a)."""
  network = single_network(read_folder(sd3_folder / "transformer"))
  vae = single_vae(read_folder(sd3_folder / "vae"), num_blocks=3)
  tensors = {f"model.diffusion_model.{k}": v for k, v in network.items()}
  tensors |= {f"first_stage_model.{k}": v for k, v in vae.items()}
  if has_encoders:
    for ours, theirs in (
      ("text_encoder", "clip_l"),
      ("text_encoder_2", "clip_g"),
      ("text_encoder_3", "t5xxl"),
    ):
      for name, tensor in read_folder(sd3_folder / ours).items():
        tensors[f"text_encoders.{theirs}.transformer.{name}"] = tensor
    t5 = "text_encoders.t5xxl.transformer."
    shared = tensors[t5 + "shared.weight"]
    tensors[t5 + "encoder.embed_tokens.weight"] = shared.clone()
  save(tensors, path)


def single_network(folder: dict) -> dict[str, torch.Tensor]:
  """Stability's names of the network, one tensor after another."""
  old = dict(folder)
  new = {"pos_embed": old.pop("pos_embed.pos_embed")}
  for kind in ("weight", "bias"):
    new[f"x_embedder.proj.{kind}"] = old.pop(f"pos_embed.proj.{kind}")
    new[f"context_embedder.{kind}"] = old.pop(f"context_embedder.{kind}")
    new[f"final_layer.linear.{kind}"] = old.pop(f"proj_out.{kind}")
    scale, shift = old.pop(f"norm_out.linear.{kind}").chunk(2)
    new[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for theirs, short in (("timestep", "t"), ("text", "y")):
      stem = f"time_text_embed.{theirs}_embedder.linear_"
      new[f"{short}_embedder.mlp.0.{kind}"] = old.pop(f"{stem}1.{kind}")
      new[f"{short}_embedder.mlp.2.{kind}"] = old.pop(f"{stem}2.{kind}")
    for block in range(DEPTH):
      is_last = block == DEPTH - 1
      new |= _single_block(old, block, kind, is_last=is_last)
  assert not old, sorted(old)
  return new


def _single_block(old: dict, block: int, kind: str, *, is_last: bool) -> dict:
  theirs = f"transformer_blocks.{block}."
  ours = f"joint_blocks.{block}."
  new = {}

  def take(name):
    return old.pop(f"{theirs}{name}.{kind}")

  def give(name, tensor):
    new[f"{ours}{name}.{kind}"] = tensor

  give("x_block.adaLN_modulation.1", take("norm1.linear"))
  give("x_block.attn.qkv", torch.cat([take(f"attn.to_{x}") for x in "qkv"]))
  give("x_block.attn.proj", take("attn.to_out.0"))
  give("x_block.mlp.fc1", take("ff.net.0.proj"))
  give("x_block.mlp.fc2", take("ff.net.2"))
  text = [take(f"attn.add_{x}_proj") for x in "qkv"]
  give("context_block.attn.qkv", torch.cat(text))
  modulation = take("norm1_context.linear")
  if is_last:
    scale, shift = modulation.chunk(2)
    modulation = torch.cat([shift, scale])
  else:
    give("context_block.attn.proj", take("attn.to_add_out"))
    give("context_block.mlp.fc1", take("ff_context.net.0.proj"))
    give("context_block.mlp.fc2", take("ff_context.net.2"))
  give("context_block.adaLN_modulation.1", modulation)
  return new


def single_vae(folder: dict, num_blocks: int) -> dict[str, torch.Tensor]:
  """Stability's names of the autoencoder; attention as 1 x 1 convolutions."""
  new = {}
  for name, tensor in folder.items():
    name = re.sub(
      r"up_blocks\.(\d)", lambda m: f"up.{num_blocks - 1 - int(m[1])}", name
    )
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(
      r"mid_block\.resnets\.(\d)",
      lambda m: f"mid.block_{int(m[1]) + 1}",
      name,
    )
    name = re.sub(r"resnets\.(\d)", r"block.\1", name)
    name = re.sub(r"(down|up)samplers\.0", r"\1sample", name)
    name = name.replace("conv_shortcut", "nin_shortcut")
    name = name.replace("conv_norm_out", "norm_out")
    attention = "mid_block.attentions.0."
    if attention in name:
      name = name.replace(attention, "mid.attn_1.")
      name = name.replace("group_norm", "norm").replace("to_out.0", "proj_out")
      name = re.sub(r"to_([qkv])", r"\1", name)
      is_linear = "norm" not in name and name.endswith("weight")
      tensor = tensor[:, :, None, None] if is_linear else tensor
    new[name] = tensor
  return new


def save_ddit_folder(folder: pathlib.Path, sd3_folder: pathlib.Path) -> None:
  """Format (c) in bfloat16: SD3's tensors renamed, the new ones random."""
  old = read_folder(sd3_folder / "transformer")
  new = {}
  for name, tensor in old.items():
    name = re.sub(r"^(norm_out|proj_out)", r"image_\1", name)
    if ".text_embedder." not in name:
      new[name] = tensor
  last = f"transformer_blocks.{DEPTH - 1}."
  shapes = {
    "null_image_embd": (1, NULL_TOKENS, WIDTH),
    "text_proj_out.weight": (VOCABULARY, WIDTH),
    "text_proj_out.bias": (VOCABULARY,),
    f"{last}norm1_context.linear.weight": (6 * WIDTH, WIDTH),
    f"{last}norm1_context.linear.bias": (6 * WIDTH,),
    f"{last}attn.to_add_out.weight": (WIDTH, WIDTH),
    f"{last}attn.to_add_out.bias": (WIDTH,),
    f"{last}ff_context.net.0.proj.weight": (4 * WIDTH, WIDTH),
    f"{last}ff_context.net.0.proj.bias": (4 * WIDTH,),
    f"{last}ff_context.net.2.weight": (WIDTH, 4 * WIDTH),
    f"{last}ff_context.net.2.bias": (WIDTH,),
  }
  generator = torch.Generator().manual_seed(4)
  for name, shape in shapes.items():
    new[name] = torch.randn(shape, generator=generator) / 10
  new = {k: v.to(torch.bfloat16).contiguous() for k, v in new.items()}
  place = folder / "transformer"
  place.mkdir(parents=True)
  save(new, place / "diffusion_pytorch_model.safetensors")
  config = json.loads((sd3_folder / "transformer/config.json").read_text())
  config |= {"_class_name": "SD3JointModelFlexible", "vocab_size": VOCABULARY}
  (place / "config.json").write_text(json.dumps(config))
  t5_encoder().save_pretrained(folder / "text_encoder")
  autoencoder().to(torch.bfloat16).save_pretrained(folder / "vae")
  save_tokenizer(folder / "tokenizer")


def save(tensors: dict[str, torch.Tensor], path: pathlib.Path) -> None:
  """Writes a safetensors file with safetensors' own writer."""
  safetensors.torch.save_file(
    {k: v.contiguous() for k, v in tensors.items()}, path
  )


def stored_arrays(folder: pathlib.Path, component: str) -> dict:
  """All collections of a converted network, as Orbax reads them."""
  return {
    item.name: ocp.PyTreeCheckpointer().restore(item)
    for item in sorted((folder / component).iterdir())
  }


def float32(tree):
  """A tree of arrays in float32."""
  return jax.tree.map(lambda x: np.asarray(x).astype(np.float32), tree)
