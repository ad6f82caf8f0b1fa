"""One training step and the loop around it.

step.py       the step: losses, gradients, optimiser, EMA
state.py      what a step changes, and its shardings
optimizer.py  the learning-rate schedule and the optimiser
loop.py       feeds the step and calls hooks; stop signals
hooks.py      the loss guard and the log of scalars
"""
