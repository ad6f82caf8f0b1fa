"""One training step and the loop around it.

- `step`: the step: losses, gradients, optimizer, EMA.
- `state`: the state of a run, and its shardings.
- `optimizer`: the learning-rate schedule and the optimizer.
- `loop`: feeds the step and calls hooks; stop signals.
- `hooks`: the loss guard and the log of scalars.
- `watchdog`: ends a run that no longer moves.
- `profile`: traces of a few steps.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "optimizer": ["OptimizerConfig"],
    "state": ["TrainState", "init_state", "state_shardings"],
    "step": ["TrainStep"],
  },
)
