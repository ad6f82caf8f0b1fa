"""Eight virtual CPU devices for all tests; must run before JAX starts."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from absl import flags

# Some libraries read absl flags at import; pytest never parses them.
flags.FLAGS.mark_as_parsed()
