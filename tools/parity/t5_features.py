"""Case b: T5's features, of D-DiT's encoder (0) and of SD3's (1)."""

from ddit_jax.encoders.t5 import offset_buckets
from parity.checkpoints import Checkpoints
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  del golden  # No constant of the run enters.
  results: dict[str, Readings] = {}
  for run in case.groups("ids"):
    ids = case[f"{run}/ids"]
    if f"{run}/enc0_hidden" in case.entries:
      encoder = checkpoints.get("ddit")["text_encoder"]
      results[f"{run}/enc0_hidden"] = encoder.apply(ids)
    if f"{run}/enc1_hidden" in case.entries:
      results[f"{run}/enc1_hidden"] = {
        name: loaded["text_encoder"].apply(ids)
        for name, loaded in checkpoints.sd3().items()
      }
  if "relative_position" in case.entries:
    encoder = checkpoints.get("ddit")["text_encoder"]
    results["bucket"] = offset_buckets(
      case["relative_position"],
      num_buckets=encoder.config.num_buckets,
      max_distance=encoder.config.max_distance,
    )
  return results
