"""What decides what becomes of a recording: the key under which that is kept, and what changes with it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qgf_ros.bags.sources import contract_sources
from qgf_ros.bags.types import foreign_definitions
from qgf_ros.errors import DataRefused
from qgf_ros.files.regular import open_regular
from qgf_ros.spaces.contract import Contract
from training.pipeline.labels import Label
from training.pipeline.stages import stages
from training.pipeline.streams import Reader


def key_of(
    reader: Reader, path: Path, name: str, contract: Contract, labels: Mapping[str, Label] | None
) -> str:
    """Of one recording: the versions of the stages, the contract, the labels, and the content of the
    files and of message types that lie beside them. Raises DataRefused where a file cannot be read."""
    said = sorted((labels or {}).items())
    about = f"{stages(reader)} {contract.hash} {name} {said}"
    hashed = hashlib.sha256(about.encode(errors="surrogateescape"))
    hashed.update(_types(contract).encode())
    for camera in contract.cameras:
        if camera.encoder is not None and not camera.has_frames:
            own = Path(camera.encoder.file)
            with _readable(own):
                status = own.stat()
                changed = (status.st_mtime_ns, status.st_ctime_ns)
                hashed.update(_content(own, status.st_size, changed).encode())
    for file in reader.files(path, name):
        with _readable(file):
            status = file.stat()
            changed = (status.st_mtime_ns, status.st_ctime_ns)
            hashed.update(f"{file.name} {_content(file, status.st_size, changed)}".encode())
    return hashed.hexdigest()


def state_of(reader: Reader, path: Path, name: str, contract: Contract) -> tuple[Any, ...]:
    """What changes when something is written to a recording, or the types it is read by change.
    Cheap, and so looked at twice; the time of an inode's last change cannot be set by anybody."""
    files = []
    for file in reader.files(path, name):
        with _readable(file):
            files.append((file, file.stat()))
    return _types(contract), [
        (f, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in files
    ]


def _types(contract: Contract) -> str:
    return foreign_definitions(s.type for s in contract_sources(contract).values())


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raises DataRefused where a file of the dataset is not there, or none that can be read."""
    try:
        yield
    except OSError as error:
        raise DataRefused(f"{file}: {error.strerror}") from None


@cache
def _content(file: Path, size: int, changed: tuple[int, int]) -> str:
    hashed = hashlib.sha256()
    with open_regular(file) as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()
