"""Cases a, b, c and k: our side against PyTorch, transformers, diffusers."""

import types

import diffusers
import diffusers.models.embeddings as theirs
import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
import transformers
from parity import cases_forward
from parity.checkpoints import Loaded
from parity.golden_set import GoldenSetError

from tests.conversion.checkpoints import DEPTH, WIDTH, read_folder
from tests.parity.golden_sets import (
  CHANNELS,
  CONTEXT,
  VOCABULARY,
  case_of,
  draws,
  golden_of,
)

MAX_GRID, ROWS, COLUMNS = 6, 2, 3


@pytest.fixture(scope="module")
def tensors(golden_folder):
  found = read_folder(golden_folder / "ckpt/ddit/transformer")
  return {name: tensor.float() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def forward_case():
  draw = draws(4)
  return case_of(
    "a_ddit_forward",
    {
      "0/latents": draw(2, CHANNELS, 2 * ROWS, 2 * COLUMNS),
      "0/text_embeds": draw(2, 4, CONTEXT),
      "0/timestep": np.array([0.0, 612.5], np.float32),
      "null/text_embeds": np.repeat(draw(1, 4, CONTEXT), 2, axis=0),
      "temb_timestep": np.array([0.0, 3.25, 700.0], np.float32),
    },
    {"0/mid_temb": (2, WIDTH), "pos_table_sincos": (2, 3, WIDTH)},
  )


@pytest.fixture(scope="module")
def forward_results(forward_case, checkpoints):
  found = cases_forward.ddit_forward(golden_of(), forward_case, checkpoints)
  return {name: torch.tensor(np.asarray(a)) for name, a in found.items()}


def check(got, expected, atol):
  np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_inputs_of_the_first_block(forward_case, forward_results, tensors):
  def linear(name, x):
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

  text = torch.tensor(forward_case["0/text_embeds"])
  # Measured: 9e-7.
  check(
    forward_results["0/mid_txt_tokens_in"],
    linear("context_embedder", text),
    5e-6,
  )
  patches = F.conv2d(
    torch.tensor(forward_case["0/latents"]),
    tensors["pos_embed.proj.weight"],
    tensors["pos_embed.proj.bias"],
    stride=2,
  )
  table = tensors["pos_embed.pos_embed"].reshape(MAX_GRID, MAX_GRID, WIDTH)
  top, left = (MAX_GRID - ROWS) // 2, (MAX_GRID - COLUMNS) // 2
  crop = table[top : top + ROWS, left : left + COLUMNS].reshape(-1, WIDTH)
  expected = patches.flatten(2).transpose(1, 2) + crop
  check(forward_results["0/mid_img_tokens_after_pos"], expected, 5e-6)
  sinusoid = theirs.get_timestep_embedding(
    torch.tensor(forward_case["0/timestep"]),
    256,
    flip_sin_to_cos=True,
    downscale_freq_shift=0,
  )
  stem = "time_text_embed.timestep_embedder.linear_"
  expected = linear(stem + "2", F.silu(linear(stem + "1", sinusoid)))
  # Measured: 2e-5; float32 angles of hundreds are that coarse.
  check(forward_results["0/mid_temb"], expected, 2e-4)


def test_heads_read_the_last_block(forward_results, tensors):
  last = DEPTH - 1
  text = F.layer_norm(
    forward_results[f"0/mid_block{last}_txt"], (WIDTH,), eps=1e-6
  )
  expected = F.linear(
    text, tensors["text_proj_out.weight"], tensors["text_proj_out.bias"]
  )
  assert forward_results["0/text_logits"].shape == (2, 4, VOCABULARY)
  # Measured: 1e-6.
  check(forward_results["0/text_logits"], expected, 1e-5)
  scale, shift = F.linear(
    F.silu(forward_results["0/mid_temb"]),
    tensors["image_norm_out.linear.weight"],
    tensors["image_norm_out.linear.bias"],
  ).chunk(2, dim=1)
  image = F.layer_norm(
    forward_results[f"0/mid_block{last}_img"], (WIDTH,), eps=1e-6
  )
  image = F.linear(
    image * (1 + scale[:, None]) + shift[:, None],
    tensors["image_proj_out.weight"],
    tensors["image_proj_out.bias"],
  )
  image = image.reshape(2, ROWS, COLUMNS, 2, 2, CHANNELS)
  expected = torch.einsum("brcyxk->bkrycx", image)
  expected = expected.reshape(2, CHANNELS, 2 * ROWS, 2 * COLUMNS)
  # Measured: 3e-6.
  check(forward_results["0/image_pred"], expected, 3e-5)


def test_without_an_image_equal_texts_have_equal_logits(forward_results):
  first, second = forward_results["null/text_logits"]
  check(first, second, 1e-5)
  assert first.std() > 0.01


def test_tables_are_diffusers_own(forward_results):
  table = theirs.get_2d_sincos_pos_embed(
    WIDTH, MAX_GRID, base_size=4, output_type="pt"
  )
  table = table.reshape(MAX_GRID, MAX_GRID, WIDTH)
  # Measured: 4e-7.
  check(forward_results["pos_table_sincos"], table[:2, -3:].float(), 1e-6)
  expected = theirs.get_timestep_embedding(
    torch.tensor([0.0, 3.25, 700.0]),
    256,
    flip_sin_to_cos=True,
    downscale_freq_shift=0,
  )
  check(forward_results["temb_sinusoid"], expected, 2e-4)


def test_tokens_are_encoded_first(ddit):
  latents = draws(12)(2, 4, 6, CHANNELS)
  tokens = np.array([[3, 1, 1], [8, 5, 1]], np.int32)
  sigma = np.array([0.0, 0.7], np.float32)
  got = ddit.predict(latents, tokens, sigma)
  features = ddit["text_encoder"].apply(tokens)
  expected = ddit["network"].apply(latents, features, sigma)
  # Measured: 1e-6.
  np.testing.assert_allclose(got.velocity, expected.velocity, atol=1e-5)
  np.testing.assert_allclose(got.logits, expected.logits, atol=1e-5)
  assert got.logits.shape == (2, 3, VOCABULARY)


def test_features_of_both_encoders(golden_folder, checkpoints):
  ids = np.array([[3, 1, 15, 0, 8]], np.int32)
  case = case_of(
    "b_t5",
    {"0/ids": ids},
    {"0/enc0_hidden": (1, 5, 32), "0/enc1_hidden": (1, 5, 32)},
  )
  results = cases_forward.t5_features(golden_of(), case, checkpoints)
  for name, folder in (
    ("ddit", "ckpt/ddit/text_encoder"),
    ("sd3_folder", "ckpt/sd3_diffusers/text_encoder_3"),
  ):
    model = transformers.T5EncoderModel.from_pretrained(
      golden_folder / folder, dtype=torch.float32
    )
    with torch.no_grad():
      expected = model(torch.tensor(ids)).last_hidden_state.numpy()
    key = "0/enc0_hidden" if name == "ddit" else "0/enc1_hidden"
    got = results[key] if name == "ddit" else results[key][name]
    # Measured: 1e-6.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  both = results["0/enc1_hidden"]
  np.testing.assert_array_equal(both["sd3_folder"], both["sd3_single"])


def test_buckets_of_single_offsets(checkpoints):
  offsets = np.array([-200, -8, -7, -1, 0, 1, 8, 200], np.int32)
  case = case_of("b_t5", {"relative_position": offsets}, {})
  results = cases_forward.t5_features(golden_of(), case, checkpoints)
  # Sixteen a side; a bucket each up to 7, the last from 128 on.
  assert list(results) == ["bucket"]
  assert results["bucket"].tolist() == [15, 8, 7, 1, 0, 17, 24, 31]


def test_both_ways_through_the_autoencoder(golden_folder, checkpoints):
  draw = draws(5)
  inputs = {
    "vae0_0/image": np.tanh(draw(2, 3, 4, 8)),
    "vae0_0/eps": draw(2, 16, 1, 2),
    "vae0_0/z": draw(2, 16, 1, 2),
  }
  case = case_of("c_vae", inputs, {})
  results = cases_forward.autoencoders(golden_of(), case, checkpoints)
  model = diffusers.AutoencoderKL.from_pretrained(
    golden_folder / "ckpt/ddit/vae", torch_dtype=torch.float32
  )
  image, noise, z = (torch.tensor(array) for array in inputs.values())
  with torch.no_grad():
    posterior = model.encode(image).latent_dist
    drawn = posterior.mean + posterior.std * noise
    expected = {
      "mean": posterior.mean,
      "logvar": posterior.logvar,
      "latent_mode": (posterior.mean - 0.0609) * 1.5305,
      "latent_sample": (drawn - 0.0609) * 1.5305,
      "decoded": model.decode(z / 1.5305 + 0.0609).sample,
    }
  assert results.keys() == {f"vae0_0/{name}" for name in expected}
  for name, array in expected.items():
    # Measured: 3e-6.
    np.testing.assert_allclose(
      results[f"vae0_0/{name}"]["ddit"], array, rtol=0, atol=3e-5
    )


def test_runs_of_other_autoencoders_are_refused(checkpoints):
  case = case_of("c_vae", {"vae7_0/image": np.zeros((1, 3, 4, 4), "f4")}, {})
  with pytest.raises(
    GoldenSetError, match="vae7_0 is neither vae0_N nor vae1_N"
  ):
    cases_forward.autoencoders(golden_of(), case, checkpoints)


TEXTS = ["two cats", " ", "a red cat, a red hat"]
LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
  tokenizer_folder = tmp_path_factory.mktemp("tokenizer")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 5),
    model_prefix=str(tokenizer_folder / "spiece"),
    vocab_size=24,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return tokenizer_folder


@pytest.fixture(scope="module")
def sentencepiece_model(tokenizer_folder):
  return sentencepiece.SentencePieceProcessor(
    model_file=str(tokenizer_folder / "spiece.model")
  )


def checkpoints_with(tokenizer_folder, vocab_size):
  config = types.SimpleNamespace(vocab_size=vocab_size)
  network = types.SimpleNamespace(config=config)
  loaded = Loaded(
    parts={"network": network}, plain_folders={"tokenizer": tokenizer_folder}
  )
  return types.SimpleNamespace(
    get=lambda name: loaded, sd3=lambda: {"sd3_folder": loaded}
  )


def tokenizer_ids(tokenizer_folder, vocab_size, texts=TEXTS):
  shapes = dict.fromkeys(("ids_eos_padded", "ids_pad_padded"), (3, LENGTH))
  return cases_forward.tokenizer_ids(
    golden_of(k_texts=texts),
    case_of("k_tokenizer", {}, shapes),
    checkpoints_with(tokenizer_folder, vocab_size),
  )


def test_ids_with_both_paddings(tokenizer_folder, sentencepiece_model):
  vocab_size = sentencepiece_model.get_piece_size() + 100
  results = tokenizer_ids(tokenizer_folder, vocab_size)
  for name, pad in (("ids_eos_padded", 1), ("ids_pad_padded", 0)):
    expected = np.full((3, LENGTH), pad)
    for row, text in enumerate(TEXTS):
      ids = [*sentencepiece_model.encode(text), 1]
      expected[row, : len(ids)] = ids
    for readings in results[name].values():
      np.testing.assert_array_equal(readings, expected)
  special = [0, 1, 2, vocab_size - 1, vocab_size - 100, vocab_size]
  assert results["special"].keys() == {"ddit", "sd3_folder"}
  assert results["special"]["ddit"].tolist() == special


def test_the_text_head_must_have_a_row_for_every_id(
  tokenizer_folder, sentencepiece_model
):
  with pytest.raises(ValueError, match="text head has 7 rows"):
    tokenizer_ids(tokenizer_folder, 7)


def test_the_texts_must_be_in_the_manifest(
  tokenizer_folder, sentencepiece_model
):
  with pytest.raises(GoldenSetError, match=r"lacks extra\.k_texts"):
    tokenizer_ids(
      tokenizer_folder, sentencepiece_model.get_piece_size() + 100, texts=None
    )
