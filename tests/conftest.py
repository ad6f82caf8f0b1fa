"""Eight virtual CPU devices for all tests; must run before JAX starts."""

import importlib.util
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from absl import flags

# Some libraries read absl flags at import; pytest never parses them.
flags.FLAGS.mark_as_parsed()

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = [
  "encoders",
  "conversion",
  "parity",
  "models/test_against_diffusers.py",
  "models/test_pure_module.py",
]
collect_ignore = [] if HAS_TORCH else NEED_TORCH


def pytest_report_header(config):
  """Says aloud what is left out without PyTorch."""
  if not HAS_TORCH:
    return (
      f"not collected, PyTorch is absent: {', '.join(NEED_TORCH)}; "
      "make parity-test installs it and runs them"
    )
