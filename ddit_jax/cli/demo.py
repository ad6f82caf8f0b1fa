"""The verb `demo`: a checkpoint behind a page for a browser."""

import argparse
import pathlib

from ddit_jax.cli import serve
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.errors import InputError

# Seconds that open pages have after a signal: each holds a connection.
_GRACE = 2


def _demo(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  serve.check_modules("demo", "gradio", "uvicorn")
  workdir = _workdir(values)
  pipeline, limits = serve.load_pipeline(values)
  _keep_to_known_formats()
  from ddit_jax.demo.app import Demo
  from ddit_jax.serving.listening import listen

  demo = Demo(
    pipeline, name=serve.name_of(values), workdir=workdir, limits=limits
  )
  return listen(demo, values.host, values.port, grace=_GRACE)


def _keep_to_known_formats() -> None:
  """Takes from Pillow the formats that training does not read.

  Gradio opens what visitors send by any of them; that of PostScript starts
  another program.
  """
  from PIL import Image

  from ddit_jax.data.image import FORMATS

  Image.init()
  Image.ID[:] = [name for name in Image.ID if name in FORMATS]


def _workdir(values: argparse.Namespace) -> pathlib.Path | None:
  """The run that is shown; --checkpoint's own if it is one."""
  from ddit_jax.checkpoint.store import checkpoints_in
  from ddit_jax.demo.run_view import is_run

  folder = checkpoints_in(values.workdir or values.checkpoint).parent
  if is_run(folder):
    return folder
  if values.workdir:
    raise InputError(
      f"--workdir={values.workdir} holds no run that has logged a step: give "
      "the folder of `ddit train --workdir`"
    )
  return None


VERB = Verb(
  name="demo",
  summary="open a page that draws, describes and answers",
  description="""
Serves a page for a browser, with one copy of the weights:

  ddit demo --checkpoint=runs/digits

Then open http://127.0.0.1:7860. Its tabs draw images step by step and change
given ones; describe images, answer questions and fill in words, each token in
the colour of its probability; and show the curves, samples and incidents of a
run. The page loads nothing from elsewhere. There is no authentication: --host
other than 127.0.0.1 opens it to the network.
""",
  flags={
    **serve.FLAGS,
    "port": Flag("to listen at", int, 7860),
    "workdir": Flag(
      "run that the tab Train shows; --checkpoint if it is one", is_path=True
    ),
  },
  run=_demo,
  required=("checkpoint",),
  section="",
)
