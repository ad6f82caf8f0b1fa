"""Variants' names, and what shrinking a config keeps."""

import pytest

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import stages_config
from ddit_jax.experiment.config import default_config


@pytest.mark.parametrize(
  ("variant", "want"),
  [
    ("big", ("big", False)),
    ("big_dry", ("big", True)),
    ("dry", ("small", True)),
    ("small_dry", ("small", True)),
  ],
)
def test_a_variant_and_its_toy_size(variant, want):
  assert chosen_variant("x.py", variant, ["small", "big"], default="small") == (
    want
  )


@pytest.mark.parametrize(
  "variant", ["", "huge", "huge_dry", "_dry_dry", "bigdry"]
)
def test_unknown_variants_are_named_with_the_known_ones(variant):
  with pytest.raises(ValueError) as caught:
    chosen_variant("x.py", variant, ["small", "big"], default="small")
  assert str(caught.value) == (
    f"x.py has no variant {variant!r}; it has small, big, and each with _dry"
  )


def test_what_shapes_the_graph_stays_and_what_costs_time_shrinks():
  config = default_config()
  config.name = "mine"
  config.model.size = "sd3_medium"
  config.model.encoders_from = config.init_from = "weights/sd3"
  config.model.depth = 30
  config.model.execution.remat = "full"
  config.lora.rank = 4
  config.data.sources = {"web": {"kind": "webdataset", "path": "a/*.tar"}}
  config.data.text_to_image.batch_size = 0
  config.data.image_to_text.batch_size = 512
  config.train.num_microbatches = 16
  small = dry(config)
  assert (small.name, small.model.size) == ("mine:dry", "toy_sd3")
  assert small.model.depth == 0
  assert (small.init_from, small.model.encoders_from) == ("", "toy")
  assert (small.model.execution.remat, small.lora.rank) == ("full", 0)
  assert small.data.text_to_image.batch_size == 0
  assert small.data.image_to_text.batch_size == 8
  assert small.data.sources.web.to_dict() == {
    "kind": "digits",
    "texts": "captions",
  }
  assert small.train.num_microbatches == 2


def test_every_stage_shrinks_and_still_follows_the_one_before():
  first, second = default_config(), default_config()
  second.init_from = "stage:first"
  job = dry(stages_config({"first": first, "second": second}))
  assert [job.stages[name].train.num_steps for name in job.stages] == [4, 4]
  assert job.stages.second.init_from == "stage:first"
