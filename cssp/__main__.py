"""``python -m cssp``."""

import sys

if __name__ == "__main__":
    try:
        from cssp.cli import main
    except KeyboardInterrupt:  # while the libraries are loaded
        sys.exit(130)
    sys.exit(main())
