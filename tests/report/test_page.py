"""The page is well formed, safe, and needs nothing outside itself."""

import html.parser
import re

import numpy as np
import pytest

from ddit_jax.report.page import write_report
from ddit_jax.report.sheets import HIDDEN_SIGN

EVIL = "</title></style><script>alert('x')</script><img src=x onerror=\"y\">&"
IMAGE = np.full((8, 8, 3), 200, np.uint8)
VOID = {"meta", "img", "line", "polyline"}


class Reader(html.parser.HTMLParser):
  """Checks that tags nest, and collects them and the text."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def read(path):
  reader = Reader()
  reader.feed(path.read_text(encoding="utf-8"))
  reader.close()
  assert reader.open == []
  return reader


def full_report(path, text, **changes):
  parts = {
    "title": text,
    "summary": f"{text}\n\nsecond paragraph",
    "config": {"schema_version": 1, text: {text: text}},
    "scalars": [
      {
        "step": step,
        "time": 0.0,
        "loss/total": 1 / step,
        "loss/image": 1.0,
        "loss/text": None if step == 3 else 2.0,
        text: 0.5,
      }
      for step in range(1, 50)
    ],
    "drawings": [
      {"image": IMAGE, "prompt": text, "is_correct": False, "verdict": text}
    ],
    "readings": [
      {
        "image": IMAGE,
        "caption": text,
        "reference": text,
        "answers": [(text, text, "no"), ("?", "no", text)],
      }
    ],
    "unmasking": {
      "image": IMAGE,
      "prompt": text,
      "times": [1.0, 0.0],
      "texts": [[HIDDEN_SIGN], [text]],
    },
    "metrics": {
      text: {
        "value": 0.5,
        "n": 10,
        "interval": [0.4, 0.6],
        "ceiling": None,
        "baseline": 0.1,
        "controls": {text: 0.2},
      }
    },
    "seconds": {text: 3.0},
  }
  write_report(path, **(parts | changes))
  return read(path)


def test_all_sections_are_there_and_linked(tmp_path):
  reader = full_report(tmp_path / "new" / "report.html", "plain")
  ids = {value for name, value in reader.attributes if name == "id"}
  links = {value for name, value in reader.attributes if name == "href"}
  assert ids == {
    "results",
    "drawings",
    "readings",
    "unmasking",
    "training",
    "time",
    "settings",
  }
  assert links == {f"#{name}" for name in ids}
  assert reader.tags.count("h1") == 1
  text = " ".join(reader.text)
  for expected in ("second paragraph", "1 more curve", "All 2 settings", "49"):
    assert expected in text


def test_hostile_text_stays_text_everywhere(tmp_path):
  plain = full_report(tmp_path / "plain.html", "plain")
  evil = full_report(tmp_path / "evil.html", EVIL)
  assert evil.tags == plain.tags  # not one element more
  assert "script" not in evil.tags
  # A quote that ends an attribute too early would begin new ones.
  assert [name for name, _ in evil.attributes] == [
    name for name, _ in plain.attributes
  ]
  assert EVIL in "".join(evil.text)


def test_nothing_is_loaded_from_outside(tmp_path):
  reader = full_report(tmp_path / "report.html", "plain")
  page = (tmp_path / "report.html").read_text(encoding="utf-8")
  assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
  sources = [value for name, value in reader.attributes if name == "src"]
  assert len(sources) == 3
  assert all(s.startswith("data:image/png;base64,") for s in sources)
  assert not {"link", "iframe", "object", "script"} & set(reader.tags)
  assert "default-src 'none'" in page


def test_every_picture_has_words(tmp_path):
  reader = full_report(tmp_path / "report.html", "plain")
  alts = [value for name, value in reader.attributes if name == "alt"]
  assert len(alts) == reader.tags.count("img") and all(alts)
  roles = [value for name, value in reader.attributes if name == "role"]
  labels = [v for name, v in reader.attributes if name == "aria-label"]
  assert roles.count("img") <= len(labels) and all(labels)


def test_parts_without_data_have_no_section(tmp_path):
  path = tmp_path / "report.html"
  write_report(path, title="t", summary="", config={}, scalars=[])
  reader = read(path)
  assert "section" not in reader.tags and "a" not in reader.tags
  assert "dl" not in reader.tags


def test_key_figures_are_the_smoothed_ends(tmp_path):
  scalars = [
    {"step": step, "time": 0.0, "loss/image": value}
    for step, value in ((100, 4.0), (200, 3.0), (300, 0.25), (400, None))
  ]
  path = tmp_path / "report.html"
  write_report(path, title="t", summary="", config={}, scalars=scalars)
  figures = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", path.read_text("utf-8"))
  assert figures == [("training steps", "400"), ("last image loss", "0.25")]


def test_a_logarithmic_axis_can_be_asked_for(tmp_path):
  full_report(tmp_path / "a.html", "plain", is_log_x=True)
  full_report(tmp_path / "b.html", "plain")
  first, second = (
    re.search(r'<polyline class="raw image" points="([^"]*)"', p.read_text())
    for p in (tmp_path / "a.html", tmp_path / "b.html")
  )
  assert first.group(1) != second.group(1)


def test_a_float_image_is_refused(tmp_path):
  bad = {
    "image": IMAGE / 255,
    "prompt": "p",
    "is_correct": None,
    "verdict": "",
  }
  with pytest.raises(ValueError, match="pass uint8"):
    full_report(tmp_path / "report.html", "plain", drawings=[bad])
  assert not (tmp_path / "report.html").exists()
