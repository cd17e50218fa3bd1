"""`python -m asdkit` is the command `asdkit`."""

import sys

from asdkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
