"""Questions that a language model answers from captions (paper Table 4).

A model describes each image; another one, which sees no image, answers the
benchmark's questions from the descriptions. The paper does not print its
prompt: this one is ours.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

from ddit_jax.errors import InputError, first_few
from ddit_jax.protocols.item import Item
from ddit_jax.scoring.records import TEXT, no_repeats, read_lines

_INSTRUCTION = (
  "Each image is known from its description alone. Answer the question about "
  "it with a single word or a short phrase."
)
_QUESTION = "Description: {caption}\nQuestion: {question}\nAnswer:"
# Fields of an answered question, shown before the one that is asked.
_EXAMPLE = {"caption": TEXT, "question": TEXT, "answer": TEXT}


def read_generated_captions(path: pathlib.Path) -> dict[str, str]:
  """Name of an image file -> its caption.

  Args:
    path: results.jsonl of `ddit sample --task=caption`: an object with "image"
      and "caption" a line.

  Raises:
    InputError: another form, or two images of one name.
  """
  rows = read_lines(path, {"image": TEXT, "caption": TEXT})
  names = [pathlib.Path(row["image"]).name for row in rows]
  no_repeats(
    names, what=f"images of {path}", official="caption each image once"
  )
  return {name: row["caption"] for name, row in zip(names, rows, strict=True)}


def read_examples(path: pathlib.Path, shots: int) -> list[str]:
  """The first `shots` answered questions, as they stand in prompts.

  Args:
    path: an object with "caption", "question" and "answer" a line.
    shots: how many; with 0 nothing is read.

  Raises:
    InputError: another form, or there are fewer.
  """
  if not shots:
    return []
  rows = read_lines(path, _EXAMPLE)
  if len(rows) < shots:
    raise InputError(
      f"{path} has {len(rows)} answered questions, but --shots is {shots}"
    )
  return [f"{_QUESTION.format(**row)} {row['answer']}" for row in rows[:shots]]


def judge_prompts(
  items: Iterable[Item], captions: Mapping[str, str], examples: Sequence[str]
) -> list[dict[str, str]]:
  """A prompt for each question.

  Args:
    items: questions about images.
    captions: by the name of the image file.
    examples: from `read_examples`.

  Returns:
    {"key", "prompt"} of each.

  Raises:
    InputError: an image has no caption.
  """
  items = list(items)
  missing = {i.image.name for i in items if i.image.name not in captions}
  if missing:
    raise InputError(
      f"{len(missing)} images of the questions have no caption "
      f"({first_few(sorted(missing))}): caption them with ddit sample"
    )
  return [
    {
      "key": item.key,
      "prompt": "\n\n".join(
        [
          _INSTRUCTION,
          *examples,
          _QUESTION.format(
            caption=captions[item.image.name], question=item.text
          ),
        ]
      ),
    }
    for item in items
  ]


def read_judge_answers(
  path: pathlib.Path, items: Sequence[Item]
) -> dict[str, str]:
  """Key of a question -> the language model's answer.

  Args:
    path: an object with "key" and "answer" a line, in any order.
    items: the questions.

  Raises:
    InputError: another form, or the answers are not of these questions.
  """
  rows = read_lines(path, {"key": TEXT, "answer": TEXT})
  no_repeats(
    [row["key"] for row in rows],
    what=f"keys of {path}",
    official="give one answer to each prompt",
  )
  answers = {row["key"]: row["answer"].strip() for row in rows}
  wanted = {item.key for item in items}
  for what, keys in (
    ("lacks the answers to", wanted - answers.keys()),
    ("answers", answers.keys() - wanted),
  ):
    if keys:
      raise InputError(
        f"{path} {what} {len(keys)} questions ({first_few(sorted(keys))}): "
        "answer the prompts of the same files"
      )
  return answers
