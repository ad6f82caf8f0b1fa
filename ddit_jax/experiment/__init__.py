"""The composition root: the only folder that knows all the others.

`training`, `generating` and `evaluating` are what the verbs do. `build` makes
parts of settings: `dual_model` (the network between its encoders),
`digit_data` or `source_data` (what is trained on), `converted` and
`starting_weights` (what training starts from). `loading` makes a `pipeline`, or
`sd3_*` for the untouched SD3, of a checkpoint. `run_folder` names what lies in
a workdir.
"""
