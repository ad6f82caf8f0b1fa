"""Loading through the converter, and tensors under their old names."""

import numpy as np
import pytest
from parity.checkpoints import Checkpoints, converted
from parity.golden_set import GoldenSetError

from ddit_jax.errors import InputError
from tests.conversion.checkpoints import read_folder
from tests.parity.golden_sets import MASK_ID


def test_a_checkpoint_is_loaded_once_and_whole(checkpoints, ddit):
  assert checkpoints.get("ddit") is ddit
  assert set(ddit.parts) == {"network", "text_encoder", "vae"}
  assert ddit.mask_id == MASK_ID
  assert {"tokenizer", "scheduler"} <= ddit.plain_folders.keys()


def test_trees_go_back_to_the_tensors_of_the_file(golden_folder, ddit):
  network = ddit["network"]
  found = network.tensors(network.variables["params"])
  tensors = read_folder(golden_folder / "ckpt/ddit/transformer")
  # The position table is a constant, not a parameter.
  assert found.keys() == tensors.keys() - {"pos_embed.pos_embed"}
  for name, array in found.items():
    np.testing.assert_array_equal(array, tensors[name].float().numpy(), name)


def test_sd3_comes_from_every_layout_there_is(checkpoints, golden_folder):
  both = checkpoints.sd3()
  assert list(both) == ["sd3_folder", "sd3_single"]
  first, second = (loaded["network"] for loaded in both.values())
  # One compilation for both.
  assert first.apply.func is second.apply.func
  assert "clip_l" not in both["sd3_folder"].parts


def test_what_is_missing_is_named(tmp_path, ddit):
  with pytest.raises(GoldenSetError, match="the checkpoint has no clip_l"):
    ddit["clip_l"]
  empty = Checkpoints(tmp_path, tmp_path / "work")
  with pytest.raises(GoldenSetError, match="no ckpt/sd3_diffusers or ckpt/sd3"):
    empty.sd3()
  with pytest.raises(InputError, match="does not exist"):
    empty.get("ddit")


def test_the_converted_ones_do_not_stay(golden_folder):
  with converted(golden_folder) as checkpoints:
    workspace = checkpoints._workspace
    assert workspace.is_dir()
  assert not workspace.exists()
