"""Checkpoints that are whole or not there at all.

manifest.py      what must be in a folder: size and hash of every file
plain_files.py   the settings, data position, metrics and tokenizer of a step
tree_match.py    does a stored tree of arrays fit the one asked for?
step_folders.py  which steps are finished, which may go
agreement.py     one process's error becomes every process's error
store.py         CheckpointStore: save in the background, restore anywhere
"""
