"""Files of features to distances and CLIP scores."""

import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring import features
from ddit_jax.scoring.features import (
  clip_scores,
  fid,
  read_features,
)


@pytest.fixture
def save(tmp_path):
  def write(name, **arrays):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name

  return write


CLEAN_FID = "inception-2015-12-05 clean-fid"
ROWS = np.random.default_rng(0).normal(size=(8, 3))


def test_distances_of_two_files(save):
  scored = fid(save("a.npz", features=ROWS), [save("b.npz", features=ROWS + 1)])
  assert scored.figures["frechet_distance"] == pytest.approx(3, rel=1e-10)
  assert set(scored.figures) == {"frechet_distance", "kernel_distance"}
  assert "not FID" in scored.notes[0]


def test_only_inception_makes_it_fid(save, monkeypatch):
  path = save("a.npz", features=ROWS, network=CLEAN_FID)
  assert "fid" not in fid(path, [path]).figures  # of other dimensions
  # The root of 2,048 dimensions takes a minute.
  monkeypatch.setattr(features, "_FID_DIMS", 3)
  for network, is_fid in ((CLEAN_FID, True), ("resnet", False)):
    path = save("a.npz", features=ROWS, network=network)
    figures = fid(path, [path]).figures
    assert ("fid" in figures) == ("kid" in figures) == is_fid


def test_stored_moments_give_the_same_distance(save):
  whole = save("a.npz", features=ROWS)
  moments = save("m.npz", mu=ROWS.mean(0), sigma=np.cov(ROWS, rowvar=False))
  scored = fid(whole, [moments])
  assert scored.figures["frechet_distance"] == pytest.approx(0, abs=1e-10)
  assert "kernel_distance" not in scored.figures


def test_few_images_are_said(save):
  path = save("a.npz", features=ROWS[:3])
  assert "fewer images than the 3 dimensions" in fid(path, [path]).notes[0]


def test_networks_must_be_one(save):
  with pytest.raises(InputError, match="of 'x' and of 'y'"):
    fid(
      save("a.npz", features=ROWS, network="x"),
      [save("b.npz", features=ROWS, network="y")],
    )


def test_clip_scores_with_and_without_references(save):
  images, texts = save("i.npz", features=ROWS), save("t.npz", features=-ROWS)
  figures = clip_scores(images, [texts]).figures
  assert figures["scaled_cosine"] == pytest.approx(-100)
  assert figures["scaled_cosine_at_least_0"] == 0
  captions = save("c.npz", features=-ROWS, row=np.arange(8))
  figures = clip_scores(images, [texts, captions]).figures
  assert figures["text_score"] == pytest.approx(1)
  assert figures["ref_clipscore"] == 0
  lacking = save("c.npz", features=-ROWS, row=np.zeros(8, int))
  with pytest.raises(InputError, match="7 of 8 images have no reference"):
    clip_scores(images, [texts, lacking])
  with pytest.raises(InputError, match='need "row"'):
    clip_scores(images, [texts, texts])


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"other": ROWS}, "expected .features."),
    ({"features": np.array([{}], object)}, "not a .npy or .npz file"),
    ({"features": ROWS[0]}, r"floating point \[rows, dims\]"),
    ({"features": np.ones((2, 2), int)}, "got int64"),
    ({"features": ROWS * np.nan}, "24 features are not finite"),
    ({"mu": ROWS[0], "sigma": ROWS}, "mu and sigma must be"),
    ({"features": ROWS, "row": np.ones(3, int)}, '"row" must be'),
  ],
)
def test_other_arrays_are_refused(save, arrays, message):
  with pytest.raises(InputError, match=message):
    read_features(save("a.npz", **arrays))


@pytest.mark.parametrize(
  "data",
  [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", bytes(range(99)), b"\x80\x04K"],
  ids=["empty", "zip", "npy", "bytes", "pickle"],
)
def test_damaged_files_are_refused(tmp_path, data):
  (tmp_path / "a.npy").write_bytes(data)
  with pytest.raises(InputError, match=r"not a \.npy or"):
    read_features(tmp_path / "a.npy")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
  np.save(tmp_path / "a.npy", ROWS)
  data = (tmp_path / "a.npy").read_bytes()
  (tmp_path / "a.npy").write_bytes(data.replace(b"(8, 3)", b"(8000000000, 3)"))
  with pytest.raises(InputError, match=r"not a \.npy or"):
    read_features(tmp_path / "a.npy")
