"""The page and its queue behind HTTP, an ASGI application."""

import pathlib

import fastapi

from ddit_jax.demo import page
from ddit_jax.demo.desk import Desk
from ddit_jax.pipelines.image_pipeline import ImagePipeline
from ddit_jax.serving.app import ServerLimits
from ddit_jax.serving.batcher import Batcher
from ddit_jax.serving.engine import Engine


class Demo:
  """A pipeline's page.

  Args:
    pipeline: of a checkpoint.
    name: of the checkpoint, the page's title.
    workdir: of the run that the tab Train shows; None for no such tab.
    limits: what visitors may ask for; `max_images` is also the most images or
      texts in one call.
  """

  def __init__(
    self,
    pipeline: ImagePipeline,
    *,
    name: str,
    workdir: pathlib.Path | None = None,
    limits: ServerLimits,
  ):
    self.batcher = Batcher(
      Engine(pipeline, limits.max_images).run,
      batch_size=limits.max_images,
      max_waiting=limits.max_waiting,
    )
    self._desk = Desk(pipeline=pipeline, batcher=self.batcher, limits=limits)
    self._name, self._workdir = name, workdir

  def app(self) -> fastapi.FastAPI:
    """The application."""
    app = fastapi.FastAPI(openapi_url=None)
    return page.mounted(app, self._desk, name=self._name, workdir=self._workdir)
