"""A disk that is full in earnest: the kernel ends each file at a size."""

import contextlib
import os
import resource
import sys


@contextlib.contextmanager
def full_at(size):
    """No file of this process, and of those that it starts, grows beyond `size` bytes.

    No bytecode is kept meanwhile: Python takes a file that was cut short for a whole one.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeps, said = sys.dont_write_bytecode, os.environ.get("PYTHONDONTWRITEBYTECODE")
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = keeps
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        if said is not None:
            os.environ["PYTHONDONTWRITEBYTECODE"] = said
