"""`python -m arbook` is the command `arbook`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
