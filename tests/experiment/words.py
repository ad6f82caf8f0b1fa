"""A reward of one's own, opened by the name tests.experiment.words:length."""


def length(outputs):
  """Characters of each text."""
  return [len(text) for text in outputs.texts]
