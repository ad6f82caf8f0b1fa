"""One optimisation step and the loop around it.

`step` is the algorithm; `state`, `optimizer`, `ema` are its parts; `loop`
feeds it and calls hooks.
"""
