"""The node `qgf` with a sampler that hangs and keeps the GIL, as a stuck native call does.

python gil_holder.py FILE --ros-args ...: the first sample after FILE exists takes 2 s, in which no
thread of the process runs.
"""

import ctypes
import sys
from pathlib import Path

from qgf_ros.ros import node

HELD = 2_000_000  # us


class Holder:
    """The real sampler, but for one call."""

    def __init__(self, sampler, file):
        self._sampler = sampler
        self._file = file

    def __getattr__(self, name):
        return getattr(self._sampler, name)

    def __call__(self, *args, **kwargs):
        if self._file.exists():
            self._file.unlink()
            ctypes.PyDLL(None).usleep(HELD)  # PyDLL, other than CDLL, keeps the GIL
        return self._sampler(*args, **kwargs)


if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    real = node.make_sampler
    node.make_sampler = lambda *args, **kwargs: Holder(real(*args, **kwargs), file)
    sys.exit(node.main())
