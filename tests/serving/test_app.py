"""The server under a public client, in crowds, and with bad requests."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import signal
import socket
import threading
import time

import numpy as np
import openai
import pytest
from PIL import Image

from ddit_jax.serving.app import Server, ServerLimits
from ddit_jax.serving.listening import Listener

LIMITS = ServerLimits(
  max_images=4, max_body_bytes=100_000, max_waiting=60, max_pixels=4096
)


class Running:
  """A server in a thread, and its address."""

  def __init__(self, pipeline, **limits):
    settings = {name: getattr(LIMITS, name) for name in vars(LIMITS)}
    self.server = Server(
      pipeline, name="tiny", limits=ServerLimits(**settings | limits)
    )
    self.listener = Listener(self.server, "127.0.0.1", 0)
    self._thread = threading.Thread(target=self.listener.run, daemon=True)
    self._thread.start()
    while not self.listener.started:
      time.sleep(0.01)
    port = self.listener.servers[0].sockets[0].getsockname()[1]
    self.address, self.url = ("127.0.0.1", port), f"http://127.0.0.1:{port}"

  def close(self):
    self.listener.should_exit = True
    self._thread.join(20)
    assert not self._thread.is_alive()
    assert not self.server.batcher._thread.is_alive()

  def ask(self, method, path, body=None):
    """(status, JSON) of a request; a body is bytes, their parts, or JSON."""
    if isinstance(body, dict | list):
      body = json.dumps(body).encode()
    sent = http.client.HTTPConnection(*self.address, timeout=60)
    with contextlib.closing(sent):
      sent.request(method, path, body)
      answer = sent.getresponse()
      return answer.status, json.loads(answer.read())

  def post(self, path, body):
    return self.ask("POST", path, body)

  def num_waiting(self):
    return self.ask("GET", "/health")[1]["waiting"]


@pytest.fixture(scope="module")
def running(pipeline):
  made = Running(pipeline)
  yield made
  made.close()


@pytest.fixture
def quick(pipeline, monkeypatch):
  """A server whose pipeline takes no time, and the rows of its calls."""
  calls = []

  def text_to_image(prompts, *, indices, size, **_):
    calls.append(len(set(indices)))
    time.sleep(0.05)
    pixels = np.zeros((len(prompts), *size, 3), np.uint8)
    pixels[:, 0, 0, 0] = indices
    return type("Drawn", (), {"images": pixels})

  def infill(images, tokens, prompt_mask, **_):
    calls.append(len(images))
    # The answer is the image's level, as a token.
    filled = np.where(prompt_mask, tokens, pipeline.tokenizer.end_id)
    filled[np.arange(len(images)), prompt_mask.sum(1)] = images[:, 0, 0, 0]
    return type("Texts", (), {"tokens": filled})

  monkeypatch.setattr(pipeline, "text_to_image", text_to_image)
  monkeypatch.setattr(pipeline, "infill", infill)
  made = Running(pipeline)
  made.calls = calls
  yield made
  made.close()


def client(running):
  return openai.OpenAI(
    base_url=f"{running.url}/v1", api_key="none", max_retries=0
  )


def data_url(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "PNG")
  data = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/png;base64,{data}"


def question(url, text=None):
  parts = [{"type": "image_url", "image_url": {"url": url}}]
  if text is not None:
    parts.append({"type": "text", "text": text})
  return [{"role": "user", "content": parts}]


def pixels_of(answer):
  data = base64.b64decode(answer.data[0].b64_json)
  return np.asarray(Image.open(io.BytesIO(data)))


def test_a_public_client_draws_describes_and_asks(running, pipeline):
  ask = client(running)
  assert [model.id for model in ask.models.list()] == ["tiny"]
  drawn = ask.images.generate(
    model="tiny",
    prompt="a red seven",
    n=1,
    size="12x8",
    extra_body={"seed": 5, "guidance_scale": 2.0},
  )
  want = pipeline.text_to_image(
    ["a red seven"], size=(8, 12), indices=[5], guidance_scale=2.0
  )
  np.testing.assert_array_equal(pixels_of(drawn), want.images[0])
  image = np.full((16, 16, 3), 90, np.uint8)
  for text, want in (
    (None, pipeline.caption([image])),
    ("is it red?", pipeline.answer([image], ["is it red?"])),
  ):
    found = ask.chat.completions.create(
      model="tiny", messages=question(data_url(image), text)
    )
    assert found.choices[0].message.content == want[0]


def test_a_crowd_of_both_kinds_gets_its_own_answers(quick, pipeline):
  def draw(seed):
    body = {"prompt": "a red seven", "size": "8x8", "seed": seed}
    _, answer = quick.post("/v1/images/generations", body)
    data = base64.b64decode(answer["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0]

  def ask(number):
    image = np.full((16, 16, 3), number, np.uint8)
    body = {"messages": question(data_url(image), "is it red?")}
    _, answer = quick.post("/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"]

  with concurrent.futures.ThreadPoolExecutor(50) as pool:
    drawn = [pool.submit(draw, i) for i in range(25)]
    told = [pool.submit(ask, i) for i in range(25)]
    assert [future.result() for future in drawn] == list(range(25))
    found = [future.result() for future in told]
  assert found == [pipeline.tokenizer.decode([i]) for i in range(25)]
  # Together: far fewer calls than requests.
  assert len(quick.calls) < 30
  assert quick.num_waiting() == 0


def test_a_client_that_goes_leaves_nothing_behind(quick):
  body = json.dumps({"prompt": "", "n": 4, "size": "8x8"}).encode()
  head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: "
  for _ in range(8):
    with socket.create_connection(quick.address) as sent:
      sent.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
      time.sleep(0.01)
  # Half a body.
  with socket.create_connection(quick.address) as sent:
    sent.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body[:9])
  end = time.monotonic() + 10
  while quick.num_waiting():
    assert time.monotonic() < end
  status, _ = quick.post(
    "/v1/images/generations", {"prompt": "", "size": "8x8"}
  )
  assert status == 200


def test_a_full_queue_and_a_slow_answer_have_errors(
  quick, pipeline, monkeypatch
):
  blocked, begun = threading.Event(), threading.Event()

  def block(*_, **__):
    begun.set()
    blocked.wait(20)

  monkeypatch.setattr(pipeline, "text_to_image", block)
  slow = Running(pipeline, timeout=0.5, max_waiting=4)
  body = {"prompt": "", "n": 4}
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    first = pool.submit(slow.post, "/v1/images/generations", body)
    # The first no longer waits, the second does, and there is no more room.
    assert begun.wait(10)
    sent = [
      pool.submit(slow.post, "/v1/images/generations", body) for _ in range(2)
    ]
    sent.append(first)
    found = sorted(answer.result()[0] for answer in sent)
  assert found == [429, 504, 504]
  blocked.set()
  slow.close()


def test_a_signal_leaves_nobody_waiting(quick, pipeline, monkeypatch):
  blocked, begun = threading.Event(), threading.Event()
  draw = pipeline.text_to_image

  def block(*args, **named):
    begun.set()
    assert blocked.wait(20)
    return draw(*args, **named)

  monkeypatch.setattr(pipeline, "text_to_image", block)
  stopped = Running(pipeline)
  body = {"prompt": "", "size": "8x8"}
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(stopped.post, IMAGES, body)
    assert begun.wait(10)
    second = pool.submit(stopped.post, IMAGES, body)
    while not stopped.num_waiting():
      time.sleep(0.01)
    stopped.listener.handle_exit(signal.SIGINT, None)
    # While the first is still drawn.
    status, answer = second.result(10)
    assert status == 503 and "shutting down" in answer["error"]["message"]
    assert not first.done()
    blocked.set()
    assert first.result(10)[0] == 200
  stopped.close()


IMAGES, CHAT = "/v1/images/generations", "/v1/chat/completions"
GREY = data_url(np.zeros((16, 16, 3), np.uint8))
WIDE = data_url(np.zeros((16, 400, 3), np.uint8))


@pytest.mark.parametrize(
  ("path", "body", "status", "message"),
  [
    (IMAGES, b"{", 400, "the body is not JSON"),
    (IMAGES, b"[" * 5000, 400, "the body is not JSON"),
    (IMAGES, b"\xff\xfe", 400, "the body is not JSON"),
    (IMAGES, b"[]", 400, "must be a JSON object"),
    (IMAGES, b" " * 200_000, 413, "longer than 100000 bytes"),
    (IMAGES, {}, 400, "prompt must be a text, got None"),
    (IMAGES, {"prompt": "a dog"}, 400, "does not know 'dog'"),
    (IMAGES, {"prompt": "", "n": 5}, 400, "n must be a whole number in 1 to 4"),
    (IMAGES, {"prompt": "", "size": "9x9"}, 400, "make both sides multiples"),
    (IMAGES, {"prompt": "", "size": "large"}, 400, "must be 'WIDTHxHEIGHT'"),
    (IMAGES, {"prompt": "", "qualty": 1}, 400, "unknown field 'qualty'"),
    (IMAGES, {"prompt": "", "seed": -1}, 400, "seed must be a whole number"),
    (
      IMAGES,
      {"prompt": "", "num_inference_steps": 9000},
      400,
      "num_inference_steps is 9000, at most 200",
    ),
    (IMAGES, {"prompt": "", "guidance_scale": "x"}, 400, "must be float"),
    (IMAGES, {"prompt": "", "response_format": "url"}, 400, "only 'b64_json'"),
    (CHAT, {"messages": []}, 400, "a list of one message"),
    (CHAT, {"messages": question("http://x/y.png")}, 400, "nothing is fetched"),
    (CHAT, {"messages": question(GREY[:-9] + "!")}, 400, "is not base64"),
    (CHAT, {"messages": question(GREY[:60])}, 400, "image_url"),
    (CHAT, {"messages": question(WIDE)}, 400, "image_too_large"),
    (CHAT, {"messages": question(GREY, "is it sad?")}, 400, "not know 'sad'"),
    (CHAT, {"messages": question(GREY), "stream": True}, 400, "sent whole"),
    ("/v1/nothing", {}, 404, "there is no /v1/nothing"),
    ("/v1/models", {}, 405, "does not take POST"),
  ],
)
def test_bad_requests_get_an_error_in_json(
  running, path, body, status, message
):
  found, answer = running.post(path, body)
  assert found == status
  text = answer["error"]["message"]
  assert message in text and "\n" not in text


def test_an_endless_body_is_not_read(running):
  def parts():
    while True:
      yield b" " * 10_000

  try:
    status, _ = running.post(IMAGES, parts())
  # The server closes while the client still sends.
  except OSError:
    return
  assert status == 413
