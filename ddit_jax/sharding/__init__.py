"""Placement of arrays on devices.

- `rules`: the table from logical axes to mesh axes, and the shardings it gives.
- `mesh`: the named device mesh.
"""
