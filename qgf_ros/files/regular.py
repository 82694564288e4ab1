"""Files that somebody else put there: only regular ones are opened.

To open a pipe waits until somebody writes into it, a device gives bytes for ever, and a link may lead
anywhere. What is opened here is none of these, also where it changes in between.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


class NotRegular(OSError):
    """What is there is no regular file; `strerror` says what it is."""


def open_regular(path: Path, follow: bool = True) -> io.BufferedReader:
    """A regular file to read. follow: a link that is one itself; not those on the way.

    Raises:
        NotRegular: it is something else. Nothing was opened, and nobody waited.
        OSError: it is not there, or may not be read.
    """
    _check(path, os.stat(path, follow_symlinks=follow).st_mode)
    return io.BufferedReader(io.FileIO(_opened(path, os.O_RDONLY, follow), "r"))


def lock_file(path: Path) -> int:
    """A descriptor of a regular file that is made where there is none, and not written to; a link is
    not followed. Raises NotRegular, OSError."""
    return _opened(path, os.O_RDWR | os.O_CREAT, follow=False)


def _opened(path: Path, flags: int, follow: bool) -> int:
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if not follow and path.is_symlink():
            raise _other(path, "a link") from None
        if error.errno == errno.EISDIR:
            raise _other(path, "a folder") from None
        raise
    try:
        _check(path, os.fstat(descriptor).st_mode)
    except NotRegular:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _other(path, KINDS.get(stat.S_IFMT(mode), "something else"))


def _other(path: Path, kind: str) -> NotRegular:
    return NotRegular(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
