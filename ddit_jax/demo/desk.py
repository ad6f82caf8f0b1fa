"""Where the tabs hand in their jobs, and hear of what went wrong."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError

import gradio as gr
from PIL import Image

from ddit_jax.errors import InputError, one_line
from ddit_jax.pipelines.image_pipeline import ImagePipeline
from ddit_jax.serving.app import ServerLimits
from ddit_jax.serving.batcher import Batcher, BusyError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Desk:
  """What all tabs need.

  Attributes:
    pipeline: of the checkpoint.
    batcher: runs its calls, one after the other.
    limits: what visitors may ask for.
  """

  pipeline: ImagePipeline
  batcher: Batcher
  limits: ServerLimits

  @property
  def image_class(self) -> str:
    """The class of drawn images: few pixels are shown as such, not blurred."""
    return "ddit-pixels" if self.pipeline.image_size < 256 else "ddit-image"


def counted(number: int, thing: str) -> str:
  """ "1 step", "2 steps"."""
  return f"{number} {thing}{'s' * (number != 1)}"


def cut_note(image: Image.Image, size: tuple[int, int]) -> str:
  """Says that an image loses its edges in (height, width); else ""."""
  height, width = size
  if image.width * height == image.height * width:
    return ""
  return (
    f" (its edges are cut: it is {image.width} x {image.height} pixels, the "
    f"model's are {width} x {height})"
  )


@contextlib.contextmanager
def telling() -> Iterator[None]:
  """Shows errors to the visitor, in one line each."""
  try:
    yield
  except (InputError, BusyError) as error:
    raise _shown(one_line(error)) from error
  except CancelledError as error:
    raise _shown("the server is shutting down") from error
  except Exception as error:
    _log.exception("a job failed")
    raise _shown(f"the model failed: {one_line(error)}") from error


def _shown(message: str) -> gr.Error:
  return gr.Error(message, title="", print_exception=False)
