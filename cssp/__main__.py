"""``python -m cssp``."""

import sys

from cssp.cli import main

if __name__ == "__main__":
    sys.exit(main())
