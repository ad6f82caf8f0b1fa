"""The routes of `ddit serve`: an ASGI application."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ddit_jax.errors import InputError, one_line
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.serving import messages
from ddit_jax.serving.batcher import Batcher, BusyError
from ddit_jax.serving.engine import Engine, ImageGroup

_log = logging.getLogger(__name__)
# Seconds between two looks whether a client is still there.
_LOOK_EVERY = 0.2
_CLOSED_BY_CLIENT = 499
# What else the client sends is not read.
_CLOSE = {"connection": "close"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerLimits(messages.Limits):
  """Limits of the whole server.

  Attributes:
    max_body_bytes: of a request.
    max_waiting: images and texts in the queue.
    timeout: seconds that a body may take to arrive, and then the answer.
  """

  max_body_bytes: int = 2**24
  max_waiting: int = 256
  timeout: float = 600.0


class Server:
  """A pipeline's routes.

  Args:
    pipeline: of a checkpoint.
    name: by which clients know it.
    limits: what clients may ask for; `max_images` is also the most images or
      texts in one call.
  """

  def __init__(
    self,
    pipeline: Pipeline | Sd3Pipeline,
    *,
    name: str,
    limits: ServerLimits = ServerLimits(),
  ):
    self._pipeline, self._name, self._limits = pipeline, name, limits
    self.batcher = Batcher(
      Engine(pipeline, limits.max_images).run,
      batch_size=limits.max_images,
      max_waiting=limits.max_waiting,
    )
    self._created = int(time.time())

  def app(self) -> Starlette:
    """The application; its end closes the queue."""
    images = functools.partial(self._answer, messages.image_job)
    chat = functools.partial(self._answer, messages.chat_job)

    @contextlib.asynccontextmanager
    async def lifespan(_):
      yield
      await run_in_threadpool(self.batcher.close)

    return Starlette(
      routes=[
        Route("/health", self._health),
        Route("/v1/models", self._models),
        Route("/v1/images/generations", _route(images), methods=["POST"]),
        Route("/v1/chat/completions", _route(chat), methods=["POST"]),
      ],
      exception_handlers={HTTPException: _http_error, Exception: _failure},
      lifespan=lifespan,
    )

  async def _health(self, _: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "waiting": self.batcher.num_waiting})

  async def _models(self, _: Request) -> JSONResponse:
    model = {
      "id": self._name,
      "object": "model",
      "created": self._created,
      "owned_by": "ddit_jax",
    }
    return JSONResponse({"object": "list", "data": [model]})

  async def _answer(
    self, job_of: Callable[..., tuple[Any, list]], request: Request
  ) -> JSONResponse:
    try:
      async with asyncio.timeout(self._limits.timeout):
        body = await self._body(request)
      fields = messages.fields_of(body)
      group, rows = await run_in_threadpool(
        job_of, fields, self._pipeline, self._limits
      )
      future = asyncio.wrap_future(self.batcher.submit(group, rows))
    except InputError as error:
      return _error(400, one_line(error))
    except BusyError as error:
      return _error(429, str(error), "rate_limit_error")
    except TimeoutError:
      text = "the body did not arrive in time"
      return _error(408, text, "timeout_error", headers=_CLOSE)
    except ClientDisconnect:
      return _error(_CLOSED_BY_CLIENT, "the client has gone")
    found = await self._found(future, request)
    if isinstance(found, JSONResponse):
      return found
    if isinstance(group, ImageGroup):
      answer = await run_in_threadpool(messages.images_answer, found)
    else:
      answer = messages.chat_answer(found, self._name)
    return JSONResponse(answer)

  async def _body(self, request: Request) -> bytes:
    """The body, read no further than it may be long."""
    limit, chunks, size = self._limits.max_body_bytes, [], 0
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
      size = int(announced)
    else:
      async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
          break
    if size > limit:
      raise HTTPException(
        413,
        f"the body is longer than {limit} bytes: send a smaller image",
        headers=_CLOSE,
      )
    return b"".join(chunks)

  async def _found(
    self, future: asyncio.Future, request: Request
  ) -> list | JSONResponse:
    """The results, or the error of a job whose client or time has gone."""
    end = time.monotonic() + self._limits.timeout
    while not future.done():
      await asyncio.wait([future], timeout=_LOOK_EVERY)
      if future.done():
        break
      if await request.is_disconnected():
        future.cancel()
        return _error(_CLOSED_BY_CLIENT, "the client has gone")
      if time.monotonic() > end:
        future.cancel()
        return _error(
          504,
          f"no answer within {self._limits.timeout:g} seconds: ask for less, "
          "or later",
          "timeout_error",
        )
    if future.cancelled():
      return _error(503, "the server is shutting down", "server_error")
    try:
      return future.result()
    except InputError as error:
      return _error(400, one_line(error))
    except Exception as error:
      _log.exception("a job failed")
      return _error(500, f"the model failed: {one_line(error)}", "server_error")


def _route(handle):
  async def endpoint(request: Request) -> JSONResponse:
    return await handle(request)

  return endpoint


def _error(
  status: int,
  message: str,
  kind: str = "invalid_request_error",
  headers: Mapping[str, str] | None = None,
) -> JSONResponse:
  """An error in the form that clients read."""
  body = {"message": message, "type": kind, "param": None, "code": None}
  return JSONResponse({"error": body}, status_code=status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
  messages_of = {
    404: f"there is no {request.url.path}",
    405: f"{request.url.path} does not take {request.method}",
  }
  message = messages_of.get(error.status_code, error.detail)
  return _error(error.status_code, message, headers=error.headers)


async def _failure(request: Request, error: Exception) -> JSONResponse:
  _log.error("%s failed: %s", request.url.path, one_line(error))
  return _error(500, "the server failed", "server_error")
