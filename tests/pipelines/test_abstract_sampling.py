"""Samplers planned: their FLOPs, and what a mesh splits."""

import math

import jax
import pytest

from ddit_jax.models.flops import mmdit_flops
from ddit_jax.pipelines import abstract_sampling
from ddit_jax.pipelines.abstract_sampling import AbstractSampling
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run

NUM_STEPS, ROWS = 3, 16
CHANGES = {
  "sample__batch_size": str(ROWS),
  "sample__image__num_inference_steps": str(NUM_STEPS),
}


def planned(step):
  settings = tiny_run.settings(**CHANGES)
  mesh = MeshConfig(replica=2, fsdp=4).make()
  return settings, AbstractSampling.of(settings, mesh, step)


@pytest.mark.parametrize(
  ("step", "head", "num_calls"),
  [("t2i", "image", 2 * NUM_STEPS), ("i2t", "text", 1)],
)
def test_flops_are_those_of_the_networks_calls(
  step, head, num_calls, monkeypatch
):
  settings, sampling = planned(step)
  side = settings.data.image_sides[0] // sampling.model.pixels_per_patch
  one = mmdit_flops(
    sampling.model.network.config,
    grid=(side, side),
    text_length=settings.data.text_to_image.text_length,
    heads=(head,),
  )
  assert sampling.model_flops() == {"network": ROWS * num_calls * one.forward}
  # Tracing takes long, and is not repeated.
  monkeypatch.setattr(abstract_sampling, "_flops", None)
  assert sampling.ideal_flops() == ROWS * num_calls * one.forward


def test_a_mesh_splits_weights_and_rows():
  _, sampling = planned("t2i")
  params = jax.tree.leaves(sampling.arguments["parameters"])
  local = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in params)
  assert 1 / 4 < local / sum(x.size for x in params) < 1 / 3
  noise = sampling.batch["noise"]
  assert noise.sharding.shard_shape(noise.shape)[0] == ROWS / 8


def test_rows_must_fit_the_mesh():
  settings = tiny_run.settings(sample__batch_size="12")
  with pytest.raises(ValueError, match=r"sample\.batch_size = 12 is not"):
    AbstractSampling.of(settings, MeshConfig(fsdp=8).make(), "t2i")


def test_a_captioner_is_not_planned():
  settings = tiny_run.settings(
    **CHANGES,
    captioner__features="mmdit",
    captioner__features_from="x",
    data__text_to_image__batch_size="0",
  )
  with pytest.raises(ValueError, match=r"captioner\.features is mmdit: only"):
    AbstractSampling.of(settings, MeshConfig(fsdp=8).make(), "t2i")
