"""Checkpoints that are whole or not there at all.

manifest.py    size and hash of every file; processes agree on errors
steps.py       a step's folder: plain facts, whether it counts, deleting it
tree_match.py  does a stored tree of arrays fit the one asked for?
store.py       CheckpointStore: save in the background, restore anywhere
"""
