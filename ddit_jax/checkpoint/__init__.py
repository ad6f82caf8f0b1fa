"""Atomic checkpoints: complete or absent.

manifest.py    size and hash of every file; processes agree on errors
steps.py       a step's folder: JSON metadata, completeness, deletion
tree_match.py  does a stored tree of arrays match the requested one?
store.py       CheckpointStore: save in the background, restore anywhere
"""
