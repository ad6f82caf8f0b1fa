"""Cases a, b, c and k: network, T5, autoencoders and tokenizers.

Each public function returns our side of every array of its case.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import (
  MASK,
  PAD,
  UNKNOWN,
  Tokenizer,
  check_text_head,
  pretrained_tokenizer,
)
from ddit_jax.encoders.t5 import relative_buckets
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import (
  TIME_SCALE,
  PatchEmbedding,
  VectorEmbedding,
  centred_crop,
  sine_cosine_table,
  sinusoid,
)
from ddit_jax.models.joint_block import JointBlock
from ddit_jax.models.layers import linear
from parity.checkpoints import Checkpoints, Part
from parity.compare import Values
from parity.golden_set import (
  Case,
  GoldenSet,
  GoldenSetError,
  channels_first,
  channels_last,
)


def ddit_forward(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case a: D-DiT from latents and text features to its outputs."""
  del golden  # Uses no constant of the run.
  network = checkpoints.get("ddit")["network"]
  results = {}
  for run in case.groups("latents"):
    inputs = (
      channels_last(case[f"{run}/latents"]),
      case[f"{run}/text_embeds"],
      case[f"{run}/timestep"] / TIME_SCALE,
    )
    prediction = network.apply(*inputs)
    results[f"{run}/image_pred"] = channels_first(prediction.velocity)
    results[f"{run}/text_logits"] = prediction.logits
    if any(name.startswith(f"{run}/mid_") for name in case.outputs()):
      steps = jax.jit(_intermediates, static_argnums=0)(
        network.config, network.variables, *inputs
      )
      results |= {f"{run}/mid_{name}": step for name, step in steps.items()}
  results |= _without_image(case, network)
  return results | _tables(case, network.config)


def _without_image(case: Case, network: Part) -> dict[str, Values]:
  results = {}
  for run in case.groups("text_embeds"):
    if run not in case.groups("latents"):
      text = case[f"{run}/text_embeds"]
      prediction = network.apply(None, text, jnp.zeros(text.shape[0]))
      results[f"{run}/text_logits"] = prediction.logits
  return results


def _intermediates(config: MMDiTConfig, variables, latents, text, sigma):
  """Intermediate activations, from the network's modules one by one."""
  params = variables["params"]
  embed = PatchEmbedding(config.width, config.patch_size)
  grid = [side // config.patch_size for side in latents.shape[1:3]]
  table = variables["constants"]["position_table"]
  image = embed.apply({"params": params["patch_embedding"]}, latents)
  image = image + centred_crop(table, *grid)
  vector = VectorEmbedding(config.width).apply(
    {"params": params["time_embedding"]}, sinusoid(sigma)
  )
  project = linear(
    config.width, ("channels", "embed"), name="context_embedding"
  )
  text = project.apply({"params": params["context_embedding"]}, text)
  steps = {
    "img_tokens_after_pos": image,
    "temb": vector,
    "txt_tokens_in": text,
  }
  for index in range(config.depth):
    block = jax.tree.map(lambda leaf, i=index: leaf[i], params["blocks"])
    (image, text), _ = JointBlock(config).apply(
      {"params": block}, (image, text), vector
    )
    steps |= {f"block{index}_img": image, f"block{index}_txt": text}
  return steps


def _tables(case: Case, config: MMDiTConfig) -> dict[str, Values]:
  """The first rows and last columns of a new position table; sinusoids."""
  results = {}
  if "pos_table_sincos" in case.entries:
    rows, columns, _ = case.entries["pos_table_sincos"].shape
    table = sine_cosine_table(config.max_grid, config.width, config.base_grid)
    results["pos_table_sincos"] = table[:rows, -columns:]
  if "temb_timestep" in case.entries:
    sigma = case["temb_timestep"] / np.float32(TIME_SCALE)
    results["temb_sinusoid"] = sinusoid(jnp.asarray(sigma))
  return results


def t5_features(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case b: T5 features of D-DiT's encoder (0) and of SD3's (1)."""
  del golden  # Uses no constant of the run.
  results: dict[str, Values] = {}
  for run in case.groups("ids"):
    ids = case[f"{run}/ids"]
    if f"{run}/enc0_hidden" in case.entries:
      encoder = checkpoints.get("ddit")["text_encoder"]
      results[f"{run}/enc0_hidden"] = encoder.apply(ids)
    if f"{run}/enc1_hidden" in case.entries:
      results[f"{run}/enc1_hidden"] = {
        name: loaded["text_encoder"].apply(ids)
        for name, loaded in checkpoints.sd3().items()
      }
  if "relative_position" in case.entries:
    encoder = checkpoints.get("ddit")["text_encoder"]
    results["bucket"] = relative_buckets(
      case["relative_position"],
      num_buckets=encoder.config.num_buckets,
      max_distance=encoder.config.max_distance,
    )
  return results


_RUN = re.compile(r"vae([01])_\d+")


def autoencoders(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case c: the autoencoders of D-DiT (0) and of SD3 (1)."""
  del golden  # Shift and scale are part of the autoencoder's config.
  results: dict[str, Values] = {}
  for run in case.groups("image"):
    match = _RUN.fullmatch(run)
    if match is None:
      raise GoldenSetError(
        f"case {case.name}: {run} is neither vae0_N nor vae1_N"
      )
    if match[1] == "0":
      sources = {"ddit": checkpoints.get("ddit")}
    else:
      sources = checkpoints.sd3()
    by_source = {
      name: _one_run(case, run, loaded["vae"])
      for name, loaded in sources.items()
    }
    for key in ("mean", "logvar", "latent_mode", "latent_sample", "decoded"):
      results[f"{run}/{key}"] = {
        name: arrays[key] for name, arrays in by_source.items()
      }
  return results


def _one_run(case: Case, run: str, vae: Part) -> dict[str, np.ndarray]:
  image, noise, latents = (
    channels_last(case[f"{run}/{name}"]) for name in ("image", "eps", "z")
  )
  posterior = vae.encode(image)
  to_network = vae.config.to_network
  results = {
    "mean": posterior.mean,
    "logvar": posterior.logvar,
    "latent_mode": to_network(posterior.mean),
    "latent_sample": to_network(posterior.at(noise)),
    "decoded": vae.decode(latents),
  }
  return {name: channels_first(array) for name, array in results.items()}


_LAST_SENTINEL = "<extra_id_99>"


def tokenizer_ids(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case k: both tokenizers' ids, with both kinds of padding."""
  texts = golden.extra.get("k_texts")
  if not isinstance(texts, list):
    raise GoldenSetError("the manifest lacks extra.k_texts")
  ddit = checkpoints.get("ddit")
  sources = {"ddit": ddit} | checkpoints.sd3()
  tokenizers = {
    name: pretrained_tokenizer("t5", loaded.plain_folders["tokenizer"])
    for name, loaded in sources.items()
    if "tokenizer" in loaded.plain_folders
  }
  if "ddit" not in tokenizers:
    raise GoldenSetError("ckpt/ddit has no tokenizer folder")
  check_text_head(tokenizers["ddit"], ddit["network"].config.vocab_size)
  results = {
    "special": {n: _special_ids(t) for n, t in tokenizers.items()},
  }
  for name in ("ids_eos_padded", "ids_pad_padded"):
    if name in case.entries:
      _, length = case.entries[name].shape
      pad = _padded_with_pad if name == "ids_pad_padded" else caption_tokens
      results[name] = {
        n: np.stack([pad(t, text, length) for text in texts])
        for n, t in tokenizers.items()
      }
  return results


def _special_ids(tokenizer: Tokenizer) -> np.ndarray:
  pad, unknown, mask, last_sentinel = (
    _id_of(tokenizer, token) for token in (PAD, UNKNOWN, MASK, _LAST_SENTINEL)
  )
  return np.array(
    [
      *(pad, tokenizer.end_id, unknown),
      *(mask, last_sentinel, tokenizer.vocab_size),
    ]
  )


def _id_of(tokenizer: Tokenizer, token: str) -> int:
  found = tokenizer.backend.token_to_id(token)
  if found is None:
    raise GoldenSetError(f"the tokenizer has no {token}: it is not T5's")
  return found


def _padded_with_pad(
  tokenizer: Tokenizer, text: str, length: int
) -> np.ndarray:
  """SD3's padding: one end token, then T5's pad tokens."""
  tokens = caption_tokens(tokenizer, text, length)
  num_kept = len(tokenizer.encode(text)) + 1
  tokens[num_kept:] = _id_of(tokenizer, PAD)
  return tokens
