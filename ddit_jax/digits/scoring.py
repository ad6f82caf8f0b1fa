"""What turns generated images, captions and answers into metrics.

Every metric is a record of metric_record.py and carries its ceiling (what
perfect output scores with the same judge) and its baseline (what output
scores that ignores its input).
"""

from ddit_jax.digits.score_answers import (
  answer_metrics,
  most_frequent_answers,
  pope_metrics,
)
from ddit_jax.digits.score_captions import caption_metrics
from ddit_jax.digits.score_images import generation_metrics

__all__ = [
  "answer_metrics",
  "caption_metrics",
  "generation_metrics",
  "most_frequent_answers",
  "pope_metrics",
]
