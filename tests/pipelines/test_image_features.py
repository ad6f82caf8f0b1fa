"""Features of images, and the files that distances are computed from."""

import jax
import numpy as np
import pytest
from PIL import Image

from ddit_jax.encoders.clip_vision import clip_vision_encoder
from ddit_jax.errors import InputError
from ddit_jax.pipelines.image_features import ImageFeatures
from ddit_jax.sharding.mesh import MeshConfig
from tests.pipelines import clip_files, sd3_files

# Of CLIP's own preprocessing.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def test_features_are_the_encoders_of_resized_pixels(tmp_path):
  folder = clip_files.write(tmp_path / "clip")
  features = ImageFeatures(str(folder), "centre", MeshConfig().make())
  images = np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), np.uint8)
  side = clip_files.CONFIG.image_size
  small = [
    Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    for image in images
  ]
  pixels = (np.stack(small) / 255 - MEAN) / STD
  encoder = clip_vision_encoder(clip_files.CONFIG)
  want = jax.jit(encoder.apply)(
    clip_files.variables(), pixels.astype(np.float32)
  ).pooled
  np.testing.assert_allclose(features.of(images), want, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused(tmp_path):
  folder = sd3_files.write(tmp_path / "sd3")
  with pytest.raises(InputError, match="lacks image_encoder"):
    ImageFeatures(str(folder), "centre", MeshConfig().make())
