"""Slices: their initial values, and that they cover every array once."""

import pytest

from ddit_jax.conversion.configs import array_shapes
from ddit_jax.conversion.slices import blocks_of, tensor_slices
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.models.config import SIZES

DDIT = SIZES["sd3_medium"]


def test_initial_values_of_ddit():
  new = [s for s in tensor_slices("sd3_to_ddit", DDIT) if s.key is None]
  inits = {found.block[0]: found.init for found in new}
  assert inits["params/text_head/project/kernel"] == "normal(0,0.02)"
  assert inits["params/text_head/project/bias"] == "zeros"
  assert inits["params/null_image"] == f"normal(0,{1536**-0.5:.6g})"
  mlp_out = "params/blocks/text/mlp/out/kernel"
  assert inits[mlp_out] == f"normal(0,{6144**-0.5:.6g})"
  gates = "params/blocks/text/modulation/project/kernel"
  assert inits[gates] == "zeros"
  (found,) = (found for found in new if found.block[0] == gates)
  assert found.block[1] == 23 and found.rows == slice(2, None)


def test_clip_without_projection_starts_with_the_identity():
  slices = tensor_slices("clip_without_projection", CLIP_SIZES["L"])
  (new,) = (found for found in slices if found.key is None)
  assert len(slices) == 1 + 196
  assert (new.init, new.shape) == ("identity", (768, 768))


def test_a_number_without_source_is_a_bug():
  shapes = array_shapes(DDIT)
  slices = [s for s in tensor_slices("ddit", DDIT) if s.key is not None]
  q = next(found for found in slices if found.key.endswith("to_q.weight"))
  with pytest.raises(AssertionError, match="exactly once"):
    blocks_of([found for found in slices if found is not q], shapes)
  with pytest.raises(AssertionError, match="exactly once"):
    blocks_of([*slices, q], shapes)
  head = [found for found in slices if "text_proj_out.weight" != found.key]
  with pytest.raises(AssertionError, match="text_head/project/kernel"):
    blocks_of(head, shapes)
