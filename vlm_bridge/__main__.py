"""``python -m vlm_bridge generate | pruners`` (``--help`` after either of them)."""

import sys

from vlm_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
