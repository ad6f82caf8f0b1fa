"""`python -m ddit_jax` is `ddit`."""

import sys

from ddit_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
