"""Files that are whole or not there: written beside their place, synced, then moved into it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; `path` is what it was before until all of it is on the disk."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staging.unlink(missing_ok=True)  # of who was killed
        with staging.open("xb") as file:  # and through no link that somebody laid there
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync(path.parent)
    finally:
        staging.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; `path` comes to be when all of it is on the disk. If somebody else made it
    meanwhile, theirs stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    if os.path.lexists(staging):  # no folder, then
        staging.unlink()
    staging.mkdir()
    try:
        yield staging
        for file in staging.iterdir():
            sync(file)
        sync(staging)
        with contextlib.suppress(FileExistsError):
            if not path.exists():
                staging.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sync(path: Path) -> None:
    """What a file holds, or a folder names, is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
