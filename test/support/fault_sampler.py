"""The node with a sampler that goes wrong: `python fault_sampler.py --ros-args ...`.

QGF_FAULT is KIND:FROM:COUNT; the calls FROM to FROM + COUNT - 1 of this process go wrong. The first
`TIMED` calls are those by which a sampler is timed when it is made.
"""

import dataclasses
import os
import sys
import time

import numpy as np

from qgf_ros.control.sampling import PROBES
from qgf_ros.ros import node

TIMED = PROBES + 1
PERIOD = 0.05  # s, of the shipped policy
KIND, FROM, COUNT = os.environ.get("QGF_FAULT", "none:0:0").split(":")


def fail(error):
    raise error


def sleep(periods):
    def late(sample):
        time.sleep(periods * PERIOD)
        return sample

    return late


def of_nan(sample):
    bad = np.full_like(sample.action, np.nan)
    return dataclasses.replace(sample, action=bad, action_unguided=bad)


FAULTS = {
    "late": sleep(1.5),
    "later": sleep(4.0),
    "first": sleep(60.0),  # 3 s
    "nan": of_nan,
    "none": lambda sample: None,
    "shape": lambda sample: dataclasses.replace(sample, action=sample.action[:, :-1]),
    "complex": lambda sample: dataclasses.replace(sample, action=sample.action.astype(complex)),
    "raise": lambda sample: fail(ZeroDivisionError("in the sampler")),
    "q": lambda sample: dataclasses.replace(
        sample, action=np.ones_like(sample.action), q=np.full_like(sample.q, np.nan)
    ),
    "cuda": lambda sample: fail(RuntimeError("CUDA error: an illegal memory access was met")),
}
calls = 0


class Faulty:
    """A sampler, and what becomes of its answers."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def __call__(self, *request):
        global calls
        number, calls = calls, calls + 1
        sample = self.sampler(*request)
        wrong = int(FROM) <= number < int(FROM) + int(COUNT)
        return FAULTS[KIND](sample) if wrong else sample


if __name__ == "__main__":
    make = node.make_sampler
    node.make_sampler = lambda *args: Faulty(make(*args))
    sys.exit(node.main())
