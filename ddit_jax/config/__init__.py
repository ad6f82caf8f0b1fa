"""Config files to a tree of frozen dataclasses.

- `load`: builds the tree by type hints; config files, overrides and stages.
- `dry_run`: any config at toy size on generated data.
"""
