"""The tab Describe and ask: its fields to a job, and texts as they form."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from PIL import Image

from ddit_jax.data.text import answer_text, check_prompt
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.demo.watching import Watch
from ddit_jax.errors import InputError, preparing
from ddit_jax.pipelines.inputs import image_batch, sample_config
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.sampling.text_options import PRESETS
from ddit_jax.serving.engine import TextGroup, TextRow

WRITING_TASKS = ("describe", "ask", "fill in")
# "_" alone, or between marks, is one token to fill in.
_BLANK = re.compile(r"(?<!\w)_(?!\w)")
_GOES_ON = re.compile(r"\s*(?:\.\.\.|…)\s*$")


@dataclasses.dataclass(frozen=True)
class TextState:
  """A text after some network calls.

  Attributes:
    calls: of the network.
    tokens: ids; the mask's where nothing is known.
    probabilities: of the tokens when they were taken; 1 for given ones.
  """

  calls: int
  tokens: Int[np.ndarray, " length"]
  probabilities: Float[np.ndarray, " length"]


class Writing(Watch):
  """One text on its way.

  Args:
    tokenizer: of the text.
    prompt_mask: True where a token is given.

  Attributes:
    states: after each network call so far.
    prompt_mask: True where a token is given.
  """

  def __init__(self, tokenizer: Tokenizer, prompt_mask: np.ndarray):
    super().__init__()
    self._tokenizer = tokenizer
    self.prompt_mask = prompt_mask
    self.states: list[TextState] = []

  def see(
    self, calls: int, tokens: np.ndarray, probabilities: np.ndarray
  ) -> bool:
    """The text after a call; whether anybody wants it."""
    self.states.append(TextState(int(calls), tokens, probabilities))
    return self.tell()

  @property
  def text(self) -> str:
    """What was written, or with words at chosen places the whole text.

    It is "" as long as tokens are masked.
    """
    tokenizer, given = self._tokenizer, self.prompt_mask
    tokens = self.states[-1].tokens if self.states else np.empty(0, int)
    if len(tokens) < len(given) or (tokens == tokenizer.mask_id).any():
      return ""
    is_prompt = given[: given.sum()].all()
    whole = np.zeros_like(given)
    return answer_text(tokenizer, tokens, given if is_prompt else whole)


def writing_job(
  image: Image.Image | None,
  text: str,
  pipeline: Pipeline,
  *,
  task: str,
  seed: int = 0,
  settings: Mapping[str, Any] | None = None,
) -> tuple[TextGroup, list[TextRow], Writing]:
  """The job of what a user asks for, watched.

  Args:
    image: that the text is about.
    text: the question, or the text with blanks; captions have none.
    pipeline: writes.
    task: of `WRITING_TASKS`.
    seed: of the draws.
    settings: changes of the sampling config, see `text_settings`.

  Raises:
    InputError: it cannot be written.
  """
  if image is None:
    raise InputError("there is no image: put one in, or take the drawn one")
  if task == "fill in":
    length = pipeline.config.data.image_to_text.text_length
    with preparing():
      template = blanks_template(pipeline.tokenizer, text, length)
  elif task == "ask" and not text.strip():
    raise InputError("there is no question: write one")
  else:
    prompt = pipeline.prompts([text])[0] if task == "ask" else ""
    template = pipeline.template(prompt)
  settings = settings or {}
  sample_config(pipeline.sample, settings)
  (pixels,) = image_batch([image], pipeline.input_size, pipeline.input_crop)
  writing = Writing(pipeline.tokenizer, template[1])
  row = TextRow(pixels, *template, seed, watch=writing.see)
  return TextGroup(tuple(sorted(settings.items()))), [row], writing


def text_settings(
  way: str, *, num_steps: int, temperature: float
) -> dict[str, Any]:
  """Changes of the sampling config.

  Args:
    way: a preset or an order; "" is the checkpoint's own.
    num_steps: of orders.
    temperature: of orders.
  """
  if not way:
    return {}
  if way in PRESETS:
    return {"text.preset": way}
  return {
    # All others from their defaults.
    "text.preset": "",
    "text.order": way,
    "text.num_steps": num_steps,
    "text.temperature": temperature,
  }


def blanks_template(
  tokenizer: Tokenizer, text: str, length: int
) -> tuple[Int32[np.ndarray, " length"], Bool[np.ndarray, " length"]]:
  """The sampler's initial (tokens, prompt_mask) of a text with blanks.

  Args:
    tokenizer: encodes what is given.
    text: each "_" is one token to fill in; a text that ends with "..." or "…"
      goes on as the model likes, others end where they end.
    length: tokens of the whole.

  Raises:
    ValueError: there is nothing to fill in, the text is too long, or a word is
      not known.
  """
  given_text = _GOES_ON.sub("", text)
  ids: list[int | None] = []
  for number, part in enumerate(_BLANK.split(given_text)):
    if number:
      ids.append(None)
    # Tokenizers of word pieces tell words from their parts by the blank before.
    part = part.rstrip() if number else part.strip()
    if part.strip():
      check_prompt(tokenizer, part)
      ids += tokenizer.encode(part)
  goes_on = given_text != text
  if None not in ids and not goes_on:
    raise ValueError(
      "there is nothing to fill in: write _ for each token, or ... at the end"
    )
  if len(ids) + goes_on > length:
    raise ValueError(
      f"the text has {len(ids)} tokens, this model's have {length} together "
      "with what it writes: shorten it"
    )
  tokens = np.full(length, tokenizer.end_id, np.int32)
  is_given = np.full(length, not goes_on)
  is_given[: len(ids)] = [id_ is not None for id_ in ids]
  tokens[: len(ids)] = [tokenizer.mask_id if x is None else x for x in ids]
  return tokens, is_given
