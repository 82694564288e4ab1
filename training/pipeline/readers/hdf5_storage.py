"""What an HDF5 file may ask for: nothing is read before its size is known and its storage fits; links,
and arrays that lie in other files, are refused; Python objects are never made."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MARGIN = 2**28  # bytes of memory for what is not numbers
MAX_CHUNK = 2**28  # bytes that are decompressed at once
MAX_RATIO = 1000  # of an array to what is stored of it, where it is more than MIN_RATIO_BYTES
MIN_RATIO_BYTES = 2**20
MAX_TEXT = 2**20  # bytes of an attribute
BUDGET = 2**31  # bytes of all that is read of one episode
DAMAGE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    MemoryError)  # fmt: skip


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """No more than `extra` bytes of memory beyond what the process has: what a damaged file makes
    the library ask for then ends in MemoryError, and not in the whole machine's memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        yield
        return
    limit = pages * resource.getpagesize() + extra
    fits = soft == resource.RLIM_INFINITY or limit < soft
    try:
        if fits:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def member(group: Any, name: str) -> Any:
    """A member of a group, or None. Raises ValueError where it is a link."""
    import h5py

    at = group
    for part in filter(None, name.split("/")):
        link = at.get(part, getlink=True) if hasattr(at, "keys") and part in at.keys() else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{part!r} is a link, which is not followed; copy the arrays themselves into the file"
            )
        at = at[part]
    return at


def check(name: str, array: Any) -> None:
    """Raises ValueError where an array lies elsewhere, or is not as large as it says."""
    if array.is_virtual or array.external:
        raise ValueError(f"{name} lies in another file; copy the numbers themselves into this one")
    size, stored = array.size * array.dtype.itemsize, array.id.get_storage_size()
    if size > BUDGET or size > max(MIN_RATIO_BYTES, MAX_RATIO * stored):
        raise ValueError(
            f"{name} says {array.dtype}{list(array.shape)}, and {stored} bytes are stored"
        )
    if array.chunks and int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize > MAX_CHUNK:
        raise ValueError(f"{name} has chunks of {list(array.chunks)}, which is too much")
    # What was never written is read as zeros, which nobody has measured.
    each = array.chunks or array.shape
    whole = int(np.prod([-(-n // c) for n, c in zip(array.shape, each, strict=True)]))
    there = array.id.get_num_chunks() if array.chunks else int(stored > 0)
    if array.size and there < whole:
        raise ValueError(f"{name} was not written whole: {there} of {whole} parts are in the file")


def attribute(group: Any, name: str) -> Any:
    """A small attribute: a number or a text; else None."""
    if name not in group.attrs:
        return None
    kind = group.attrs.get_id(name)
    if kind.get_space().get_simple_extent_npoints() != 1 or kind.get_storage_size() > MAX_TEXT:
        return None
    value = group.attrs[name]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
