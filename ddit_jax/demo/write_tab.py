"""The tab Describe and ask: its components, and what they call."""

import pathlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ddit_jax.demo.desk import Desk, counted, cut_note, telling
from ddit_jax.demo.token_text import text_html
from ddit_jax.demo.writing import (
  WRITING_TASKS,
  Writing,
  text_settings,
  writing_job,
)
from ddit_jax.prng import MAX_SEED
from ddit_jax.sampling.text_options import PRESETS
from ddit_jax.sampling.text_planners import ORDERS
from ddit_jax.serving.messages import read_image

# What each task wants to be written.
_LABELS = {
  "describe": "",
  "ask": "Question",
  "fill in": "Text: _ is one token to fill in, ... at the end lets it go on",
}
_MAX_STEPS = 256
_WAYS = (
  ("the checkpoint's own", ""),
  *((f"preset {name}", name) for name in PRESETS),
  *((f"order {name}", name) for name in ORDERS),
)


class WriteTab:
  """The tab's components, made where it is created.

  Args:
    desk: takes its jobs.
    texts: by task, to begin with.

  Attributes:
    image: that is read.
  """

  def __init__(self, desk: Desk, texts: dict[str, str]):
    self._desk, self._texts = desk, texts
    with gr.Row():
      with gr.Column(scale=5):
        fields = self._fields()
        with gr.Row():
          write = gr.Button("Write", variant="primary", elem_id="write")
          stop = gr.Button("Stop", scale=0, min_width=100)
      with gr.Column(scale=6):
        status = gr.Markdown(elem_id="write-status")
        answer = gr.Textbox(
          label="Text", elem_id="answer", interactive=False, buttons=["copy"]
        )
        states = gr.HTML(elem_id="tokens")
    self._connect(write, stop, fields, [status, answer, states])

  def _fields(self) -> list[gr.Component]:
    """What is asked for, in the order of `_write`'s arguments."""
    sampling = self._desk.pipeline.sample.text
    self.image = gr.Image(
      label="Image",
      elem_id="picture",
      elem_classes=[self._desk.image_class],
      type="filepath",
      # Else Gradio decodes and converts it: any format, and other pixels.
      image_mode=None,
      format="png",
      sources=["upload", "clipboard"],
      height=280,
      buttons=[],
    )
    self._task = gr.Radio(
      list(WRITING_TASKS), value=WRITING_TASKS[0], label="Task", elem_id="task"
    )
    self._text = gr.Textbox(visible=False, elem_id="text", lines=2)
    way = gr.Dropdown(
      list(_WAYS),
      value="",
      label="Order in which tokens appear",
      elem_id="way",
      filterable=False,
    )
    with gr.Row(visible=False) as self._order_settings:
      steps = gr.Slider(
        *(1, max(_MAX_STEPS, sampling.num_steps), sampling.num_steps),
        step=1,
        label="Steps",
        buttons=[],
      )
      temperature = gr.Slider(
        *(0, 2, 1), step=0.05, label="Temperature", buttons=[]
      )
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
    # What shows and hides fields does not queue with the jobs.
    at_once = {"api_visibility": "private", "queue": False}
    self._task.change(self._with_task, self._task, self._text, **at_once)
    way.change(
      lambda way: gr.Row(visible=way in ORDERS),
      way,
      self._order_settings,
      **at_once,
    )
    return [self.image, self._task, self._text, way, steps, temperature, seed]

  def _with_task(self, task: str) -> gr.Textbox:
    return gr.Textbox(
      self._texts.get(task, ""),
      label=_LABELS[task],
      visible=task != WRITING_TASKS[0],
    )

  def _connect(self, write, stop, fields, outputs) -> None:
    options = {"api_visibility": "private"}
    writing = [
      event(self._write, fields, outputs, show_progress="hidden", **options)
      for event in (write.click, self._text.submit)
    ]
    stop.click(None, cancels=writing, **options)

  def _write(
    self,
    path: str | None,
    task: str,
    text: str,
    way: str,
    num_steps: int,
    temperature: float,
    seed: int | None,
  ) -> Iterator[list[Any]]:
    """A line about the text, the text and its states, again and again."""
    desk = self._desk
    with telling():
      image = None
      if path is not None:
        data = pathlib.Path(path).read_bytes()
        image = read_image(data, "the image", desk.limits)
      group, rows, writing = writing_job(
        image,
        text,
        desk.pipeline,
        task=task,
        seed=seed or 0,
        settings=text_settings(
          way, num_steps=num_steps, temperature=float(temperature)
        ),
      )
      note, side = "", desk.pipeline.input_size
      if desk.pipeline.input_crop == "centre":
        note = cut_note(image, (side, side))
      for _ in writing.follow(desk.batcher.submit(group, rows)):
        yield self._news(writing, note, is_done=False)
      yield self._news(writing, note, is_done=True)

  def _news(self, writing: Writing, note: str, *, is_done: bool) -> list[Any]:
    states = list(writing.states)
    calls = states[-1].calls if states else 0
    made = counted(calls, "network call")
    line = f"Done in {made}" if is_done else f"After {made}"
    if not calls:
      line = "Waiting; what is written first in a way is compiled before."
    html = text_html(self._desk.pipeline.tokenizer, states, writing.prompt_mask)
    return [line + note, writing.text, html]
