"""Case a's intermediates and outputs, from the checkpoint's own tensors."""

import diffusers.models.embeddings as theirs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import ddit_forward

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
def case():
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
def results(case, checkpoints):
  found = ddit_forward.outputs(golden_of(), case, checkpoints)
  return {name: torch.tensor(np.asarray(a)) for name, a in found.items()}


def check(got, expected, atol):
  np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_inputs_of_the_first_block(case, results, tensors):
  def linear(name, x):
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

  text = torch.tensor(case["0/text_embeds"])
  # Measured: 9e-7.
  check(results["0/mid_txt_tokens_in"], linear("context_embedder", text), 5e-6)
  patches = F.conv2d(
    torch.tensor(case["0/latents"]),
    tensors["pos_embed.proj.weight"],
    tensors["pos_embed.proj.bias"],
    stride=2,
  )
  table = tensors["pos_embed.pos_embed"].reshape(MAX_GRID, MAX_GRID, WIDTH)
  top, left = (MAX_GRID - ROWS) // 2, (MAX_GRID - COLUMNS) // 2
  crop = table[top : top + ROWS, left : left + COLUMNS].reshape(-1, WIDTH)
  expected = patches.flatten(2).transpose(1, 2) + crop
  check(results["0/mid_img_tokens_after_pos"], expected, 5e-6)
  sinusoid = theirs.get_timestep_embedding(
    torch.tensor(case["0/timestep"]),
    256,
    flip_sin_to_cos=True,
    downscale_freq_shift=0,
  )
  stem = "time_text_embed.timestep_embedder.linear_"
  expected = linear(stem + "2", F.silu(linear(stem + "1", sinusoid)))
  # Measured: 2e-5; float32 angles of hundreds are that coarse.
  check(results["0/mid_temb"], expected, 2e-4)


def test_heads_read_the_last_block(results, tensors):
  last = DEPTH - 1
  text = F.layer_norm(results[f"0/mid_block{last}_txt"], (WIDTH,), eps=1e-6)
  expected = F.linear(
    text, tensors["text_proj_out.weight"], tensors["text_proj_out.bias"]
  )
  assert results["0/text_logits"].shape == (2, 4, VOCABULARY)
  # Measured: 1e-6.
  check(results["0/text_logits"], expected, 1e-5)
  scale, shift = F.linear(
    F.silu(results["0/mid_temb"]),
    tensors["image_norm_out.linear.weight"],
    tensors["image_norm_out.linear.bias"],
  ).chunk(2, dim=1)
  image = F.layer_norm(results[f"0/mid_block{last}_img"], (WIDTH,), eps=1e-6)
  image = F.linear(
    image * (1 + scale[:, None]) + shift[:, None],
    tensors["image_proj_out.weight"],
    tensors["image_proj_out.bias"],
  )
  image = image.reshape(2, ROWS, COLUMNS, 2, 2, CHANNELS)
  expected = torch.einsum("brcyxk->bkrycx", image)
  expected = expected.reshape(2, CHANNELS, 2 * ROWS, 2 * COLUMNS)
  # Measured: 3e-6.
  check(results["0/image_pred"], expected, 3e-5)


def test_without_an_image_equal_texts_have_equal_logits(results):
  first, second = results["null/text_logits"]
  check(first, second, 1e-5)
  assert first.std() > 0.01


def test_tables_are_diffusers_own(results):
  table = theirs.get_2d_sincos_pos_embed(
    WIDTH, MAX_GRID, base_size=4, output_type="pt"
  )
  table = table.reshape(MAX_GRID, MAX_GRID, WIDTH)
  # Measured: 4e-7.
  check(results["pos_table_sincos"], table[:2, -3:].float(), 1e-6)
  expected = theirs.get_timestep_embedding(
    torch.tensor([0.0, 3.25, 700.0]),
    256,
    flip_sin_to_cos=True,
    downscale_freq_shift=0,
  )
  check(results["temb_sinusoid"], expected, 2e-4)
