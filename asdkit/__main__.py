"""`python -m asdkit` is the command `asdkit`."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    del sys.path[0]  # no file there takes the place of a library; `--trust` lets modules there be found, last

from asdkit.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
