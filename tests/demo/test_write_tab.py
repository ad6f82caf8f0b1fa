"""The tab Describe and ask, without a browser."""

import types

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from ddit_jax.demo.desk import Desk
from ddit_jax.demo.write_tab import WriteTab
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.serving.app import ServerLimits


@pytest.mark.parametrize(
  ("mode", "suffix"),
  [("RGBA", "png"), ("I;16", "png"), ("CMYK", "jpg"), ("RGB", "eps")],
)
def test_files_arrive_as_they_were_sent(tmp_path, mode, suffix):
  """Gradio would decode them in its own way: see `data.image.decode_image`."""
  path = tmp_path / f"a.{suffix}"
  Image.new(mode, (4, 4)).save(path)
  pipeline = types.SimpleNamespace(sample=SampleConfig(), image_size=16)
  desk = Desk(pipeline=pipeline, batcher=None, limits=ServerLimits())
  with gr.Blocks():
    tab = WriteTab(desk, {})
  sent = ImageData(path=str(path), orig_name=path.name)
  assert tab.image.preprocess(sent) == str(path)
