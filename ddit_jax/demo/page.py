"""The whole page, in Gradio: its tabs, and how it is served."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import fastapi
import gradio as gr
from markupsafe import Markup

from ddit_jax.data.tokenizers import words_of
from ddit_jax.demo.desk import Desk, telling
from ddit_jax.demo.draw_tab import DrawTab, chosen_image
from ddit_jax.demo.run_view import drawn_once, stamp
from ddit_jax.demo.write_tab import WriteTab
from ddit_jax.demo.writing import blanks_template
from ddit_jax.pipelines.image_pipeline import ImagePipeline
from ddit_jax.pipelines.pipeline import Pipeline

_CSS = pathlib.Path(__file__).with_name("page.css")
# Those of the reader's system: nothing is fetched.
_FONT = ("system-ui", "sans-serif")
_MONO_FONT = ("ui-monospace", "monospace")
# Seconds between two looks at the files of a run.
_LOOK_EVERY = 5
# Seconds after which Gradio's copies of images are removed.
_KEEP_FILES = 3600
_PRIVATE = {"api_visibility": "private"}
# To begin with, where the model knows their words.
_PROMPTS = ("a picture of a red seven", "a photo of a cat")
_TEXTS = {
  "ask": ("what color is the number?", "what is in the image?"),
  "fill in": ("a picture of a _ _", "a photo of _ ..."),
}


def mounted(
  app: fastapi.FastAPI, desk: Desk, *, name: str, workdir: pathlib.Path | None
) -> fastapi.FastAPI:
  """The application with the page at its root.

  The browser loads nothing from elsewhere, and nothing is sent anywhere.

  Args:
    app: to mount the page on.
    desk: takes the jobs.
    name: the title.
    workdir: of the run that the tab Train shows; None for no such tab.
  """
  return gr.mount_gradio_app(
    app,
    _page(desk, name, workdir),
    path="/",
    max_file_size=desk.limits.max_body_bytes,
    footer_links=[],
    run_history=False,
    enable_monitoring=False,
    ssr_mode=False,
    pwa=False,
    theme=gr.themes.Default(font=_FONT, font_mono=_MONO_FONT),
    css=_CSS.read_text(),
  )


def _page(desk: Desk, name: str, workdir: pathlib.Path | None) -> gr.Blocks:
  pipeline, title = desk.pipeline, f"D-DiT · {name}"
  with gr.Blocks(
    title=title,
    analytics_enabled=False,
    delete_cache=(_KEEP_FILES, _KEEP_FILES),
  ) as blocks:
    gr.HTML(Markup("<h1>{}</h1>").format(title))
    with gr.Tabs() as tabs:
      with gr.Tab("Draw", id="draw"):
        drawing = DrawTab(
          desk, _first(_PROMPTS, lambda text: pipeline.prompt_ids([text]))
        )
      if isinstance(pipeline, Pipeline):
        with gr.Tab("Describe and ask", id="write"):
          writing = WriteTab(desk, _first_texts(pipeline))
        _pass_on(desk, drawing, writing, tabs)
      else:
        drawing.ask.visible = False
      if workdir is not None:
        with gr.Tab("Train", id="train"):
          _train_tab(workdir)
    _words(pipeline)
  return blocks.queue(
    default_concurrency_limit=desk.limits.max_images,
    max_size=desk.limits.max_waiting,
  )


def _pass_on(
  desk: Desk, drawing: DrawTab, writing: WriteTab, tabs: gr.Tabs
) -> None:
  """Lets the button below the drawn images open one in the other tab."""

  def passed(drawn: list[Any] | None, place: int) -> list[Any]:
    with telling():
      image = chosen_image(drawn, place, desk.limits)
    return [image, gr.Tabs(selected="write")]

  inputs = [drawing.images, drawing.chosen]
  drawing.ask.click(passed, inputs, [writing.image, tabs], **_PRIVATE)


def _train_tab(workdir: pathlib.Path) -> None:
  """Looks at the files of a run, and shows them whenever they changed."""

  def look(seen: tuple[int, ...]) -> tuple[Any, Any]:
    now = stamp(workdir)
    if now == tuple(seen):
      return gr.skip(), gr.skip()
    try:
      return drawn_once(workdir, now), now
    # Training may be writing; the next look is soon.
    except (OSError, ValueError) as error:
      return Markup("<p>{}</p>").format(error), ()

  seen, view = gr.State(()), gr.HTML(elem_id="run")
  options = {"show_progress": "hidden", **_PRIVATE}
  # Without triggers: when the page is opened.
  gr.on(None, look, seen, [view, seen], **options)
  gr.Timer(_LOOK_EVERY).tick(look, seen, [view, seen], **options)


def _words(pipeline: ImagePipeline) -> None:
  """The vocabulary, of models that know few words."""
  words = None
  if isinstance(pipeline, Pipeline):
    words = words_of(pipeline.tokenizer)
  if words is not None:
    with gr.Accordion("The words that this model knows", open=False):
      gr.HTML(Markup("<p>{}</p>").format(" ".join(sorted(words))))


def _first_texts(pipeline: Pipeline) -> dict[str, str]:
  """A text for each task, of those that the model can read."""
  checks = {
    "ask": lambda text: pipeline.template(pipeline.prompts([text])[0]),
    "fill in": lambda text: blanks_template(
      pipeline.tokenizer, text, pipeline.config.data.image_to_text.text_length
    ),
  }
  return {task: _first(_TEXTS[task], check) for task, check in checks.items()}


def _first(texts: Sequence[str], check: Callable[[str], Any]) -> str:
  """The first text that `check` takes; "" if there is none."""
  for text in texts:
    # InputError is one.
    with contextlib.suppress(ValueError):
      check(text)
      return text
  return ""
