"""Every kept plan as one row of docs/plans/README.md.

  ddit plan --config=configs/ddit_sd3.py:stage1 --topology=v5p:4x4x4 \\
    --json=docs/plans/stage1_v5p_4x4x4.json
  python benchmarks/plan_table.py

writes the tables of all JSON files in docs/plans anew: one of plans, and one of
the candidates of each sweep, `sweep_*.json`.
"""

import json
import pathlib

PLANS = pathlib.Path(__file__).parents[1] / "docs" / "plans"
_HEAD = """\
# Plans of full-size steps

`ddit plan` compiled these steps for devices that were not attached; nothing was
run. Each row is a JSON file of this folder, with memory, FLOPs, times and
communication by kind. [scale.md](../scale.md) says where the figures come from
and what they leave out; the times are predictions. `python
benchmarks/plan_table.py` writes this page.

Memory and collectives are GiB of one device, the latter of one step; ideal and
compute times are of one step; MFU and images/s run from no overlap of
communication to all that is possible. "-" stands for what the compiler does
not tell; where it tells nothing, memory is above that of the arguments. Quick
plans are estimates: their memory lacks the machine code, and their times follow
from FLOPs and bytes.

"""
_SWEEP = """
## {name}

`ddit plan --sweep{flag}` of {config} on {slices}{topology}, {version}: other
meshes, micro-batches, remat policies and placements, one changed at a time. No
other row is better than a starred one in both memory and time.

"""
_COLUMNS = (
  "plan",
  "mesh",
  "fits",
  "memory",
  "ideal ms",
  "compute ms",
  "x ideal",
  "collectives",
  "exposed",
  "MFU %",
  "images/s",
)
_CANDIDATE_COLUMNS = (
  "",
  "changed",
  "fits",
  "memory",
  "compute ms",
  "step ms",
  "collectives",
  "exposed",
)
_UNKNOWN = "-"
_FITS = {True: "yes", False: "no", None: _UNKNOWN}


def page(folder: pathlib.Path = PLANS) -> str:
  """The page for a folder of plans and sweeps."""
  paths = sorted(folder.glob("*.json"))
  found = {path: json.loads(path.read_text()) for path in paths}
  plans = [_row(path, x) for path, x in found.items() if isinstance(x, dict)]
  text = _HEAD + _table(_COLUMNS, plans, num_words=3)
  for path, candidates in found.items():
    if isinstance(candidates, list):
      text += _sweep(path, candidates)
  return text


def _sweep(path: pathlib.Path, candidates: list[dict]) -> str:
  first = candidates[0]["plan"]
  slices = first["num_slices"]
  head = _SWEEP.format(
    name=path.stem,
    flag=" --quick" if first["is_quick"] else "",
    config=first["config"],
    slices=f"{slices} x " if slices > 1 else "",
    topology=first["topology"],
    version=", ".join(f"{k} {v}" for k, v in first["versions"].items()),
  )
  rows = [_candidate(one) for one in candidates]
  return head + _table(_CANDIDATE_COLUMNS, rows, num_words=3)


def _candidate(candidate: dict) -> list[str]:
  plan, changes = candidate["plan"], candidate["changes"]
  mesh = [f"{k[5:]} {v}" for k, v in changes.items() if k.startswith("mesh.")]
  others = [f"{k}={v}" for k, v in changes.items() if not k.startswith("mesh.")]
  named = ", ".join([name for name in mesh if not name.endswith(" 1")] + others)
  cells = ["*" if candidate["is_best"] else "", named or "nothing"]
  if plan is None:
    return [*cells, f"refused: {candidate['refusal']}", *[_UNKNOWN] * 5]
  return [*cells, *_cost(plan)]


def _cost(plan: dict) -> list[str]:
  return [
    _FITS[plan["fits"]],
    _memory(plan),
    _cell(plan["compute_seconds"], 1e-3),
    _span(plan["step_seconds"], 1e-3),
    *_collectives(plan),
  ]


def _collectives(plan: dict) -> list[str]:
  """What is sent, and what of it no computation hides."""
  sent = plan["collective_bytes"]
  total = None if sent is None else sum(sent.values())
  exposed = plan["exposed_collective_bytes"]
  return [_cell(total, 2**30), _cell(exposed, 2**30)]


def _table(columns, rows: list[list[str]], num_words: int) -> str:
  """In Markdown, the columns after the first few with their cells right."""
  lines = ["| " + " | ".join(columns) + " |"]
  lines.append(
    "|" + " --- |" * num_words + " ---: |" * (len(columns) - num_words)
  )
  lines += ["| " + " | ".join(cells) + " |" for cells in rows]
  return "\n".join(lines) + "\n"


def _row(path: pathlib.Path, plan: dict) -> list[str]:
  sizes = [f"{name} {n}" for name, n in plan["mesh"].items() if n > 1]
  ideal, compute = plan["ideal_seconds"], plan["compute_seconds"]
  return [
    f"[{path.stem}]({path.name})" + (", quick" if plan["is_quick"] else ""),
    ", ".join(sizes),
    _FITS[plan["fits"]],
    f"{_memory(plan)} of {_cell(plan['hbm_limit_bytes'], 2**30, 0)}",
    _cell(ideal, 1e-3),
    _cell(compute, 1e-3),
    _cell(compute, ideal, 2),
    *_collectives(plan),
    _span(plan["mfu"], 0.01),
    _span(plan["images_per_second"], 1),
  ]


def _memory(plan: dict) -> str:
  """What the program needs, or more than its arguments take."""
  if plan["hbm_peak_bytes"] is None and plan["hbm_bytes"]:
    return f"> {_cell(sum(plan['hbm_bytes'].values()), 2**30)}"
  return _cell(plan["hbm_peak_bytes"], 2**30)


def _cell(value: float | None, unit: float | None, digits: int = 1) -> str:
  if value is None or not unit:
    return _UNKNOWN
  return f"{value / unit:,.{digits}f}"


def _span(ends: list[float] | None, unit: float) -> str:
  """ "27" or "27 to 30"."""
  cells = [_cell(end, unit, 0) for end in ends or [None]]
  return " to ".join(dict.fromkeys(cells))


if __name__ == "__main__":
  (PLANS / "README.md").write_text(page())
