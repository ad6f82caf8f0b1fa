"""Checkpoints of SD3 and D-DiT, from safetensors to ours and back.

Read in this order: `mapping` (the one table of names), `transforms` (how a
tensor's numbers are laid out), `layouts` (which files hold what), `configs`
(what fixes the shapes), `plan` (every tensor gets its place before anything is
read), `convert` (import), `export`, `verify`. `safetensors_files`,
`array_folder` and `dtypes` read, write and cast; `report` says what happened.
"""
