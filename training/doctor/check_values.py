"""The numbers themselves: missing, constant, saturated, far out, in other units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from qgf_ros.console import some
from training.doctor.check import SHOWN, Check, told, unseen
from training.doctor.dataset import Dataset
from training.doctor.sample import column_quantile
from training.doctor.summary import STEADY, SignalSummary

FEW_VALUES = 20
SATURATED = 0.1  # share of the samples at one end of the range
FAR, ABSURD = 15.0, 1000.0  # robust standard deviations
NO_SPREAD = (
    1e4  # times the spread at rest: what moves so far had none, but the rounding of a simulator
)
SPREAD_OF_90 = 3.29  # a Gaussian's 5 % and 95 % quantiles are so many standard deviations apart
PARTLY = 0.1  # of the messages; joints that more of them lack come in messages of their own
FULL_TURN = 2 * np.pi
METRES = 200.0  # positions beyond are another unit; a mobile base comes this far


def finite(data: Dataset) -> Check:
    lost = Counter(
        {
            f"{s.topic} {n}": int(c)
            for s in told(data)
            for n, c in zip(
                s.labels, s.missing + np.where(s.absent > PARTLY * s.messages, 0, s.absent)
            )
            if c
        }
    )
    if not told(data):
        return unseen("finite", "no state or command has a message")
    if not lost:
        return Check("finite", "ok", "every number is finite")
    return Check(
        "finite",
        "warn",
        f"{sum(lost.values())} numbers are NaN, infinite or missing",
        "messages with them are dropped and counted; find out who writes them",
        tuple(f"{name}: {count}" for name, count in lost.most_common(SHOWN)),
    )


def constant(data: Dataset) -> Check:
    still = [f"{s.topic} {n}" for s in told(data) for n in constants(s)]
    once = [f"{s.topic} {n}" for s in told(data) for n, k in zip(s.labels, finite_ones(s)) if k < 2]
    if not still and len(once) == sum(len(s.labels) for s in told(data)):
        return unseen("constant", "no number was said twice")
    if not still:
        rest = f" but for what was said once at most: {some(once)}" * bool(once)
        return Check("constant", "ok", f"every number varies{rest}")
    return Check(
        "constant",
        "warn",
        f"{len(still)} numbers never change: {some(still)}",
        "leave out what is measured: as an input it says nothing. What is commanded stays in the "
        "contract unless it is 0: a field that a contract leaves out is sent as 0",
        tuple(still[:SHOWN]),
    )


def saturated(data: Dataset) -> Check:
    """Time spent at exactly one end of the range."""
    places = []
    if not any(varied(s, i) for s in told(data) for i in range(len(s.labels))):
        return unseen("saturated", f"no number takes {FEW_VALUES} different values")
    for s in told(data):
        for i, label in enumerate(s.labels):
            share, end = saturation(s, i)
            if share >= SATURATED:
                places.append((share, f"{s.topic} {label}: {share:.0%} of the time at its {end}"))
    if not places:
        return Check(
            "saturated",
            "ok",
            f"no number spends {SATURATED:.0%} of its time at an end of its range",
        )
    return Check(
        "saturated",
        "warn",
        f"{len(places)} numbers rest at an end of their range",
        "right for a gripper; for a joint it is a limit: raise it, or command less",
        tuple(text for _, text in sorted(places, reverse=True)[:SHOWN]),
    )


def outliers(data: Dataset) -> Check:
    places = [found for s in told(data) for found in far_out(s, data)]
    if not places and not any((finite_ones(s) >= STEADY).any() for s in told(data)):
        return unseen("outliers", f"no number was said {STEADY} times")
    if not places:
        return Check("outliers", "ok", f"no number lies {FAR:g} robust standard deviations out")
    places.sort(key=lambda p: -p[0])
    return Check(
        "outliers",
        "bad" if places[0][0] > ABSURD else "warn",
        f"values up to {places[0][0]:.3g} robust standard deviations from the median",
        "look at those moments; a glitch of a sensor should be cut out of the recording",
        tuple(text for _, text in places[:SHOWN]),
    )


def units(data: Dataset) -> Check:
    suspects, judged = [], 0
    for s in told(data):
        often = finite_ones(s) >= STEADY
        low, high = column_quantile(s.values.rows, (0.01, 0.99))
        joints = [i for i, n in enumerate(s.labels) if _is_joint_position(s, n)]
        turned = [s.labels[i] for i in joints if max(-low[i], high[i]) > FULL_TURN]
        if len(turned) >= 2 and len(turned) >= len(joints) / 4:
            mixed = len(turned) < len(joints)
            suspects.append(
                f"{s.topic}: {len(turned)} of {len(joints)} joints beyond a full turn ({some(turned)}): "
                + ("degrees and radians mixed, or wheels" if mixed else "degrees")
            )
        places = [i for i, n in enumerate(s.labels) if _is_place(n)]
        far = [s.labels[i] for i in places if max(-low[i], high[i]) > METRES]
        judged += int(often[joints + places].sum())
        if far:
            suspects.append(f"{s.topic}: {some(far)} beyond {METRES:g}: millimetres")
    if not suspects and not judged:
        return unseen(
            "units",
            f"no number that was said {STEADY} times is known to be a joint's angle or a position",
        )
    if not suspects:
        return Check("units", "ok", f"ranges fit radians and metres ({judged} numbers)")
    return Check(
        "units",
        "warn",
        "ranges do not look like radians and metres (REP 103)",
        "convert where the data is written; a policy that was trained in degrees speaks degrees to the robot",
        tuple(suspects[:SHOWN]),
    )


def finite_ones(s: SignalSummary) -> np.ndarray:
    """(d,): how often each number was said."""
    return np.asarray(s.messages - s.absent - s.missing)


def constants(s: SignalSummary) -> list[str]:
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(s.extremes.values), np.fmax.reduce(s.extremes.values)
        return [n for n, same in zip(s.labels, low == high) if same and s.messages > 1]


def varied(s: SignalSummary, i: int) -> bool:
    """Whether a number is no switch and no goal, which only ever take a few values."""
    values = s.values.rows[:, i]
    values = values[np.isfinite(values)]
    return len(values) >= STEADY and len(np.unique(values)) >= FEW_VALUES


def saturation(s: SignalSummary, i: int) -> tuple[float, str]:
    """Largest share of the samples at exactly the minimum or the maximum, and which; 0 of what only
    ever takes a few values, as switches and goals do."""
    values = s.values.rows[:, i]
    values = values[np.isfinite(values)]
    low, high = (f.reduce(s.extremes.values[:, i]) for f in (np.fmin, np.fmax))
    if not varied(s, i):
        return 0.0, ""
    return max(
        (float((values == low).mean()), "minimum"), (float((values == high).mean()), "maximum")
    )


def far_out(s: SignalSummary, data: Dataset) -> Iterable[tuple[float, str]]:
    """(robust z, sentence) of values far out, the farthest of each number."""
    middle = column_quantile(s.values.rows, 0.5)
    deviation = 1.4826 * column_quantile(np.abs(s.values.rows - middle), 0.5)
    low, high = column_quantile(s.values.rows, (0.05, 0.95))
    scale = np.fmax(deviation, (high - low) / SPREAD_OF_90)
    scale = np.fmax(scale, [_moving(x, z) for x, z in zip((s.values.rows - middle).T, scale)])
    for i, label in enumerate(s.labels):
        values = s.extremes.values[:, i]
        if not scale[i] > 0 or not np.isfinite(values).any():
            continue
        z = np.abs(values - middle[i]) / scale[i]
        k = int(np.nanargmax(z))
        if z[k] > FAR:
            name = data.recordings[s.extremes.recordings[k, i]].name
            at = s.extremes.times[k, i]
            yield (
                float(z[k]),
                f"{s.topic} {label}: {values[k]:.4g} at {at:.3f} s in {name}, {z[k]:.3g} deviations out",
            )


def _moving(deviations: np.ndarray, scale: float) -> float:
    """Spread of what a signal does when it does not rest; 0 where it hardly ever moves, or where it
    has a spread at rest too. A glitch is a moment, or the same number again and again: no motion."""
    size = np.abs(deviations[np.isfinite(deviations)])
    moved = size[size > NO_SPREAD * scale]
    steps = np.unique(np.round(moved / moved.max(), 2)) if len(moved) else moved
    return float(1.4826 * np.median(moved)) if len(steps) >= STEADY else 0.0


def _is_place(label: str) -> bool:
    """Whether a number of a message is a coordinate."""
    where, _, axis = label.rpartition(".")
    return axis in ("x", "y", "z") and where.endswith(("position", "point", "translation"))


def _is_joint_position(s: SignalSummary, label: str) -> bool:
    """Where the type says so, or in a table without units, where most numbers are joints."""
    if s.type:
        return s.type == "sensor_msgs/JointState" and label.startswith("position.")
    return not s.units and s.role == "state" and len(s.labels) > 1
