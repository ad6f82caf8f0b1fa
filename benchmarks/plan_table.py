"""Every kept plan as one row of docs/plans/README.md.

  ddit plan --config=configs/ddit_sd3.py:stage1 --topology=v5p:4x4x4 \\
    --json=docs/plans/stage1_v5p_4x4x4.json
  python benchmarks/plan_table.py

writes the table of all JSON files in docs/plans anew.
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
not tell; where it tells nothing, memory is above that of the arguments.

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
_UNKNOWN = "-"


def table(folder: pathlib.Path = PLANS) -> str:
  """The page for a folder of plans."""
  lines = [
    "| " + " | ".join(_COLUMNS) + " |",
    "| --- | --- | --- |" + " ---: |" * (len(_COLUMNS) - 3),
  ]
  for path in sorted(folder.glob("*.json")):
    cells = _row(path, json.loads(path.read_text()))
    lines.append("| " + " | ".join(cells) + " |")
  return _HEAD + "\n".join(lines) + "\n"


def _row(path: pathlib.Path, plan: dict) -> list[str]:
  sizes = [f"{name} {n}" for name, n in plan["mesh"].items() if n > 1]
  fits = {True: "yes", False: "no", None: _UNKNOWN}[plan["fits"]]
  ideal, compute = plan["ideal_seconds"], plan["compute_seconds"]
  sent = plan["collective_bytes"]
  total = None if sent is None else sum(sent.values())
  exposed = plan["exposed_collective_bytes"]
  return [
    f"[{path.stem}]({path.name})",
    ", ".join(sizes),
    fits,
    f"{_memory(plan)} of {_cell(plan['hbm_limit_bytes'], 2**30, 0)}",
    _cell(ideal, 1e-3),
    _cell(compute, 1e-3),
    _cell(compute, ideal, 2),
    _cell(total, 2**30),
    _cell(exposed, 2**30),
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
  (PLANS / "README.md").write_text(table())
