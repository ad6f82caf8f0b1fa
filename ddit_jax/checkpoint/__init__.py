"""Atomic checkpoints: complete or absent.

- `manifest`: size and hash of every file; processes agree on errors
- `steps`: a step's folder: JSON metadata, completeness, deletion
- `tree_match`: does a stored tree of arrays match the requested one?
- `store`: CheckpointStore: save in the background, restore anywhere
"""
