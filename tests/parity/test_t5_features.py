"""Case b: features beside transformers', buckets worked out by hand."""

import numpy as np
import torch
import transformers
from parity import t5_features

from tests.parity.golden_sets import case_of, golden_of


def test_features_of_both_encoders(golden_folder, checkpoints):
  ids = np.array([[3, 1, 15, 0, 8]], np.int32)
  case = case_of(
    "b_t5",
    {"0/ids": ids},
    {"0/enc0_hidden": (1, 5, 32), "0/enc1_hidden": (1, 5, 32)},
  )
  results = t5_features.outputs(golden_of(), case, checkpoints)
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
  results = t5_features.outputs(golden_of(), case, checkpoints)
  # Sixteen a side; a bucket each up to 7, the last from 128 on.
  assert list(results) == ["bucket"]
  assert results["bucket"].tolist() == [15, 8, 7, 1, 0, 17, 24, 31]
