"""The front door: `ddit VERB ...`.

`main` finds the verb, `verb_flags` reads its flags, and `train`, `sample` and
`evaluate` hand over to `ddit_jax.experiment`, which they import only when they
run, so that `--help` is quick.
"""
