"""Contact sheets: drawings, readings, and the unmasking of one caption."""

from collections.abc import Iterable
from typing import Any

from ddit_jax.report.markup import escape, image_tag, require

# How a token that is still hidden is written in `unmasking["texts"]`.
HIDDEN_SIGN = "□"

_JUDGEMENTS = {
  True: ("good", "✓", "right"),
  False: ("bad", "✗", "wrong"),
  None: ("open", "–", "not judged"),
}


def drawing_sheet(drawings: list[dict[str, Any]]) -> str:
  """Text to image: a card a drawing with its prompt and verdict.

  Args:
    drawings: {"image": uint8 [height, width, channels], "prompt": str,
      "is_correct": bool or None, "verdict": str} each.

  Raises:
    ValueError: a drawing lacks a key, or an image of another kind.
  """
  cards = []
  for index, drawing in enumerate(drawings):
    require(
      drawing,
      ("image", "prompt", "is_correct", "verdict"),
      f"drawing {index}",
    )
    image = image_tag(
      drawing["image"], alt=f"Drawing for the prompt: {drawing['prompt']}"
    )
    cards.append(
      f'<li class="card drawing">{image}<p>{escape(drawing["prompt"])}</p>'
      f"{_judgement(drawing['is_correct'], drawing['verdict'])}</li>"
    )
  tally = _tally([d["is_correct"] for d in drawings], "drawings")
  return f'{tally}<ul class="sheet">{"".join(cards)}</ul>'


def reading_sheet(readings: list[dict[str, Any]]) -> str:
  """Image to text: a card an image with caption, reference and answers.

  Args:
    readings: {"image": uint8 [height, width, channels], "caption": str,
      "reference": str, "answers": [(question, answer, expected), ...]} each;
      an answer is right when it equals the expected one.

  Raises:
    ValueError: a reading lacks a key, or an image of another kind.
  """
  cards, verdicts = [], []
  for index, reading in enumerate(readings):
    require(
      reading,
      ("image", "caption", "reference", "answers"),
      f"reading {index}",
    )
    image = image_tag(
      reading["image"], alt=f"Image described as: {reading['reference']}"
    )
    rows = "".join(_answer_row(*answer) for answer in reading["answers"])
    table = f'<table class="answers"><tbody>{rows}</tbody></table>'
    verdicts += [answer == right for _, answer, right in reading["answers"]]
    cards.append(
      f'<li class="card reading">{image}<dl><dt>caption</dt>'
      f"<dd>{escape(reading['caption'])}</dd><dt>reference</dt>"
      f'<dd class="muted">{escape(reading["reference"])}</dd></dl>'
      f"{table if rows else ''}</li>"
    )
  tally = _tally(verdicts, "answers")
  return f'{tally}<ul class="sheet readings">{"".join(cards)}</ul>'


def unmasking_strip(unmasking: dict[str, Any]) -> str:
  """How one caption appears: a row a time, new tokens marked.

  Args:
    unmasking: {"image": uint8 [height, width, channels], "prompt": str,
      "times": one number in [0, 1] a row, "texts": tokens a row, hidden ones
      written as `HIDDEN_SIGN`}.

  Raises:
    ValueError: a missing key, or not one text for each time.
  """
  require(unmasking, ("image", "prompt", "times", "texts"), "unmasking")
  times, texts = unmasking["times"], unmasking["texts"]
  if len(times) != len(texts):
    raise ValueError(
      f"unmasking has {len(times)} times and {len(texts)} texts: give one "
      "text for each time"
    )
  rows, before = [], [HIDDEN_SIGN] * len(texts[0] if texts else ())
  for time, tokens in zip(times, texts, strict=True):
    rows.append(_token_row(time, tokens, before))
    before = tokens
  image = image_tag(
    unmasking["image"], alt="The image that the text below describes"
  )
  return (
    f'<div class="card unmasking"><div class="given">{image}'
    f"<p>{escape(unmasking['prompt'])}</p></div>"
    f'<ol class="times">{"".join(rows)}</ol></div>'
  )


def _token_row(time: float, tokens: list[str], before: list[str]) -> str:
  words = []
  for index, token in enumerate(tokens):
    was_hidden = index >= len(before) or before[index] == HIDDEN_SIGN
    if token == HIDDEN_SIGN:
      words.append('<i class="hidden"></i>')
    else:
      css = ' class="new"' if was_hidden else ""
      words.append(f"<span{css}>{escape(token)}</span>")
  hidden = tokens.count(HIDDEN_SIGN)
  described = f"time {time:.2f}, {hidden} of {len(tokens)} tokens hidden"
  return (
    f'<li aria-label="{described}"><b>t = {time:.2f}</b>'
    f'<span class="tokens">{" ".join(words)}</span></li>'
  )


def _answer_row(question: str, answer: str, expected: str) -> str:
  is_right = answer == expected
  css, sign, word = _JUDGEMENTS[is_right]
  instead = "" if is_right else f" <small>(not {escape(expected)})</small>"
  return (
    f"<tr><td>{escape(question)}</td>"
    f'<td class="answer"><b>{escape(answer)}</b>{instead}</td>'
    f'<td><span class="mark {css}" role="img" aria-label="{word}">{sign}'
    "</span></td></tr>"
  )


def _judgement(is_correct: bool | None, verdict: str) -> str:
  css, sign, word = _JUDGEMENTS[is_correct]
  return (
    f'<p class="verdict {css}"><span class="mark {css}" role="img" '
    f'aria-label="{word}">{sign}</span> {escape(verdict or word)}</p>'
  )


def _tally(verdicts: Iterable[bool | None], what: str) -> str:
  judged = [verdict for verdict in verdicts if verdict is not None]
  if not judged:
    return ""
  right = sum(judged)
  return (
    f'<p class="tally"><b>{right} of {len(judged)}</b> {what} shown are right'
    f'<span class="meter" aria-hidden="true"><i style="width:'
    f'{100 * right / len(judged):.1f}%"></i></span></p>'
  )
