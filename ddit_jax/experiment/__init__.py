"""The composition root: the only folder that knows all the others.

`settings` (strict configuration), `config_files` (ConfigDict to settings),
`build` (settings to parts), `training`, `generating` and `evaluating` (what
the verbs do), `run_folder` (names inside a workdir), `sampling_functions`
(a checkpoint's jitted samplers).
"""
