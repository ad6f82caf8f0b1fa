"""One training step and the loop around it.

- `step`: the step: losses, gradients, optimiser, EMA.
- `state`: what a step changes, and its shardings.
- `optimizer`: the learning-rate schedule and the optimiser.
- `loop`: feeds the step and calls hooks; stop signals.
- `hooks`: the loss guard and the log of scalars.
"""
