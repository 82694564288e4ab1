"""A million inputs into the gates of all kinds of action: what leaves them, judged from its outputs alone.

Gates with many numbers, each with limits of its own, so that a step of the real gate judges all of
them; one input is one number of a candidate, with its limits, its last command and its step. The
seed is printed where it fails. `QGF_TEST_SCALE` multiplies the count, up to ten million of each kind.
"""

import time

import numpy as np
import pytest
from qgf_make import SCALE, SECOND, START, contract

from qgf_ros.control.gate import Candidate, Gate
from qgf_ros.spaces.actions import KINDS
from qgf_ros.spaces.messages import TYPES

INPUTS = min(1_000_000 // len(KINDS) * SCALE, 10_000_000)  # of each kind
NUMBERS, STEPS = 240, 100  # of a gate, all of one kind
ROUNDING = 1e-14  # relative; a command near 1 is exact to 1e-16
SPECIAL = np.array([0.0, -0.0, 5e-324, -5e-324, 1e-300, 1e-310])
ABSURD = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e30])


def limits_of(kind, rng):
    """One number's limits, over many orders of magnitude; half have none of the later ones."""
    velocity = kind.hold == "ramp_to_zero"
    width = 10 ** rng.uniform(-3, 3)
    low = -width * rng.random() if velocity else width * rng.normal()
    limit = {"min": low, "max": low + width, "rate": width * 10 ** rng.uniform(-2, 3)}
    if rng.random() < 0.7:
        limit["jerk"] = limit["rate"] * 10 ** rng.uniform(-1, 4)
        if not velocity:
            limit["acceleration"] = limit["rate"] * 10 ** rng.uniform(-1, 3)
            limit["jerk"] = limit["acceleration"] * 10 ** rng.uniform(0, 3)
            if rng.random() < 0.5:
                del limit["jerk"]
    return limit


def wide_contract(kind, rng, period):
    """NUMBERS numbers of one kind."""
    names = [f"j{i}" for i in range(NUMBERS)]
    own = {
        "contract": 1,
        "robot": "fuzzed",
        "time": {"period": period, "horizon": 5},
        "observations": [
            {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState",
             "fields": ["position"], "names": names}
        ],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    }  # fmt: skip
    if kind.converts:  # poses: a position and a turn from home, which stays short of half a turn
        labels = kind.labels(None)
        fields = [f"pose.position.{axis}" for axis in "xyz"] + ["pose.orientation"]
        own["observations"] = [
            {"name": f"tool{i}", "topic": f"tool{i}", "type": kind.types[0], "fields": fields, "encoding": "rot6d"}
            for i in range(NUMBERS // len(labels))
        ]
        own["actions"] = [
            {"name": f"arm{i}", "topic": f"body{i}", "type": kind.types[0], "fields": fields,
             "representation": kind.representation, "space": kind.space, "frame": "base",
             "home": [0.0, 1.0, 0.0, 0.0], "measured": {"pose": f"tool{i}"},
             "limits": {n: turn_of(kind, rng) if "rotation" in n else limits_of(kind, rng) for n in labels}}
            | ({"axes": "tool"} if kind.learnt_from else {})
            for i in range(NUMBERS // len(labels))
        ]  # fmt: skip
    elif kind.types:
        type_ = TYPES[kind.types[-1]]
        fields = [field for field in type_.fields if not type_.is_orientation(field)]
        own["actions"] = [
            {"name": f"arm{i}", "topic": f"body{i}", "type": type_.name, "fields": fields,
             "representation": kind.representation, "space": kind.space, "frame": "base",
             "limits": {n: limits_of(kind, rng) for n in fields}}
            for i in range(NUMBERS // len(fields))
        ]  # fmt: skip
    else:
        own["actions"] = [
            {"name": "arm", "topic": "commands", "type": "std_msgs/Float64MultiArray", "names": names,
             "representation": kind.representation, "space": kind.space,
             "limits": {n: limits_of(kind, rng) for n in names}}
        ]  # fmt: skip
    return contract(own)


def turn_of(kind, rng):
    """As `limits_of`, of a range that is no half turn."""
    limit = limits_of(kind, rng)
    share = 1.5 / max(abs(limit["min"]), abs(limit["max"]))
    return {key: value * min(share, 1.0) for key, value in limit.items()}


class Watch:
    """What is promised of every output, checked from limits and outputs; knows nothing of the gate."""

    def __init__(self, own):
        rows = [a.limits[n] for a in own.actions for n in a.labels_of_joints]
        self.low, self.high, self.rate, acceleration, jerk = (
            np.array([getattr(r, key) for r in rows])
            for key in ("min", "max", "rate", "acceleration", "jerk")
        )
        self.velocity = own.velocity_like
        self.second = np.where(self.velocity, jerk, acceleration)
        self.third = np.where(self.velocity, np.inf, jerk)
        self.period = own.time.period
        self.checked = self.jerks = 0

    def start(self, value):
        self.value, self.at = value, None
        self.change, self.turn = np.zeros(len(value)), np.zeros(len(value))
        self.since_forced = np.zeros(len(value))
        self.steady = False  # the last step followed a candidate of this scale, and took its time
        # How well `change` and `turn` are known: of a tiny step they are mostly rounding.
        self.slack, self.turn_slack = np.zeros(len(value)), np.zeros(len(value))

    def see(self, now, out, scale, brake=False):
        elapsed = self.period
        if self.at is not None and not brake:
            since = (now - self.at) * 1e-9
            elapsed = min(max(since, 0.0), self.period)
            if since > 2 * self.period:  # whoever is commanded stands by now
                self.change[:], self.turn[:], self.steady = 0, 0, False
        x0, x1, v0 = self.value, out.values, self.change
        rounding = ROUNDING * np.maximum(np.abs(x0), np.abs(x1))
        assert np.isfinite(x1).all()
        assert (x1 >= np.minimum(self.low, x0)).all() and (x1 <= np.maximum(self.high, x0)).all()
        assert (np.abs(x1 - x0) <= self.rate * elapsed * (1 + 1e-9) + rounding).all(), "rate"
        if not out.admitted:
            if self.velocity.any():
                assert (np.abs(x1) <= np.abs(x0)).all() and (x1 * x0 >= 0).all(), "towards zero"
            held = ~np.isfinite(self.second) & ~self.velocity
            assert (x1 == x0)[held].all(), "a hold keeps the position that was sent"
        self.value, self.at = x1, now
        if elapsed == 0:
            self.follow(out, v0, self.turn, self.steady)
            return
        v1 = (x1 - x0) / elapsed
        slack, self.slack = self.slack, rounding / elapsed
        known = slack + self.slack + 1e-9 * (np.abs(v0) + np.abs(v1))
        turned = np.abs(v1 - v0) - self.second * elapsed * (1 + 1e-9)
        hard = ~self.velocity | out.admitted
        assert (turned <= known)[hard].all(), "the change of the rate"
        if not out.admitted:
            slower = np.abs(v1) <= np.abs(v0) + known
            assert slower[~self.velocity].all(), "a hold only slows down"
        # Whatever moves towards the range's end can stop before it.
        with np.errstate(invalid="ignore"):
            way = np.maximum(np.abs(v1) - known, 0) ** 2 / (2 * self.second)
        room = np.where(v1 > 0, self.high - x1, x1 - self.low)
        inside = (x0 >= self.low) & (x0 <= self.high)
        assert (way <= room * (1 + 1e-9) + rounding)[inside & hard].all(), "it can still stop"
        turn = (v1 - v0) / elapsed
        if self.steady and out.admitted and elapsed > 0.1 * self.period:
            self.check_jerk(x0, v0, v1, turn, elapsed, scale, known)
        self.follow(out, v1, turn, elapsed > 0.1 * self.period)
        self.turn_slack = known / elapsed
        self.checked += len(x1)

    def follow(self, out, change, turn, steady):
        """What the next step is judged by. A hold does not count for jerk: it begins anew."""
        self.change = np.where(self.velocity & (not out.admitted), 0.0, change)
        self.turn = turn if out.admitted else np.zeros(len(turn))
        self.steady = out.admitted and steady

    def check_jerk(self, x0, v0, v1, turn, elapsed, scale, known):
        """Jerk is kept, but where the range's end or a tightened limit asks for more, or the rate's
        end does in the steps after that."""
        second, third = self.second * scale, self.third * scale
        most = self.rate * scale
        above, below = (stopping(r, second, elapsed) for r in (self.high - x0, x0 - self.low))
        ends = (v1 >= above * (1 - 1e-6) - known) | (-v1 >= below * (1 - 1e-6) - known)
        up, down = (stopping(r, third, elapsed) for r in (most - v0, most + v0))
        late = known / elapsed
        released = (turn >= up * (1 - 1e-6) - late) | (-turn >= down * (1 - 1e-6) - late)
        released &= self.since_forced <= 5
        edge = most * (1 - 1e-9) - known
        tightened = (np.abs(v0) > edge) | (np.abs(self.turn) > second * (1 - 1e-9))
        tightened |= (np.abs(v1) > edge) & (scale < 1)
        least = third * elapsed * (1 + 1e-6) + self.turn_slack + late
        kept = np.abs(turn - self.turn) <= least
        assert (kept | ends | released | tightened).all(), "jerk"
        self.since_forced = np.where(ends | tightened, 0, self.since_forced + 1)
        self.jerks += (np.isfinite(third) & ~ends & ~released & ~tightened).sum()


def stopping(room, change, elapsed):
    """The largest rate that leaves time to stop within `room`."""
    room = np.maximum(room, 0)
    return 2 * room / (elapsed + np.sqrt(elapsed**2 + 2 * room / change))


def asked(watch, rng):
    """(NUMBERS,) of a candidate: within the range, at its ends, outside, tiny, near the last."""
    low, high = watch.low, watch.high
    width = high - low
    kinds = np.array([
        rng.uniform(low, high), np.where(rng.random(NUMBERS) < 0.5, low, high), rng.uniform(low - width, high + width),
        np.nextafter(high, np.inf), np.clip(rng.choice(SPECIAL, NUMBERS), low - width, high + width),
        np.clip(watch.value + rng.normal(size=NUMBERS) * 1e-3 * width, low - width, high + width),
    ])  # fmt: skip
    return kinds[rng.choice(6, NUMBERS, p=[0.2, 0.2, 0.2, 0.1, 0.1, 0.2]), np.arange(NUMBERS)]


def spoilt(values, rng):
    """What else may come as a candidate's numbers; most of it must be refused."""
    kind = rng.integers(9)
    if kind < 3:
        values[rng.integers(NUMBERS, size=rng.integers(1, 4))] = rng.choice(ABSURD)
        return values
    return [
        values.astype(np.float32), values.astype(np.int64), values.astype(object), values + 1j,
        np.ma.masked_invalid(np.where(rng.random(NUMBERS) < 0.1, np.nan, values)), values[:-1],
    ][kind - 3]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_fault_067_a_million_inputs_of_all_kinds(kind):
    seed = [67, KINDS.index(kind)]
    print(f"seed {seed}")  # shown where it fails
    rng = np.random.default_rng(seed)
    inputs = checked = jerks = admitted = limited = 0
    began = time.perf_counter()
    while inputs < INPUTS:
        own = wide_contract(kind, rng, float(10 ** rng.uniform(-3, 0)))
        assert {a.kind for a in own.actions} == {kind}
        gate, watch = Gate(own), Watch(own)
        outs = run(gate, watch, own, rng)
        inputs += NUMBERS * STEPS
        checked += watch.checked
        jerks += watch.jerks
        admitted += sum(o.admitted for o in outs)
        limited += sum(o.limited for o in outs)
        assert gate.limit_hits == sum(o.limited for o in outs)
    print(f"{kind.name}: {inputs} inputs, {admitted} of {inputs // NUMBERS} candidates admitted, "
          f"{limited} limited, {jerks} times jerk, {time.perf_counter() - began:.1f} s")  # fmt: skip
    assert checked > 0.7 * inputs and admitted > 0.4 * inputs / NUMBERS, "something was judged"
    assert limited > 0.2 * inputs / NUMBERS


def run(gate, watch, own, rng):
    """STEPS steps of one gate on a clock that stumbles."""
    outs, now, sequence, epoch, scale = [], START, 0, 0, 1.0
    width = watch.high - watch.low

    def measured():
        away = np.where(rng.random(NUMBERS) < 0.2, rng.normal(size=NUMBERS) * width, 0.0)
        return rng.uniform(watch.low, watch.high) + away

    def begin():
        gate.silence()
        place = measured()
        gate.begin_epoch(epoch, place)
        watch.start(np.where(watch.velocity, 0.0, place))

    begin()
    for _ in range(STEPS):
        waits = [1.0, 0.97, 1.05, 0.3, 1e-6, 0.0, -1.0, 3.0, 30.0]
        wait = rng.choice(waits, p=[0.6, 0.1, 0.1, 0.05, 0.02, 0.04, 0.03, 0.03, 0.03])
        now += int(wait * own.time.period * SECOND)
        if rng.random() < 0.03:
            scale = gate.scale = rng.choice([1.0, 0.5, 0.01])
            watch.steady = False
        event = rng.random()
        if event < 0.02:
            epoch += 1
            begin()
        elif event < 0.04:
            epoch += 1
            gate.begin_epoch(epoch, measured())
            if gate.silent:
                begin()
        if event > 0.98:
            out = gate.brake(now)
            candidate = None
        else:
            candidate = offered(watch, rng, own, now, sequence, epoch)
            out = gate.step(now, candidate)
        sequence += 1
        if out.values is not None:
            watch.see(now, out, scale, brake=event > 0.98)
        outs.append(out)
    return outs


def offered(watch, rng, own, now, sequence, epoch):
    """What comes in this tick: mostly a good candidate."""
    kind = rng.random()
    if kind < 0.04:
        return None
    names, values = own.action_names, asked(watch, rng)
    if kind < 0.12:
        values = spoilt(values, rng)
    elif kind < 0.14:
        names, values = (), np.empty(0)
    stale = (kind > 0.94) * rng.choice(4)
    return Candidate(
        "stranger" if stale == 1 else "qgf",
        sequence - 5 * int(stale == 2),
        epoch,
        now,
        now,
        now - int(stale == 3),
        names,
        values,
    )
