"""What `ddit score` writes of the files behind a result."""

import numpy as np

from ddit_jax.scoring.benchmarks import report, score_files


def test_references_of_equal_names_keep_their_hashes(tmp_path):
  """Otherwise results on other references would seem to be on the same."""
  paths = [tmp_path / folder / "f.npz" for folder in ("a", "b", "c")]
  for number, path in enumerate(paths):
    path.parent.mkdir()
    rows = np.random.default_rng(number).normal(size=(2, 4))
    row = {"row": np.arange(2)} if number == 2 else {}
    np.savez(path, features=rows, network="clip", **row)
  predictions, *references = paths
  scored = score_files("clip_score", predictions, references)
  found = report("clip_score", scored, predictions, references)["references"]
  assert list(found) == ["f.npz", "f.npz (2)"]
  assert found["f.npz"] != found["f.npz (2)"]
