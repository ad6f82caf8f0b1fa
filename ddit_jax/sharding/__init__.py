"""Placement of arrays on devices.

- `rules`: the table from logical axes to mesh axes, and constraints by it.
- `placement`: where each weight lies, and why.
- `gathering`: weights gathered once a step.
- `mesh`: the named device mesh.
"""
