"""Items into a journal, batch by batch."""

from ddit_jax.pipelines.outputs import _fill
from ddit_jax.protocols.item import Item
from ddit_jax.protocols.journal import Journal


def test_the_repeated_items_of_the_last_batch_are_kept_once(tmp_path):
  items = [Item(key=str(n), text="", draw=n) for n in range(5)]
  journal = Journal(tmp_path / "outputs.jsonl", {})
  sampled, kept = [], []

  def sample(batch, inputs):
    sampled.append([item.draw for item in batch])
    return inputs

  def keep(item, output):
    kept.append(item.draw)
    return f"of {output}"

  _fill(journal, items, 3, sample, lambda item: item.draw, keep)
  assert sampled == [[0, 1, 2], [3, 4, 4]] and kept == [0, 1, 2, 3, 4]
  assert journal.outputs == {str(n): f"of {n}" for n in range(5)}
