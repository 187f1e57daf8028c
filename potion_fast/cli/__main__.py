"""The console script as a module: `python -m potion_fast.cli`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
