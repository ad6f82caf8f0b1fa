"""Checks every folder of cases and formats the lines."""

import pathlib
from collections.abc import Callable, Iterator

from ddit_jax.errors import one_line
from scorers import answer_cases, caption_cases, image_cases
from scorers.compare import ABSENT, Comparison, Figure, figures
from scorers.folder import Folder

FOLDERS: dict[str, Callable[[Folder], Iterator[Comparison]]] = {
  "normalise": answer_cases.normalise,
  "vqav2": answer_cases.vqav2,
  "vqa_without_answer_ids": answer_cases.vqav2,
  "okvqa": answer_cases.okvqa,
  "vizwiz": answer_cases.vizwiz,
  "gqa": answer_cases.gqa_cases,
  "pope": answer_cases.pope_cases,
  "mme": answer_cases.mme_cases,
  "ptb": caption_cases.ptb,
  "coco_caption": caption_cases.coco_caption,
  "geneval": image_cases.geneval_cases,
  "dpg": image_cases.dpg,
  "t2i_compbench": image_cases.t2i_compbench,
  "fid": image_cases.fid,
  "clipscore": image_cases.clipscore,
}
# Possible exceptions of files that do not hold what they should.
_MISFIT = (
  ValueError,
  TypeError,
  KeyError,
  IndexError,
  AttributeError,
  StopIteration,
  ArithmeticError,
  RecursionError,
  OSError,
)


def check_folders(folder: pathlib.Path) -> Iterator[Figure]:
  """Every figure of every folder of cases, in order of the names.

  What cannot be checked is a figure that fails: an unknown folder, a case that
  cannot be read, a file that nothing has looked at, a folder without figures.
  """
  if not folder.is_dir():
    yield _fault(str(folder), "a folder of cases", "no folder")
    return
  for path in sorted(folder.iterdir()):
    if path.is_dir() and path.name not in FOLDERS:
      yield _fault(path.name, f"one of {', '.join(FOLDERS)}", "unknown folder")
    elif path.is_dir():
      yield from _checked(Folder(path), FOLDERS[path.name])
    elif path.suffix != ".md":
      yield _fault(path.name, "folders", "a file")


def _checked(
  folder: Folder, cases: Callable[[Folder], Iterator[Comparison]]
) -> Iterator[Figure]:
  name, found = folder.path.name, 0
  try:
    for comparison in cases(folder):
      for figure in figures(comparison):
        found += 1
        yield Figure(
          name=f"{name}/{figure.name}",
          expected=figure.expected,
          got=figure.got,
          is_passed=figure.is_passed,
        )
  except _MISFIT as error:
    yield _fault(name, "a readable case", f"{type(error).__name__}: {error}")
    return
  if not found:
    yield _fault(name, "figures", ABSENT)
  for path in folder.unused():
    inside = path.relative_to(folder.path)
    yield _fault(f"{name}/{inside}", "a known file", "left unchecked")


def _fault(name: str, expected: object, got: object) -> Figure:
  return Figure(name=name, expected=expected, got=got, is_passed=False)


def lines(found: Iterator[Figure]) -> Iterator[str]:
  """A line a figure, and last "N passed, M failed"."""
  passed = failed = 0
  for figure in found:
    passed += figure.is_passed
    failed += not figure.is_passed
    yield one_line(figure.line())
  yield f"{passed} passed, {failed} failed"
