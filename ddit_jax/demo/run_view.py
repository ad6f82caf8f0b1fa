"""The tab Train: a run's curves, samples and incidents, as HTML."""

import datetime
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ddit_jax.experiment.run_report import read_incidents, run_report
from ddit_jax.report.page import curves, image_source, run_figures
from ddit_jax.train.hooks import INCIDENTS_FILE

# The newest ones that are shown.
_NUM_INCIDENTS = 20
_FILES = ("config.json", "scalars.jsonl")


def is_run(folder: pathlib.Path) -> bool:
  """Whether a folder is the workdir of a run that has logged something."""
  return all((folder / name).is_file() for name in _FILES)


def stamp(folder: pathlib.Path) -> tuple[int, ...]:
  """What changes whenever `run_html` does."""
  paths = [folder / name for name in (*_FILES, INCIDENTS_FILE)]
  paths += sorted((folder / "images").glob("*"))
  return tuple(path.stat().st_mtime_ns for path in paths if path.exists())


@functools.lru_cache(maxsize=1)
def drawn_once(folder: pathlib.Path, now: tuple[int, ...]) -> str:
  """`run_html` of files with this `stamp`: all open pages share it."""
  del now
  return run_html(folder)


def run_html(folder: pathlib.Path) -> str:
  """What training wrote into its workdir so far.

  Raises:
    OSError: a file cannot be read.
    ValueError: a file is damaged.
  """
  report = run_report(folder)
  figures = run_figures(report.scalars, report.seconds)
  last = max((line.get("time", 0) for line in report.scalars), default=0)
  when = datetime.datetime.fromtimestamp(last).strftime("%Y-%m-%d %H:%M:%S")
  return Markup(
    "<h3>{}</h3><p>{} Last logged at {}.</p>"
    '<dl class="ddit-figures">{}</dl>'
    '<div class="ddit-curves">{}</div>{}{}'
  ).format(
    report.title,
    report.summary,
    when,
    _joined("<div><dt>{}</dt><dd>{}</dd></div>", figures.items()),
    _joined(
      "<figure><figcaption>{}</figcaption>{}<small>{}</small></figure>",
      ((c["title"], c["svg"], c["note"]) for c in curves(report.scalars)),
    ),
    _joined(
      '<figure class="ddit-grid"><figcaption>{}</figcaption>'
      '<img src="{}" alt=""></figure>',
      ((title, image_source(x)) for title, x in report.grids.items()),
    ),
    _incidents_html(folder),
  )


def _incidents_html(folder: pathlib.Path) -> Markup:
  incidents = read_incidents(folder)
  if not incidents:
    return Markup(
      "<h4>Incidents</h4><p>None: no batch was skipped and nothing was rolled "
      "back.</p>"
    )
  rows = (
    (x.get("step"), str(x.get("event")).replace("_", " "), _cause(x))
    for x in incidents[: -_NUM_INCIDENTS - 1 : -1]
  )
  return Markup(
    "<h4>Incidents</h4><p>{} in all, the newest first.</p>"
    '<div class="ddit-wide"><table><thead><tr><th>step</th><th>event</th>'
    "<th>cause</th></tr></thead><tbody>{}</tbody></table></div>"
  ).format(
    len(incidents),
    _joined("<tr><td>{}</td><td>{}</td><td>{}</td></tr>", rows),
  )


def _cause(incident: Mapping[str, Any]) -> str:
  """What happened, and to which records."""
  cause = incident.get("cause") or json.dumps(incident.get("losses"))
  records = json.dumps(incident.get("records"))
  return f"{cause}; records {records}"[:400]


def _joined(form: str, rows) -> Markup:
  return Markup("").join(Markup(form).format(*row) for row in rows)
