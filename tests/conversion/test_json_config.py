"""Reading a `config.json`."""

import pytest

from ddit_jax.conversion.json_config import JsonConfig
from ddit_jax.errors import InputError


def test_files_that_are_not_json(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(InputError, match="is missing"):
    JsonConfig.read(path)
  for content, message in (
    ("{", "is not JSON"),
    ("[]", "must hold a JSON object"),
    ("[" * 100_000, "is not JSON"),
    ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
    ('{"a": "' + "a" * 2**20 + '"}', "at most 1048576 are read"),
  ):
    path.write_text(content)
    with pytest.raises(InputError, match=message):
      JsonConfig.read(path)
