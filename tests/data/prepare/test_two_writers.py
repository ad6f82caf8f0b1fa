"""Processes that prepare one folder at once: one writes, all is checked."""

import random
import subprocess
import sys
import time

import pytest

from ddit_jax.data.sources.array_record import open_array_record
from tests.source_files import encoded

NUM_IMAGES, NUM_ROUNDS = 60, 8


@pytest.mark.slow
def test_who_reports_success_left_a_whole_folder(tmp_path):
  pictures = tmp_path / "pictures"
  pictures.mkdir()
  for number in range(NUM_IMAGES):
    (pictures / f"{number}.jpg").write_bytes(encoded(200, 300))
    (pictures / f"{number}.txt").write_text("a dog")
  command = [sys.executable, "-m", "ddit_jax", "prepare", "--short_side=8"]
  command += ["--kind=image_folder", f"--path={pictures}", "--shards=20"]
  rng = random.Random(0)
  for number in range(NUM_ROUNDS):
    out, writers = tmp_path / f"out{number}", []
    for _ in range(3):
      time.sleep(rng.uniform(0, 0.2))
      writers.append(
        subprocess.Popen(
          [*command, f"--out={out}"],
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
      )
    num_done = 0
    for writer in writers:
      told, complaint = writer.communicate(timeout=120)
      if writer.returncode == 0:
        num_done += 1
        assert f"{NUM_IMAGES} records in 20 shards" in told
      else:
        assert writer.returncode == 2, complaint
        assert "another process is writing to" in complaint
    assert num_done >= 1
    source = open_array_record("set", path=str(out), check_hashes=True)
    assert len(source) == NUM_IMAGES
    assert not (out / "in_progress").exists()
