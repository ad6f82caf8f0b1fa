"""The captioner's loss against slow loops, and of parts of a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch
from ddit_jax.losses.captioning import CaptionLoss
from ddit_jax.losses.drawn_texts import scored_positions

END, VOCAB = 0, 7
TOKENS = np.array([[3, 5, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
MASK = np.array([[True] * 5, [False, True, True, True, True], [True] * 5])


@dataclasses.dataclass(frozen=True)
class Fixed:
  """A model whose logits are given, whatever it reads."""

  logits: np.ndarray
  end_id: int = END

  def read(self, variables, images, keys):
    del variables, keys
    return images.reshape(len(images), 1, -1).astype(jnp.float32)

  def caption_logits(self, variables, read, tokens):
    del variables
    # The row's number is in its image.
    return jnp.asarray(self.logits)[read[:, 0, 0].astype(jnp.int32)]


def batch():
  images = np.zeros((3, 1, 1, 3), np.uint8)
  images[:, 0, 0, 0] = range(3)
  return DualBatch(
    None,
    ImageToTextBatch(
      images=jnp.asarray(images),
      tokens=jnp.asarray(TOKENS),
      loss_mask=jnp.asarray(MASK),
    ),
  )


def test_targets_end_with_the_first_end_of_a_text():
  want = [
    [True, True, True, False, False],
    [False, True, True, True, True],
    [True, False, False, False, False],
  ]
  got = scored_positions(jnp.asarray(TOKENS), ~jnp.asarray(MASK), END)
  np.testing.assert_array_equal(got, want)


def test_loss_is_the_mean_over_all_targets_and_parts_add_up():
  logits = np.random.default_rng(0).normal(size=(3, 5, VOCAB)).astype("f4")
  model, loss = Fixed(logits), CaptionLoss()
  read = loss.corrupt(
    batch(),
    jax.random.key(0),
    jnp.int32(3),
    model=model,
    variables=None,
    null_tokens=np.zeros(2, np.int32),
  )
  total, count = 0.0, 0
  for row in range(3):
    for at in range(5):
      is_after_end = END in [TOKENS[row][i] for i in range(at) if MASK[row][i]]
      if MASK[row][at] and not is_after_end:
        scores = logits[row, at].astype("f8")
        log_p = scores - np.log(np.exp(scores).sum())
        total, count = total - log_p[TOKENS[row][at]], count + 1
  losses, buckets = loss.losses(model, None, read)
  assert buckets == {} and count == 8
  # Measured 7e-8.
  np.testing.assert_allclose(loss.total(losses), total / count, rtol=1e-6)
  parts = [
    dataclasses.replace(
      read, **{n: a[i : i + 1] for n, a in vars(read).items()}
    )
    for i in range(3)
  ]
  added = sum(loss.losses(model, None, part)[0]["text"] for part in parts)
  np.testing.assert_allclose(added, losses["text"], rtol=1e-6)
  assert loss.alone(read) == {"both": read}


def test_rows_without_an_image_do_not_count():
  """Sources of images say of each row whether it has one."""
  texts = batch().image_to_text
  read = CaptionLoss().corrupt(
    DualBatch(None, texts.replace(has_image=jnp.array([True, True, False]))),
    jax.random.key(0),
    jnp.int32(0),
    model=Fixed(np.zeros((3, 5, VOCAB))),
    variables=None,
    null_tokens=np.zeros(2, np.int32),
  )
  # Three and four targets of the first two rows.
  want = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0] * 5]
  np.testing.assert_allclose(read.weight, np.array(want) / 7, rtol=1e-6)


def test_texts_without_images_are_refused():
  texts = batch().image_to_text.replace(images=None)
  with pytest.raises(ValueError, match="a captioner needs an image"):
    CaptionLoss().corrupt(
      DualBatch(None, texts),
      jax.random.key(0),
      jnp.int32(0),
      model=Fixed(np.zeros((3, 5, VOCAB))),
      variables=None,
      null_tokens=np.zeros(2, np.int32),
    )
