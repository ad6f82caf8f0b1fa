"""The page is well formed, safe, complete, and needs nothing but itself."""

import base64
import html.parser
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from ddit_jax.report import page
from ddit_jax.report.page import (
  MASKED_SIGN,
  Report,
  ShownItem,
  write_report,
)

EVIL = "</title></style><script>alert('x')</script><img src=x onerror=\"y\">&"
IMAGE = np.full((8, 8, 3), 200, np.uint8)
VOID = {"meta", "img", "br", "wbr"}
METRIC = {
  "value": 0.75,
  "n": 480,
  "interval": [0.7, 0.8],
  "oracle": 0.95,
  "prior_baseline": 0.1,
}
GENERATED = {
  "image": IMAGE,
  "prompt": "a two",
  "is_correct": False,
  "verdict": "no two",
}
ANSWERED = {
  "image": IMAGE,
  "caption": "a two",
  "reference": "a red two",
  "answers": [("is it red?", "yes", "yes"), ("what number?", "six", "two")],
}


class Parser(html.parser.HTMLParser):
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

  def values(self, name):
    return [value for key, value in self.attributes if key == name]


def written(tmp_path, **parts):
  """The HTML of a report with only these parts."""
  path = tmp_path / "report.html"
  empty = {"title": "t", "summary": "", "config": {}, "scalars": []}
  write_report(path, Report(**(empty | parts)))
  return path.read_text(encoding="utf-8")


def parse(text):
  parser = Parser()
  parser.feed(text)
  parser.close()
  assert parser.open == []
  return parser


def full_report(tmp_path, text, **changes):
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
    "grids": {text: IMAGE},
    "generated": [GENERATED | {"prompt": text, "verdict": text}],
    "answered": [
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
      "texts": [[MASKED_SIGN], [text]],
    },
    "metrics": {text: METRIC | {"oracle": None, "controls": {text: 0.2}}},
    "headline": [text],
    "seconds": {text: 3.0},
  }
  return written(tmp_path, **(parts | changes))


def test_all_sections_are_there_and_linked(tmp_path):
  parser = parse(full_report(tmp_path, "plain"))
  links = parser.values("href")
  sections = {link[1:] for link in links if link[1:] in parser.values("id")}
  assert sections == {
    *("samples", "images", "results", "texts", "unmasking"),
    *("training", "time", "config"),
  }
  assert parser.tags.count("h1") == 1
  text = " ".join(parser.text)
  for expected in ("second paragraph", "1 more curve", "All 2 values", "49"):
    assert expected in text


def test_hostile_text_stays_text_everywhere(tmp_path):
  plain = parse(full_report(tmp_path, "plain"))
  evil = parse(full_report(tmp_path, EVIL))
  assert "script" not in evil.tags
  # Ticks of the charts may differ; everything else is the same page.
  svg = {"svg", "g", "path", "use", "defs", "text", "rect", "clippath"}
  # So may the places where a name is broken.
  svg |= {"wbr"}
  assert [tag for tag in evil.tags if tag not in svg] == [
    tag for tag in plain.tags if tag not in svg
  ]
  # A quote that ends an attribute too early would begin new ones.
  assert {name for name, _ in evil.attributes} == {
    name for name, _ in plain.attributes
  }
  assert EVIL in "".join(evil.text)


def test_nothing_is_loaded_from_outside(tmp_path):
  text = full_report(tmp_path, "plain")
  parser = parse(text)
  without_names = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
  assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_names)
  sources = parser.values("src")
  assert len(sources) == 4
  assert all(s.startswith("data:image/png;base64,") for s in sources)
  assert all(link.startswith("#") for link in parser.values("href"))
  assert not {"link", "iframe", "object", "script"} & set(parser.tags)
  assert "default-src 'none'" in text


def test_every_image_has_words(tmp_path):
  parser = parse(full_report(tmp_path, "plain"))
  alts = parser.values("alt")
  assert len(alts) == parser.tags.count("img") and all(alts)
  assert parser.values("role").count("img") == len(
    [label for label in parser.values("aria-label") if label != "Sections"]
  )


def test_parts_without_data_have_no_section(tmp_path):
  parser = parse(written(tmp_path))
  assert not {"section", "a", "dl"} & set(parser.tags)


def test_key_figures_are_the_smoothed_ends(tmp_path):
  scalars = [
    {"step": step, "time": 0.0, "loss/image": value}
    for step, value in ((100, 4.0), (200, 3.0), (300, 0.25), (400, None))
  ]
  text = written(tmp_path, scalars=scalars)
  assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text) == [
    ("training steps", "400"),
    ("last image loss", "0.25"),
  ]


NAMES = (
  *("generation/overall", "generation/digit_and_color_heldout_pairs"),
  *("caption/digit_and_color", "vqa/accuracy", "vqa/what_number"),
  *("pope/accuracy", "pope/random/f1", "perplexity"),
)


def scored(tmp_path):
  """A report with pictures, eight metrics, and six of them as headline."""
  return written(
    tmp_path,
    generated=[GENERATED],
    answered=[ANSWERED],
    metrics=dict.fromkeys(NAMES, METRIC),
    headline=NAMES[:6],
    scalars=[{"step": 1, "time": 0.0, "loss/image": 1.0}],
  )


def test_pictures_come_first_then_six_numbers_then_the_table(tmp_path):
  text = scored(tmp_path)
  picture, number, table = (
    text.index(part) for part in ("<img", "<dt>generation", "<table")
  )
  assert picture < number < table
  assert text[:table].count("<dt>") == 6
  # The ends of the curves stand beside the curves.
  assert text.index("<dt>training steps") > text.index('id="training"')


def test_more_than_ten_generated_images_are_folded(tmp_path):
  text = written(tmp_path, generated=[GENERATED] * 13)
  shown, folded = text.split("<summary>3 more</summary>")
  assert (shown.count("<img"), folded.count("<img")) == (10, 3)
  parse(text)
  assert "<summary>" not in written(tmp_path, generated=[GENERATED] * 10)


def test_the_table_is_folded_in_groups(tmp_path):
  text = scored(tmp_path)
  results = text[text.index('id="results"') : text.index('id="texts"')]
  found = re.findall(r"<summary><b>(\w+)</b> \((\d metrics?)\)", results)
  assert found == [
    ("generation", "2 metrics"),
    ("caption", "1 metric"),
    ("vqa", "2 metrics"),
    ("pope", "2 metrics"),
    ("metrics", "1 metric"),
  ]
  assert results.count("<details>") == results.count("<table>") == 5
  assert "<details open" not in text
  assert results.count('<th scope="row">') == len(NAMES)


def test_names_break_after_their_signs_only(tmp_path):
  text = scored(tmp_path)
  name = "generation/digit_and_color_heldout_pairs"
  parts = re.split("(?<=[/_])", name)
  assert text.count("<wbr>".join(parts)) == 2
  # No rule allows a break inside a word of a name: not in header cells,
  # titles of figures and curves.
  style = re.sub(r"/\*.*?\*/", "", text[: text.index("</style>")])
  rules = re.findall(r"([^{}]+)\{[^{}]*overflow-wrap:anywhere", style)
  assert [rule.split() for rule in rules] == [["code,", "figcaption.free"]]
  assert "word-break" not in text


def bar(text):
  found = re.findall(
    r'<i class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%">', text
  )
  return {kind: (float(left), float(width)) for kind, left, width in found}


def test_a_metric_shows_value_interval_references_and_count(tmp_path):
  metric = METRIC | {"controls": {"blank image": 0.4}}
  text = written(tmp_path, metrics={"accuracy": metric})
  assert bar(text) == {
    "value": (0, 75),
    "interval": (70, 10),
    "prior": (10, 0),
    "oracle": (95, 0),
  }
  for expected in (
    *("accuracy", "75.0\u202f%", "70.0\u202f% to 80.0\u202f%", "480"),
    *("95.0\u202f%", "10.0\u202f%", "controls: blank image 40.0\u202f%"),
  ):
    assert expected in text


def test_what_is_unknown_is_a_dash_and_no_mark(tmp_path):
  metric = METRIC | {"interval": None, "oracle": None, "prior_baseline": None}
  text = written(tmp_path, metrics={"accuracy": metric})
  assert bar(text) == {"value": (0, 75)}
  # Columns that would be empty are left out.
  assert "prior baseline" not in text
  text = written(tmp_path, metrics={"accuracy": metric, "other": METRIC})
  assert text.count(">–<") == 2


def test_figures_that_are_no_shares_are_shown_as_they_are(tmp_path):
  """Half a per cent is not a half."""
  metric = METRIC | {"value": 0.5, "interval": [0.2, 0.9], "is_share": False}
  text = written(tmp_path, metrics={"accuracy": metric})
  assert "<b>0.5</b>" in text and "0.2 to 0.9" in text


def test_examples_show_their_images_side_by_side(tmp_path):
  example = ShownItem(
    name=EVIL, images={"generated": IMAGE, EVIL: IMAGE}, texts={EVIL: EVIL}
  )
  text = written(tmp_path, examples={EVIL: [example]})
  page = parse(text)
  assert page.tags.count("img") == 2 and "script" not in page.tags
  assert "generated" in page.text


@pytest.mark.parametrize(
  ("changes", "marks"),
  [
    (
      {"value": 10.0, "interval": [5.0, 15.0], "oracle": 2.0}
      | {"prior_baseline": 40.0},
      {"value": (0, 25), "interval": (12.5, 25), "prior": (100, 0)}
      | {"oracle": (5, 0)},
    ),
    # The scale runs from -0.5 to 0.5, so zero is in the middle.
    (
      {"value": -0.5, "interval": None, "oracle": 0.5},
      {"value": (0, 50), "prior": (60, 0), "oracle": (100, 0)},
    ),
  ],
)
def test_numbers_outside_zero_to_one_get_their_own_scale(
  tmp_path, changes, marks
):
  text = written(tmp_path, metrics={"distance": METRIC | changes})
  assert bar(text) == marks


def test_generated_images_are_counted_without_the_unjudged(tmp_path):
  items = [GENERATED | {"is_correct": x} for x in (True, False, None, True)]
  text = written(tmp_path, generated=items)
  assert "<b>2 of 3</b> are correct" in text
  labels = parse(text).values("aria-label")
  assert [labels.count(x) for x in ("correct", "wrong", "not judged")] == [
    *(2, 1, 1)
  ]
  unjudged = written(tmp_path, generated=[GENERATED | {"is_correct": None}])
  assert "are correct" not in unjudged


def test_answers_are_compared_with_what_was_expected(tmp_path):
  items = [ANSWERED, ANSWERED | {"answers": []}]
  text = written(tmp_path, answered=items)
  rows = re.findall(r"<td>(.*?)</td><td><b>(.*?)</b></td><td>(.*?)</td>", text)
  assert rows == [("is it red?", "yes", "yes"), ("what number?", "six", "two")]
  assert text.count("<table") == 1
  assert 'alt="Image described as: a red two"' in text


def test_new_tokens_are_marked_once_and_masked_ones_are_boxes(tmp_path):
  masked = MASKED_SIGN
  texts = [[masked] * 3, ["a", masked, "two"], ["a", "<r>", "two"]]
  unmasking = {"image": IMAGE, "prompt": "", "times": [1.0, 0.5, 0.0]}
  text = written(tmp_path, unmasking=unmasking | {"texts": texts})
  rows = re.findall(r"<li>.*?</li>", text, re.DOTALL)
  assert [row.count('class="masked"') for row in rows] == [3, 1, 0]
  assert [re.findall(r"<mark>([^<]+)<", row) for row in rows] == [
    [],
    ["a", "two"],
    ["&lt;r&gt;"],
  ]
  first = written(
    tmp_path, unmasking=unmasking | {"times": [0], "texts": [["a"]]}
  )
  assert "<mark>a</mark>" in first


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"metrics": {"x": {"value": 1}}}, "metric 'x' lacks 'oracle'"),
    ({"generated": [{"image": IMAGE, "prompt": "p"}]}, "is_correct"),
    ({"answered": [{"image": IMAGE}]}, "incomplete.*reference"),
    ({"unmasking": {"times": [1, 0], "texts": [[]]}}, "one text for each"),
    ({"headline": ["x"]}, "headline names no metric: .'x'"),
    ({"seconds": {"train": -1.0}}, "phase 'train'"),
    ({"seconds": {"train": math.nan}}, "phase 'train'"),
    ({"generated": [GENERATED | {"image": IMAGE / 255}]}, "pass uint8"),
    ({"generated": [GENERATED | {"image": IMAGE[..., 0]}]}, "pass uint8"),
    ({"generated": [GENERATED | {"image": IMAGE[:0]}]}, "pass uint8"),
    ({"generated": [GENERATED | {"image": None}]}, "pass uint8"),
  ],
)
def test_incomplete_records_are_refused(tmp_path, parts, message):
  with pytest.raises(ValueError, match=message):
    written(tmp_path, **parts)
  assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_embedded_to_the_last_bit(tmp_path, channels):
  draw = np.random.default_rng(0)
  image = draw.integers(0, 256, (7, 5, channels), np.uint8)
  # A view that is not contiguous, as crops and flips are.
  text = written(tmp_path, generated=[GENERATED | {"image": image[:, ::-1]}])
  data = base64.b64decode(re.search(r"base64,([^\"]+)", text).group(1))
  stored = np.asarray(Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(stored.reshape(7, 5, -1), image[:, ::-1])
  assert 'width="5" height="7"' in text


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (None, "–"),
    (math.nan, "–"),
    (0.12345, "0.123"),
    (5.6e-5, "5.6e-05"),
    (60_000, "60\u202f000"),
    (2_028_328_000, "2.03e+09"),
  ],
)
def test_numbers_are_short(value, text):
  assert page._number(value) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (3.14, "3.1\u202fs"),
    (48, "48\u202fs"),
    (1985, "33.1\u202fmin"),
    (9000, "2.5\u202fh"),
  ],
)
def test_durations_choose_their_unit(seconds, text):
  assert page._duration(seconds) == text


def test_the_config_is_flat_and_complete():
  config = {
    "seed": 7,
    "model": {"width": 64, "text": {"words": ["a", "<b>"], "extra": {}}},
  }
  assert page._flat_config(config) == {
    "seed": "7",
    "model.width": "64",
    "model.text.words": '["a", "<b>"]',
    "model.text.extra": "{}",
  }
