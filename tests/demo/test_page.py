"""The page in a real browser: it draws, changes, describes, asks, fills in."""

import io
import pathlib
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ddit_jax.demo.app import Demo
from ddit_jax.demo.writing import blanks_template
from ddit_jax.serving.app import ServerLimits
from ddit_jax.serving.listening import Listener

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PROMPT, QUESTION = "a picture of a red seven", "what color is the number?"
# Milliseconds; what is drawn first compiles.
PATIENCE = 300_000

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="there is no browser"),
]


@pytest.fixture(scope="module")
def url(pipeline, trained):
  limits = ServerLimits(max_images=2)
  demo = Demo(
    pipeline, name="tiny", workdir=pathlib.Path(trained), limits=limits
  )
  listener = Listener(demo, "127.0.0.1", 0, grace=1)
  thread = threading.Thread(target=listener.run, daemon=True)
  thread.start()
  while not listener.started:
    time.sleep(0.01)
  port = listener.servers[0].sockets[0].getsockname()[1]
  yield f"http://127.0.0.1:{port}"
  demo.batcher.close()
  listener.should_exit = True
  thread.join(20)
  assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser():
  playwright = pytest.importorskip("playwright.sync_api")
  with playwright.sync_playwright() as driver:
    options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
    yield driver.chromium.launch(**options)


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["wide", "phone"])
def page(request, browser, url):
  """The open page; nothing is loaded from elsewhere, nothing is cut off."""
  width, height = request.param
  context = browser.new_context(viewport={"width": width, "height": height})
  page, outside, errors = context.new_page(), [], []
  page.set_default_timeout(PATIENCE)
  page.on("request", lambda sent: outside.append(sent.url))
  page.on("pageerror", lambda error: errors.append(str(error)))
  page.goto(url)
  page.locator("#draw").wait_for()
  yield page
  assert page.evaluate("document.documentElement.scrollWidth") == width
  context.close()
  assert errors == []
  known = (url, "data:", "blob:")
  assert not [sent for sent in outside if not sent.startswith(known)]


def drawn_pixels(page):
  """The first drawn image, as the browser has it."""
  done = page.locator("#draw-status").get_by_text("Done in")
  done.wait_for()
  source = page.locator("#drawn img").first.get_attribute("src")
  answer = page.request.get(source)
  return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))


def write(page, want):
  """Writes and waits until the text is there."""
  from playwright.sync_api import expect

  page.locator("#write").click()
  answer = page.locator("#answer textarea")
  expect(answer).to_have_value(want, timeout=PATIENCE)
  page.locator("#write-status").get_by_text("Done in").wait_for()


def test_it_draws_describes_and_asks(page, pipeline):
  want = pipeline.text_to_image([PROMPT])
  page.locator("#draw").click()
  np.testing.assert_array_equal(drawn_pixels(page), want[0])
  assert page.locator("#stages img").count() == 2
  page.get_by_role("button", name="Describe this image").click()
  page.locator("#picture img").wait_for()
  write(page, pipeline.caption(want)[0])
  page.get_by_label("ask", exact=True).check()
  page.locator("#text textarea").fill(QUESTION)
  write(page, pipeline.answer(want, [QUESTION])[0])
  given = page.locator("#tokens .ddit-text .ddit-given")
  # An answer may be the caption's words.
  given.first.wait_for()
  assert given.all_inner_texts()[:3] == ["Q:", "what", "color"]
  page.get_by_label("fill in", exact=True).check()
  page.locator("#text textarea").fill("a _ seven")
  length = pipeline.config.data.image_to_text.text_length
  tokens, is_given = blanks_template(pipeline.tokenizer, "a _ seven", length)
  filled = pipeline.infill(want, tokens[None], is_given[None]).tokens[0]
  write(page, pipeline.tokenizer.decode(filled))
  page.get_by_role("tab", name="Train").click()
  page.locator("#run svg").first.wait_for()
  assert "6 of 6 training steps" in page.locator("#run").inner_text()


def test_what_is_not_painted_stays_as_it_is(page, pipeline):
  want = pipeline.text_to_image([PROMPT])[0]
  page.locator("#draw").click()
  drawn_pixels(page)
  page.get_by_role("button", name="Change this image").click()
  canvas = page.locator("#editor canvas").first
  canvas.wait_for()
  # Nothing tells when the image has come into the editor.
  time.sleep(3)
  page.get_by_label("Brush").first.click()
  box = canvas.bounding_box()
  middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
  page.mouse.move(*middle)
  page.mouse.down()
  page.mouse.move(middle[0] + 10, middle[1] + 10, steps=4)
  page.mouse.up()
  time.sleep(1)
  page.locator("#draw").click()
  page.locator("#draw-status").get_by_text("Done in 2 steps, from").wait_for()
  changed = (drawn_pixels(page) != want).any(-1)
  assert changed.any()
  assert not changed[0].any() and not changed[:, 0].any()


def test_errors_are_told_in_one_line(page):
  page.locator("#prompt textarea").fill("a dog")
  page.locator("#draw").click()
  page.get_by_text("does not know 'dog'").first.wait_for()
