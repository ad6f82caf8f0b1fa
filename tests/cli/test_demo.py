"""`ddit demo` refuses what it cannot show, before it loads a model."""

import importlib.util
import io

import pytest
from PIL import Image, UnidentifiedImageError

from ddit_jax.cli import demo, serve
from ddit_jax.cli.main import main
from ddit_jax.data.image import FORMATS


def refused(capsys, *flags):
  flags = ["--checkpoint=nowhere", "--compilation_cache=off", *flags]
  assert main(["demo", *flags]) == 2
  line = capsys.readouterr().err
  assert line.startswith("ddit: ") and line.count("\n") == 1
  return line


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--port=65536"], "--port must be in 0 to 65535, got 65536"),
    (["--batch_size=0"], "--batch_size must be positive, got 0"),
    (["--host="], "--host is empty, which would open every address"),
    (["--workdir=none"], "--workdir=none holds no run that has logged a step"),
    (["--timeout=3"], "ddit demo has no flag --timeout"),
    ([], "nowhere has no checkpoints"),
  ],
)
def test_bad_flags_are_one_line(capsys, monkeypatch, flags, message):
  monkeypatch.setattr(serve, "check_modules", lambda *names: None)
  assert message in refused(capsys, *flags)


def test_the_extra_is_named_where_it_is_missing(capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  line = refused(capsys)
  assert "ddit demo needs gradio: pip install 'ddit_jax[demo]'" in line


def test_visitors_images_are_opened_in_known_formats_alone(monkeypatch):
  Image.init()
  monkeypatch.setattr(Image, "ID", list(Image.ID))
  demo._keep_to_known_formats()
  for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "EPS", "TIFF"):
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, name)
    if name in FORMATS:
      assert Image.open(file).size == (2, 2)
    else:
      with pytest.raises(UnidentifiedImageError):
        Image.open(file)


def test_the_folder_of_checkpoints_has_its_run(tmp_path):
  for name in ("config.json", "scalars.jsonl"):
    (tmp_path / name).touch()
  for flags in (["--checkpoint={}"], ["--checkpoint=x", "--workdir={}"]):
    for folder in (tmp_path, tmp_path / "checkpoints"):
      values = demo.VERB.parse([flag.format(folder) for flag in flags])
      assert demo._workdir(values) == tmp_path
