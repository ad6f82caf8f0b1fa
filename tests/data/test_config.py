"""The data section refuses what cannot be read."""

import pytest

from ddit_jax.data.config import DataConfig, TaskConfig


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (TaskConfig, {"batch_size": -1}, "^batch_size is negative: -1"),
    (TaskConfig, {"image_size": 0}, "^image_size must be in 1 to 16384, got 0"),
    (TaskConfig, {"text_length": -1}, "^text_length must be in 1 to 1048576"),
    (TaskConfig, {"pool_size": -1}, "^pool_size is negative: -1"),
    (TaskConfig, {"crop": "left"}, "^crop must be one of"),
    (TaskConfig, {"flip_probability": 2.0}, r"^flip_probability must be in"),
    (
      TaskConfig,
      {"rewritten_probability": -1.0},
      "^rewritten_probability must",
    ),
    (DataConfig, {"pool_size": 0}, "^pool_size must be in 1 to 10000000"),
    (DataConfig, {"validation_size": 0}, "^validation_size must be positive"),
    (DataConfig, {"held_out_share": 1.0}, r"^held_out_share must be in \[0, 1"),
    (
      DataConfig,
      {"sources": {"web": {}}, "validation_sources": {"wbe": {}}},
      "^validation_sources names 'wbe': did you mean 'web'",
    ),
    (DataConfig, {"max_bad_share": 1.5}, "^max_bad_share must be in"),
    (DataConfig, {"num_workers": -1}, "^num_workers is -1"),
    (DataConfig, {"num_threads": -2}, "num_threads -2: write 0 or more"),
    (
      DataConfig,
      {"filters": {"max_ration": 2}},
      "^filters has no key .*ratio'",
    ),
    (DataConfig, {"world": "one_digti"}, "did you mean 'one_digit'"),
    (
      DataConfig,
      {"text_to_image": TaskConfig(batch_size=8, cache="x")},
      "^text_to_image.cache is 'x', but the digit world is generated",
    ),
    (
      DataConfig,
      {name: TaskConfig(batch_size=0) for name in DataConfig().tasks()},
      "are both 0: nothing to do",
    ),
  ],
)
def test_values_out_of_range_are_refused(kind, changes, message):
  base = {"batch_size": 4} if kind is TaskConfig else {}
  kind(**base)  # the defaults are fine
  with pytest.raises(ValueError, match=message):
    kind(**base | changes)


def test_tasks_that_are_off_are_left_out():
  config = DataConfig(image_to_text=TaskConfig(batch_size=0, text_length=99))
  assert list(config.tasks_on()) == ["text_to_image"]
  assert config.max_text_length == 99
