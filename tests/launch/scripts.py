"""Runs the scripts of launch/, with commands of clusters faked."""

import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


# All that the scripts find, so that none reaches a real cluster.
_TOOLS = (
  *("bash", "date", "dirname", "env", "grep", "head", "hostname", "mkdir"),
  *("rm", "sed", "seq", "setsid", "sleep", "tee", "touch"),
)


def fake(folder: pathlib.Path, **bodies: str) -> None:
  """Writes a command for each name; its body is bash."""
  folder.mkdir(exist_ok=True)
  for name, body in bodies.items():
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def environment(commands: pathlib.Path, **values: object) -> dict[str, str]:
  """These variables, and a PATH of the folder's commands and plain tools."""
  tools = commands.with_name(commands.name + "_tools")
  if not tools.exists():
    tools.mkdir()
    for name in _TOOLS:
      (tools / name).symlink_to(shutil.which(name))
  given = {name: str(value) for name, value in values.items()}
  return {"PATH": f"{commands}:{tools}", "HOME": str(commands)} | given


def run(
  name: str, *argv: object, env: dict[str, str]
) -> subprocess.CompletedProcess:
  """launch/NAME with these arguments; its output as text."""
  return subprocess.run(
    ["bash", LAUNCH / name, *map(str, argv)],
    env=env,
    cwd=ROOT,
    text=True,
    capture_output=True,
    timeout=60,
  )
