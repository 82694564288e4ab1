"""An arbiter on a clock that is moved by hand, for the tests of `qgf_gate`'s logic."""

import math

import numpy as np
import pytest
from qgf_make import SECOND, START, contract, velocity_dict

from qgf_ros.control.arbiter import Arbiter, Moment
from qgf_ros.control.gate import Candidate, Refused

T = 50_000_000  # ns
NAMES = ("arm.a", "arm.b")
HUMAN, NODE = "/teleop", "/qgf"
NOWHERE = np.full(2, np.nan)


class Scene:
    """An arbiter on a clock that is moved by hand; owners count their own sequences."""

    def __init__(self, config=None, owners=(HUMAN, NODE), measured=NOWHERE, **options):
        self.arbiter = Arbiter(contract(config or velocity_dict()), owners, **options)
        self.now = Moment(START, 7 * SECOND)
        self.measured = np.array(measured, float)
        self.sequence = dict.fromkeys(owners, 0)

    def wait(self, ns, speed=1.0):
        """`speed`: of the control clock, where it is simulated."""
        self.now = Moment(self.now.control + round(ns * speed), self.now.steady + ns)

    def candidate(self, who, value, epoch=1, **changes):
        self.sequence[who] += 1
        now = self.now.control
        values = np.full(2, float(value)) if np.isscalar(value) else np.array(value, float)
        fields = {
            "owner": who,
            "sequence": self.sequence[who],
            "epoch": epoch,
            "stamp": now,
            "execute_at": now,
            "deadline": now + 2 * T,
            "names": NAMES,
            "values": values,
        }
        return Candidate(**fields | changes)

    def say(self, who, value, epoch=1, topic=None, **changes):
        """What goes out, as one number."""
        c = self.candidate(who, value, epoch, **changes)
        return one(self.arbiter.offer(topic or who, c, self.now, self.measured))

    def refused(self, who, value=1.0, epoch=1, topic=None, **changes):
        """The code of the refusal."""
        with pytest.raises(Refused) as refusal:
            self.say(who, value, epoch, topic, **changes)
        return refusal.value.problem.code

    def hold(self, who, epoch=1):
        return self.say(who, [], epoch, names=())

    def watch(self):
        output = self.arbiter.watch(self.now)
        return None if output is None else one(output)

    def until_silent(self):
        """What the watchdog sends, once per period, until it has nothing more to say."""
        return self.until_silent_by(lambda: self.wait(T))

    def until_silent_by(self, wait):
        sent = []
        while not self.arbiter.gate.silent:
            wait()
            value = self.watch()
            sent += [] if value is None else [value]
            assert len(sent) < 100
        return sent


def one(output):
    if output.values is None:
        return None
    assert output.values[0] == output.values[1] and math.isfinite(output.values[0])
    return float(output.values[0])
