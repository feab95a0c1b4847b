"""`python -m flopmeter` is the command `flopmeter`."""

import sys

from flopmeter.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
