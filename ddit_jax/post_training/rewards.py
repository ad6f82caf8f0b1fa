"""Rewards of drawn images and texts: plain functions on the host.

A reward takes a batch of `Outputs` and returns a finite number for each row.
Its name is one of `IMAGE_REWARDS` or `TEXT_REWARDS`, or "module:function" for
one's own, whose module is installed or lies in the current folder.
"""

import dataclasses
import functools
import importlib
import importlib.util
import io
import os
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ddit_jax.digits import grammar
from ddit_jax.digits.prompts import Prompt, prompts
from ddit_jax.digits.world import WORLDS, World
from ddit_jax.errors import InputError, suggest
from ddit_jax.evaluation import answer_forms
from ddit_jax.evaluation.fact_scores import fact_scores

_KILOBYTE = 1024
_YES_NO = ("yes", "no")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
  """A batch of what a policy drew, and what it was asked.

  Attributes:
    prompts: captions to draw, or questions; "" asks for a caption.
    images: uint8 [rows, height, width, 3]: drawn, or asked about.
    texts: captions or answers that were drawn; "" where images were.
    references: the data's text for the same prompt.
  """

  prompts: list[str]
  images: UInt8[np.ndarray, "rows height width 3"]
  texts: list[str]
  references: list[str]


Reward = Callable[[Outputs], Sequence[float]]


def digits(outputs: Outputs) -> list[float]:
  """1 where the digit checker finds what the prompt asks for, else 0.

  Raises:
    InputError: no digit world has images of this size, or a prompt is none of
      `digits.prompts`.
  """
  # Importing scikit-learn takes 1.4 s, and most runs have no rewards.
  from ddit_jax.digits.judge import judge_for

  side = outputs.images.shape[1]
  found = [world for world in WORLDS.values() if world.canvas == side]
  if not found:
    raise InputError(
      f"the reward digits reads images of a digit world, not of {side} pixels: "
      "choose another reward"
    )
  known = _prompts_by_text(found[0])
  findings = judge_for(found[0]).find(outputs.images)
  return [
    float(finding.judge(_known_prompt(known, text)).is_correct)
    for finding, text in zip(findings, outputs.prompts, strict=True)
  ]


@functools.cache
def _prompts_by_text(world: World) -> dict[str, Prompt]:
  return {prompt.text: prompt for prompt in prompts(world)}


def _known_prompt(known: Mapping[str, Prompt], text: str) -> Prompt:
  if text not in known:
    raise InputError(
      f"the reward digits knows no prompt {text!r}: set "
      "data.text_to_image.mixture to the prompts, {'0': {'prompts': 1}}"
    )
  return known[text]


def image_kilobytes(outputs: Outputs) -> list[float]:
  """Size of the image as a JPEG file: it shows that a reward is followed."""
  return [_jpeg_bytes(image) / _KILOBYTE for image in outputs.images]


def _jpeg_bytes(pixels: UInt8[np.ndarray, "height width 3"]) -> int:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "jpeg")
  return file.tell()


def exact_match(outputs: Outputs) -> list[float]:
  """1 where the text is the reference in VQA v2's normal form."""
  return [float(text == wanted) for text, wanted in _normal_forms(outputs)]


def soft_match(outputs: Outputs) -> list[float]:
  """F1 of the words of text and reference in VQA v2's normal form."""
  return [
    fact_scores([_words(text)], [_words(wanted)])["total"].f1
    for text, wanted in _normal_forms(outputs)
  ]


def _normal_forms(outputs: Outputs) -> list[tuple[str, str]]:
  pairs = zip(outputs.texts, outputs.references, strict=True)
  return [(answer_forms.vqa(a), answer_forms.vqa(b)) for a, b in pairs]


def _words(text: str) -> set[tuple[str, str]]:
  return {("word", word) for word in text.split()}


def caption_facts(outputs: Outputs) -> list[float]:
  """F1 of the facts that a digit world's caption and its reference state."""
  pairs = zip(outputs.texts, outputs.references, strict=True)
  facts = [[grammar.caption_facts(text) for text in pair] for pair in pairs]
  return [fact_scores([a], [b])["total"].f1 for a, b in facts]


def answer_format(outputs: Outputs) -> list[float]:
  """1 where a text could be an answer, right or wrong.

  It has at least one word and at most twice those of its reference, and is yes
  or no where the reference is.
  """
  return [
    float(_has_form(text, wanted)) for text, wanted in _normal_forms(outputs)
  ]


def _has_form(text: str, wanted: str) -> bool:
  if wanted in _YES_NO:
    return text in _YES_NO
  return 1 <= len(text.split()) <= 2 * max(1, len(wanted.split()))


IMAGE_REWARDS: dict[str, Reward] = {
  "digits": digits,
  "image_kilobytes": image_kilobytes,
}
TEXT_REWARDS: dict[str, Reward] = {
  "exact_match": exact_match,
  "soft_match": soft_match,
  "caption_facts": caption_facts,
  "answer_format": answer_format,
}


def open_reward(name: str, known: Mapping[str, Reward]) -> Reward:
  """The reward of a name of `known` or of "module:function".

  Only the trainer opens rewards, with the names of the config that it was
  given: the module runs.

  Raises:
    InputError: there is none.
  """
  if name in known:
    return known[name]
  module, _, function = name.partition(":")
  if not function or not module or module.startswith("."):
    raise InputError(
      f"this task has no reward {name!r}: {suggest(name, known)} (your own are "
      "named module:function)"
    )
  try:
    found = getattr(_imported(module), function)
  # Importing a module runs it, and it may be unfinished.
  except Exception as error:
    raise InputError(
      f"the reward {name!r} cannot be opened: {type(error).__name__}: {error} "
      f"(modules are installed or lie in the current folder, {os.getcwd()})"
    ) from error
  if not callable(found):
    raise InputError(f"the reward {name!r} is {found!r}: name a function")
  return found


def _imported(name: str) -> types.ModuleType:
  """A module that is installed, or else one of the current folder.

  The folder is on the path during the import alone. A file there can take the
  place of no installed module, and none is run that the given one, which the
  user has named, does not import.
  """
  package = name.partition(".")[0]
  if package in sys.modules or importlib.util.find_spec(package):
    return importlib.import_module(name)
  folder = os.getcwd()
  sys.path.append(folder)
  try:
    return importlib.import_module(name)
  finally:
    sys.path.remove(folder)


def score(
  rewards: Mapping[str, Reward], outputs: Outputs
) -> tuple[Float32[np.ndarray, "rows kinds"], dict[str, float]]:
  """Each reward of all rows, and the seconds that each took.

  Raises:
    InputError: a reward did not give a finite number for each row.
  """
  values, seconds = [], {}
  for name, reward in rewards.items():
    begin = time.monotonic()
    given = _as_numbers(name, reward(outputs))
    seconds[name] = time.monotonic() - begin
    if given.shape != (len(outputs.prompts),) or not np.isfinite(given).all():
      raise InputError(
        f"the reward {name!r} gave {given.shape} for {len(outputs.prompts)} "
        "rows, or a number that is not finite: return one for each row"
      )
    values.append(given)
  return np.stack(values, axis=1), seconds


def _as_numbers(name: str, given: Sequence[float]) -> np.ndarray:
  try:
    return np.asarray(given, np.float32)
  except (TypeError, ValueError) as error:
    raise InputError(
      f"the reward {name!r} gave no numbers ({error}): return one for each row"
    ) from error
