"""The memory floor: the weights of a sample, read in the order of a sample, as fast as one core can.

A sampler that keeps one copy of each weight reads, at each of T steps, the velocity, each critic
member forward, and, where it guides, one member backward (of the minimum only the smallest is
differentiated). The observation's share of the first layers is read once per sample, the time's
never. Nothing is computed but a sum, and N candidates can share what is read, so that this is
the floor of N as well as of 1.

    python bench/floor.py      # bytes per second by working set, of all kernels, with and without huge pages
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HUGE = 2 << 20
ALIGNMENT = 64  # bytes, of a segment
NOTICE = 10  # runs per kernel, to find the fastest
SOURCE = Path(__file__).with_suffix(".c")


class Segment(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_size_t), ("bytes", ctypes.c_size_t)]


@cache
def library() -> Any:
    """`floor.c`, built for this processor. Raises FileNotFoundError where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc) is installed")
    native = "-mcpu=native" if os.uname().machine == "aarch64" else "-march=native"
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "floor.so"
        command = [compiler, "-O3", native, "-shared", "-fPIC", "-Wno-psabi", SOURCE, "-o", built]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(built))
    loaded.read_all.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    loaded.read_all.restype = ctypes.c_float
    return loaded


class Floor:
    """A sample's reads, by the kernel that is fastest at them here and now."""

    def __init__(self, passes: list[tuple[int, int]], huge: bool = True) -> None:
        """passes: (begin, bytes) of what is read, in order; multiples of `ALIGNMENT`."""
        self.bytes = sum(size for _, size in passes)
        self._segments = (Segment * len(passes))(*passes)
        self._memory, self._base = memory(max(sum(p) for p in passes), huge)
        self.kernel = min(range(library().kernel_count()), key=self.time)

    def time(self, kernel: int) -> float:
        """Shortest of a few runs, in seconds."""
        taken = []
        for _ in range(NOTICE):
            begin = time.perf_counter()
            self(kernel)
            taken.append(time.perf_counter() - begin)
        return min(taken)

    def __call__(self, kernel: int | None = None) -> float:
        which = self.kernel if kernel is None else kernel
        return library().read_all(which, self._base, self._segments, len(self._segments))


def memory(size: int, huge: bool) -> tuple[mmap.mmap, int]:
    """Ones, and the address at which they begin, a huge page's where the system grants one."""
    area = mmap.mmap(-1, (size // HUGE + 2) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    floats = np.frombuffer(area, np.float32)
    floats[:] = 1.0
    return area, -(-floats.ctypes.data // HUGE) * HUGE


def passes(
    velocity: list[int],
    critic: list[int],
    obs: int,
    members: int,
    steps: int,
    guided: bool,
    item: int = 4,
) -> list[tuple[int, int]]:
    """What a sample reads, (begin, bytes) in order.

    velocity, critic: widths of the layers of one network, from the action's D to the output.
    item: bytes of a weight; biases, scales and shifts have 4.
    """
    end = 0

    def place(weights: int, vectors: int = 0) -> tuple[int, int]:
        nonlocal end
        begin, size = end, -(-(weights * item + vectors * 4) // ALIGNMENT) * ALIGNMENT
        end += size
        return begin, size

    def network(widths: list[int]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """-> the observation's share, the layers."""
        seen = place(obs * widths[1])
        return seen, [place(i * o, 3 * o) for i, o in zip(widths, widths[1:])]

    flow, *critics = [network(velocity), *(network(critic) for _ in range(members * guided))]
    once = [seen for seen, _ in (flow, *critics)]
    step = [*flow[1], *(layer for _, layers in critics for layer in layers)]
    if guided:  # of the member that was read last, what is best for the cache
        step += reversed(critics[-1][1])
    return once + step * steps


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    count = library().kernel_count()
    for huge in (False, True):
        print(f"{'huge' if huge else 'small'} pages, GB/s by kernel, as listed in {SOURCE.name}")
        for kilobytes in (16, 256, 768, 1900, 4096, 9700, 16384, 24576, 39000, 131072):
            size = kilobytes << 10
            floor = Floor([(0, size)] * max(1, (40 << 20) // size), huge)
            speeds = [floor.bytes / floor.time(kernel) * 1e-9 for kernel in range(count)]
            print(f"{kilobytes:7d} kB", *(f"{speed:4.0f}" for speed in speeds), flush=True)


if __name__ == "__main__":
    sys.exit(main())
