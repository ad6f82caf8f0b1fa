"""Compares networks, losses and samplers with recorded PyTorch arrays.

`docs/parity.md` describes the folder of arrays, the golden set.

- `golden_set`: reads the folder and verifies its hashes.
- `checkpoints`: converts its checkpoints and restores their networks.
- `cases_forward`, `cases_training`, `cases_sampling`: our side of every case.
- `compare`: judges one array under its tolerance.
- `check`: does all of it, and formats the lines of `tools/check_parity.py`.
"""
