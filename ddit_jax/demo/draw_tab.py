"""The tab Draw: its components, and what they call."""

import pathlib
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ddit_jax.demo.desk import Desk, counted, cut_note, telling
from ddit_jax.demo.drawing import (
  Forming,
  drawing_job,
  edited_parts,
  enlarged,
  stages_html,
)
from ddit_jax.errors import InputError
from ddit_jax.prng import MAX_SEED
from ddit_jax.sampling.flow_solvers import SOLVERS
from ddit_jax.serving.messages import Limits, read_image

_MAX_GUIDANCE = 10.0
# Of the brush: one can see through it.
_PAINT = ("#e8590c", 0.6)


class DrawTab:
  """The tab's components, made where it is created.

  Args:
    desk: takes its jobs.
    prompt: to begin with.

  Attributes:
    chosen: the place of the image that was clicked.
    images: the drawn ones.
    ask: the button that takes the chosen one to the other tab.
  """

  def __init__(self, desk: Desk, prompt: str):
    self._desk = desk
    with gr.Row():
      with gr.Column(scale=5):
        fields = [
          *self._main_fields(prompt),
          *self._more_fields(),
          *self._edit_fields(),
        ]
        with gr.Row():
          draw = gr.Button("Draw", variant="primary", elem_id="draw")
          stop = gr.Button("Stop", scale=0, min_width=100)
      with gr.Column(scale=6):
        status = gr.Markdown(elem_id="draw-status")
        self.images = gr.Gallery(
          show_label=False,
          elem_id="drawn",
          elem_classes=[desk.image_class],
          columns=2,
          height="auto",
          object_fit="contain",
          format="png",
          buttons=["download"],
          interactive=False,
        )
        with gr.Row():
          change = gr.Button("Change this image", size="sm")
          self.ask = gr.Button("Describe this image", size="sm")
        stages = gr.HTML(elem_id="stages", elem_classes=[desk.image_class])
    self.chosen = gr.State(0)
    outputs = [self.images, stages, status, self.chosen]
    self._connect(draw, stop, change, fields, outputs)

  def _main_fields(self, prompt: str) -> list[gr.Component]:
    """The first arguments of `_draw`."""
    sampling = self._desk.pipeline.sample.image
    prompts = gr.Textbox(prompt, label="Prompt", lines=2, elem_id="prompt")
    with gr.Row():
      seed = gr.Number(
        0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED
      )
      most = self._desk.limits.max_images
      count = gr.Slider(1, most, 1, step=1, label="Images", buttons=[])
    guidance = gr.Slider(
      *(1, max(_MAX_GUIDANCE, sampling.guidance_scale)),
      sampling.guidance_scale,
      step=0.1,
      label="Guidance",
      info="how much the prompt counts; 1 is off and twice as fast",
      buttons=[],
    )
    return [prompts, seed, count, guidance]

  def _more_fields(self) -> list[gr.Component]:
    """The next arguments of `_draw`."""
    pipeline, limits = self._desk.pipeline, self._desk.limits
    sampling = pipeline.sample.image
    with gr.Accordion("More settings", open=False):
      negative = gr.Textbox("", label="Negative prompt")
      steps = gr.Slider(
        *(1, limits.max_steps, sampling.num_inference_steps),
        step=1,
        label="Steps",
        buttons=[],
      )
      solver = gr.Dropdown(
        sorted(SOLVERS), value=sampling.solver, label="Solver"
      )
      unit, largest = (
        pipeline.model.pixels_per_patch,
        pipeline.model.largest_image,
      )
      with gr.Row():
        sides = [
          gr.Slider(
            *(unit, largest, pipeline.image_size),
            step=unit,
            label=name,
            buttons=[],
          )
          for name in ("Width", "Height")
        ]
    return [negative, steps, solver, *sides]

  def _edit_fields(self) -> list[gr.Component]:
    """The last arguments of `_draw`."""
    title = "Change an image, or a part of it"
    with gr.Accordion(title, open=False) as self._folded:
      gr.Markdown(
        "Put in an image, and what is drawn starts from it. Paint over a part, "
        "and only that part is drawn anew. Empty it with the bin to draw from "
        "noise again."
      )
      self._editor = gr.ImageEditor(
        show_label=False,
        elem_id="editor",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        buttons=[],
        transforms=[],
        layers=False,
        brush=gr.Brush(
          colors=[_PAINT], default_color=_PAINT[0], color_mode="fixed"
        ),
      )
      strength = gr.Slider(
        *(0.05, 1, self._desk.pipeline.sample.image.strength),
        step=0.05,
        label="Strength",
        info="how much of the image, or of its painted part, is lost in noise",
        buttons=[],
      )
    return [self._editor, strength]

  def _connect(self, draw, stop, change, fields, outputs) -> None:
    options = {"api_visibility": "private"}
    drawing = [
      event(self._draw, fields, outputs, show_progress="hidden", **options)
      for event in (draw.click, fields[0].submit)
    ]
    stop.click(None, cancels=drawing, **options)
    self.images.select(_place, None, self.chosen, queue=False, **options)
    # The editor takes no image while it is folded.
    change.click(
      lambda: gr.Accordion(open=True),
      *(None, self._folded),
      queue=False,
      **options,
    ).then(self._edit, [self.images, self.chosen], self._editor, **options)

  def _draw(
    self,
    prompt: str,
    seed: int | None,
    count: int,
    guidance: float,
    negative: str,
    steps: int,
    solver: str,
    width: int,
    height: int,
    edited: dict[str, Any] | None,
    strength: float,
  ) -> Iterator[list[Any]]:
    """The images, the stages and a line below them, again and again."""
    desk, seed = self._desk, seed or 0
    with telling():
      parts = edited_parts(edited, desk.limits)
      group, rows, forming = drawing_job(
        {
          "prompt": prompt,
          "negative_prompt": negative,
          "seed": seed,
          "n": count,
          "guidance_scale": float(guidance),
          "num_inference_steps": steps,
          "solver": solver,
          "size": f"{width}x{height}",
        },
        desk.pipeline,
        desk.limits,
        edited=parts,
        strength=strength,
      )
      note = ""
      if parts:
        cut = cut_note(parts["image"], group.size)
        note = f", from the image to change{cut}"
      for _ in forming.follow(desk.batcher.submit(group, rows)):
        yield _news(forming, seed, note)
      yield _news(forming, seed, note)

  def _edit(self, drawn: list[Any] | None, place: int) -> dict[str, Any]:
    """The chosen image in the editor, large enough to paint in it."""
    with telling():
      image = np.asarray(chosen_image(drawn, place, self._desk.limits))
    return {"background": enlarged(image), "layers": [], "composite": None}


def chosen_image(
  drawn: list[Any] | None, place: int, limits: Limits
) -> Image.Image:
  """One of the drawn images; raises InputError if there is none."""
  if not drawn:
    raise InputError("nothing is drawn yet")
  path, _ = drawn[min(place, len(drawn) - 1)]
  return read_image(pathlib.Path(path).read_bytes(), "the image", limits)


def _place(event: gr.SelectData) -> int:
  return event.index


def _news(forming: Forming, seed: int, note: str) -> list[Any]:
  """Images, stages, a line about them and the chosen one."""
  images = [
    (image, f"seed {seed + place}")
    for place, image in enumerate(forming.images)
    if image is not None
  ]
  if not forming.step:
    line = "Waiting; what is drawn first in a size or way is compiled before."
  elif forming.step < forming.num_steps:
    line = f"Step {forming.step} of {forming.num_steps}"
  else:
    line = f"Done in {counted(forming.num_steps, 'step')}"
  return [images, stages_html(forming.stages), line + note, 0]
