"""Checks our networks, losses and samplers against recorded arrays.

`golden_set` reads a folder of arrays and checkpoints of an independent PyTorch
run, `checkpoints` loads its weights through the converter, one file a case
family computes our side, `comparison` judges each array, `check` does it all.
`docs/parity.md` explains the folder.
"""
