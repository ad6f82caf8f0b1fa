"""Bodies that are read, and what is wrong with others."""

import dataclasses
import json

import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.monitor.image_grid import png_base64
from ddit_jax.prng import MAX_SEED
from ddit_jax.serving.messages import Limits, chat_job, fields_of, image_job

LIMITS = Limits(max_images=4)
GREY = png_base64(np.zeros((16, 16, 3), np.uint8), "grey")


def chat(url, **fields):
  parts = [{"type": "image_url", "image_url": {"url": url}}]
  body = {"messages": [{"role": "user", "content": parts}]}
  return json.dumps(body | fields).encode()


@pytest.mark.parametrize(
  ("job", "body", "message"),
  [
    (chat_job, chat("data:image/png;base64,é"), "image_url is not base64"),
    (image_job, rb'{"prompt": "\ud800"}', "prompt is not Unicode"),
    (image_job, b'{"prompt": "", "prompt": "a"}', "names 'prompt' twice"),
    (image_job, b'{"prompt": "", "size": "0x8"}', "0 x 8|8 x 0"),
  ],
)
def test_what_cannot_be_read_is_named(pipeline, job, body, message):
  with pytest.raises(InputError, match=message):
    job(fields_of(body), pipeline, LIMITS)


def test_seeds_go_up_to_the_last_one(pipeline):
  def seeds(seed):
    fields = {"prompt": "", "n": 2, "seed": seed}
    return [row.seed for row in image_job(fields, pipeline, LIMITS)[1]]

  assert seeds(MAX_SEED - 1) == [MAX_SEED - 1, MAX_SEED]
  with pytest.raises(InputError, match=f"seed .* in 0 to {MAX_SEED - 1}"):
    seeds(MAX_SEED)


def test_steps_of_images_do_not_bound_texts(pipeline):
  few = dataclasses.replace(LIMITS, max_steps=1)
  with pytest.raises(InputError, match=r"_steps is \d+, at most 1 are"):
    image_job({"prompt": ""}, pipeline, few)
  body = chat(f"data:image/png;base64,{GREY}", temperature=0.5)
  group, _ = chat_job(fields_of(body), pipeline, few)
  assert group.settings == (("text.temperature", 0.5),)
