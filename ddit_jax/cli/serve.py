"""The verb `serve`: a checkpoint behind HTTP."""

import argparse
import importlib.util
import pathlib

from ddit_jax.cli import compilation_cache
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.errors import InputError


def _serve(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  check_modules("serve", "starlette", "uvicorn")
  pipeline, limits = load_pipeline(values, timeout=values.timeout)
  from ddit_jax.serving.app import Server
  from ddit_jax.serving.listening import listen

  server = Server(pipeline, name=name_of(values), limits=limits)
  return listen(server, values.host, values.port)


def check_modules(verb: str, *names: str) -> None:
  """Raises InputError unless the modules of an extra of this name are there."""
  for name in names:
    if importlib.util.find_spec(name) is None:
      raise InputError(
        f"ddit {verb} needs {name}: pip install 'ddit_jax[{verb}]'"
      )


def load_pipeline(values: argparse.Namespace, **limits: float):
  """(pipeline, limits) of the flags, which are checked first.

  Args:
    values: of `FLAGS`.
    **limits: further ones, flags of the verb as well.

  Raises:
    InputError: a flag's value, or the checkpoint, is unusable.
  """
  if not 0 <= values.port <= 65535:
    raise InputError(f"--port must be in 0 to 65535, got {values.port}")
  if not values.host:
    raise InputError(
      "--host is empty, which would open every address of this machine: name "
      "one, such as 127.0.0.1"
    )
  for name in ("batch_size", "max_waiting", *limits):
    # Also refuses NaN.
    if not getattr(values, name) > 0:
      raise InputError(
        f"--{name} must be positive, got {getattr(values, name)}"
      )
  if values.max_waiting < values.batch_size:
    raise InputError(
      f"--max_waiting={values.max_waiting} is less than "
      f"--batch_size={values.batch_size}: full batches could never wait"
    )
  from ddit_jax.pipelines.load import load, refuse_captioner
  from ddit_jax.serving.app import ServerLimits

  refuse_captioner(values.checkpoint, values.step, "this verb")
  compilation_cache.use(values)
  pipeline = load(
    values.checkpoint,
    weights=values.weights,
    step=values.step,
    dtype=values.dtype,
  )
  return pipeline, ServerLimits(
    max_images=values.batch_size, max_waiting=values.max_waiting, **limits
  )


def name_of(values: argparse.Namespace) -> str:
  """What a checkpoint is called: its folder's name."""
  return pathlib.Path(values.checkpoint).resolve().name


FLAGS = {
  "checkpoint": Flag(
    "folder of a run, its checkpoints, or converted weights", is_path=True
  ),
  "weights": Flag("ema (exponential moving average) or params", str, "ema"),
  "step": Flag("checkpoint's step; the newest if unset", int),
  "dtype": Flag("float32 or bfloat16; the checkpoint's own if unset"),
  "host": Flag("address to listen at", str, "127.0.0.1"),
  "port": Flag("to listen at", int, 8000),
  "batch_size": Flag("most images or texts of a request or a call", int, 16),
  "max_waiting": Flag("images and texts in the queue", int, 256),
  **compilation_cache.FLAGS,
}
VERB = Verb(
  name="serve",
  summary="answer HTTP requests for images, captions and answers",
  description="""
Serves a checkpoint to clients of OpenAI's API, with one copy of the weights:

  ddit serve --checkpoint=runs/digits --port=8000

  POST /v1/images/generations   prompt, n, size, seed, negative_prompt, ...
  POST /v1/chat/completions     one message with an image_url (base64) and a
                                question; without one it is captioned
  GET  /v1/models, /health

Requests that ask for the same settings run in one call. Requests that are too
large, wait too long or cannot be understood get an error in JSON. There is no
authentication: --host other than 127.0.0.1 opens it to the network.
""",
  flags={
    **FLAGS,
    "timeout": Flag("seconds from a request to its answer", float, 600.0),
  },
  run=_serve,
  required=("checkpoint",),
  section="",
)
