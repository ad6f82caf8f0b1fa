"""A tiny StableDiffusion3Pipeline of diffusers, with real tokenizers."""

import pathlib

import diffusers
import sentencepiece
import torch
import transformers

from tests import clip_tokenizer_files
from tests.conversion import checkpoints

WIDTHS = {"clip_l": 32, "clip_g": 48}
CONTEXT, POOLED = 96, 40 + 24
_SENTENCES = [
  "a red cat sits on the table",
  "two dogs and a lamp",
  "the seven birds ran over the hill",
]


def pipeline(folder: pathlib.Path) -> diffusers.StableDiffusion3Pipeline:
  """All nine parts, random; `folder` gets the tokenizers' files."""
  # Its warnings of long prompts quote all of them, and their padding.
  diffusers.utils.logging.set_verbosity_error()
  tokenizers = {
    name: transformers.CLIPTokenizer.from_pretrained(
      clip_tokenizer_files.write(folder / name, pad)
    )
    for name, pad in clip_tokenizer_files.PADS.items()
  }
  t5_tokenizer = _t5_tokenizer(folder / "tokenizer_3")
  made = diffusers.StableDiffusion3Pipeline(
    transformer=_transformer(),
    scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    vae=_autoencoder(),
    # SD3's own config of CLIP-L has the old number 2 for the end.
    text_encoder=_clip(WIDTHS["clip_l"], 40, "quick_gelu", end=2),
    text_encoder_2=_clip(WIDTHS["clip_g"], 24, "gelu", end=None),
    text_encoder_3=_t5(len(t5_tokenizer)),
    tokenizer_3=t5_tokenizer,
    **tokenizers,
  )
  made.set_progress_bar_config(disable=True)
  return made


def _transformer():
  model = diffusers.SD3Transformer2DModel(
    sample_size=8,
    patch_size=2,
    in_channels=16,
    out_channels=16,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=CONTEXT,
    caption_projection_dim=32,
    pooled_projection_dim=POOLED,
    pos_embed_max_size=8,
  )
  return checkpoints.filled(model, 1)


def _autoencoder():
  model = diffusers.AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(16, 16),
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=4,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    use_quant_conv=False,
    use_post_quant_conv=False,
  )
  return checkpoints.filled(model, 2)


def _clip(width: int, projection: int, activation: str, end: int | None):
  ids = clip_tokenizer_files.vocabulary()
  config = transformers.CLIPTextConfig(
    vocab_size=len(ids),
    hidden_size=width,
    intermediate_size=2 * width,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=77,
    projection_dim=projection,
    hidden_act=activation,
    bos_token_id=0 if end == 2 else ids[clip_tokenizer_files.START],
    eos_token_id=end or ids[clip_tokenizer_files.END],
    pad_token_id=1,
  )
  model = transformers.CLIPTextModelWithProjection(config)
  return checkpoints.filled(model, width)


def _t5(vocab_size: int):
  config = transformers.T5Config(
    # Padded, like the published table.
    vocab_size=vocab_size + 3,
    d_model=CONTEXT,
    d_kv=8,
    d_ff=40,
    num_layers=2,
    num_heads=3,
    feed_forward_proj="gated-gelu",
  )
  return checkpoints.filled(transformers.T5EncoderModel(config), 3)


def _t5_tokenizer(folder: pathlib.Path) -> transformers.T5TokenizerFast:
  folder.mkdir()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_SENTENCES * 4),
    model_prefix=str(folder / "spiece"),
    vocab_size=40,
    model_type="unigram",
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return transformers.T5TokenizerFast.from_pretrained(folder)


def draw(pipeline, prompts, noise, **options):
  """(latents, images in [0, 1]) of diffusers, channels last."""
  start = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    latents = pipeline(
      prompts, latents=start, output_type="latent", **options
    ).images
    decoded = pipeline.vae.decode(
      latents / pipeline.vae.config.scaling_factor
      + pipeline.vae.config.shift_factor
    ).sample
  images = pipeline.image_processor.postprocess(decoded, output_type="np")
  return latents.numpy().transpose(0, 2, 3, 1), images
