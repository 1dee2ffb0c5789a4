"""``cssp select data.npy -k 20 -o picked.json``: the selectors on matrices in files, and ``cssp independent``, ``interpolative``, ``cur``, ``compare``.

Errors are one line on stderr and exit code 2; an interrupt is one line and exit code 130.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cssp.cli.parser import parser_of
from cssp.errors import CsspError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code comes back."""
    parser = parser_of()
    o = parser.parse_args(arguments)
    if o.command is None:
        parser.print_help()
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            o.run(o)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return 0
    except KeyboardInterrupt:
        print(f"cssp {o.command}: interrupted", file=sys.stderr)
        return 130
    except (CsspError, OSError) as reason:
        return _failed(o.command, str(reason) or type(reason).__name__)
    except MemoryError as reason:
        return _failed(o.command, f"out of memory; use fewer columns with --columns ({reason})")
    except Exception as reason:  # a fault of ours; no traceback for whoever only uses the program
        return _failed(o.command, f"unexpected {type(reason).__name__}: {reason}; please report it")
    return 0


def _failed(command: str, text: str) -> int:
    print(f"cssp {command}: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _close_stdout() -> None:
    """Keep Python from writing to the broken pipe again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *where: Any
) -> None:
    from cssp.cli.common import as_flags

    print(f"cssp: warning: {' '.join(as_flags(str(message)).split())}", file=sys.stderr)
