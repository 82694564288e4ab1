"""Errors a person should read, each with the exit code that a script can rely on.

The last line on stderr is always `qgf: error[CODE]: what; where; how to fix`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from qgf_ros.files.regular import NotRegular
from qgf_ros.missing import remedy


def printable(text: str) -> str:
    """Text as a terminal may have it: a name in a recording, or a word on the wire, may hold the
    sequences by which one clears screens, hides lines and changes titles."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else "?" for c in text)


class QgfError(Exception):
    """Base of the errors that are meant for a person. Subclasses fix the exit code."""

    code = 1

    def __init__(self, text: str, document: Mapping[str, Any] | None = None) -> None:
        """document: the result that --json prints all the same."""
        super().__init__(text)
        self.document = document


class UsageError(QgfError):
    """Configuration or usage is wrong."""

    code = 2


class DataLost(QgfError):
    """The work was finished, but some data could not be read."""

    code = 3


class PolicyRefused(QgfError):
    """A policy folder is damaged, does not fit, or is not one."""

    code = 4


class DataRefused(QgfError):
    """Recorded data cannot be used."""

    code = 5


class DeviceUnavailable(QgfError):
    """The device that was asked for is not there."""

    code = 6


class StorageError(QgfError):
    """The disk is full or cannot be read or written."""

    code = 7


class CriterionNotMet(QgfError):
    """The work was finished, but its criterion was not met."""

    code = 8


@contextlib.contextmanager
def exit_codes(debug: bool = False) -> Iterator[None]:
    """Turns errors into the one-line message and the exit code; tracebacks only with `debug`."""
    try:
        yield
    except KeyboardInterrupt:
        print("qgf: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError):
            error = UsageError(remedy(error.name))
        storage = isinstance(error, OSError) or _is_full(error)
        code = error.code if isinstance(error, QgfError) else 7 if storage else 1
        text = str(error) if isinstance(error, QgfError) else f"{type(error).__name__}: {error}"
        hint = "" if isinstance(error, QgfError) else "; run again with --debug for the traceback"
        if isinstance(error, OSError):
            what = f"{error.filename}: " if error.filename else "cannot read or write a file: "
            text = f"{what}{error.strerror or error}; {_remedy(error)}"
        line = printable(" ".join(text.split()))
        print(f"qgf: error[{code}]: {line}{hint}", file=sys.stderr)
        raise SystemExit(code) from None


def _remedy(error: OSError) -> str:
    """What somebody can do about a place that cannot be used."""
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError, NotRegular)):
        return "something else is in its place: move that away, or choose another place"
    return "make room, or choose a place that may be used"


def _is_full(error: BaseException) -> bool:
    """Whether sqlite3 could not write: its errors are no OSError, and it is not imported for this."""
    return type(error).__module__ == "sqlite3" and "disk" in str(error)
