"""A commanded pose as lines of a drafted contract."""

from __future__ import annotations

import numpy as np

from qgf_ros.files.strict_yaml import FILL_IN
from qgf_ros.spaces.actions.pose import FIELDS, LABELS, LARGEST_TURN, Pose
from qgf_ros.spaces.rotation import conjugate, product, rotation_vector, unit
from training.doctor.check_timing import combined
from training.doctor.dataset import Dataset
from training.doctor.sample import column_quantile
from training.doctor.summary import SignalSummary
from training.draft.meaning import kind_of
from training.draft.ranges import MARGIN, QUANTILES
from training.draft.text import MARK, comment, digits, flow_list, scalar

FROM = 2  # of the three places must move with those of the pose that measures it


def pose(s: SignalSummary, name: str, data: Dataset, pace: float, still: list[str]) -> list[str]:
    """Fields, frame, home, what measures it and limits of a signal of PoseStamped. What nobody but a person
    can say is put into `still`."""
    lines = [
        f"    fields: {flow_list(FIELDS)}",
        "    space: pose",
        f"    representation: absolute   {MARK} or what is learnt of it: delta_observed, delta_last, with axes",
        frame(s, still),
    ]
    rows = _whole(s)
    if not len(rows):
        still.append(f"{s.topic}: home: its orientations are none")
        return [*lines, f"    home: {FILL_IN}   # [x, y, z, w], about the middle of its orientations; recorded: none"]
    home = middle(rows[:, 3:])
    shown = ", ".join(digits(x) for x in home)
    lines.append(f"    home: [{shown}]   {MARK} x, y, z, w: the middle of the recorded ones; turns are counted from it")
    lines.append(_measured(s, name, data, still))
    return lines + _limits(s, rows, home, pace, still)


def named(topic: str) -> str:
    """Stands for the name of an observation, until all of them have one."""
    return f"<{topic}>"


def frame(s: SignalSummary, still: list[str]) -> str:
    """The line of its frame: the recorded one, where there is one."""
    told = [f for f in s.frames if f.strip("/")]
    if len(s.frames) == len(told) == 1:
        return f"    frame: {scalar(told[0])}   {MARK} the recorded frame_id"
    seen = ", ".join(f"{f or 'an empty one'} in {n} messages" for f, n in s.frames.items())
    still.append(f"{s.topic}: the frame that the receiver expects; recorded: {seen or 'none'}")
    return (
        f"    frame: {FILL_IN}   # the frame_id that the receiver expects (base_link, tool0); recorded: "
        f"{comment(seen) or 'none'}"
    )


def middle(quaternions: np.ndarray) -> np.ndarray:
    """(N, 4) of length 1 -> (4,): the mean rotation, whatever the signs (Markley et al. 2007)."""
    q = np.linalg.eigh(quaternions.T @ quaternions)[1][:, -1]
    return q if q[3] >= 0 else -q


def _whole(s: SignalSummary) -> np.ndarray:
    """(N, 7) position and quaternion of length 1, of those messages that have both."""
    names = [*FIELDS[:3], *(f"pose.orientation.{c}" for c in "xyzw")]
    rows = s.values.rows[:, [s.labels.index(n) for n in names]]
    rows = np.concatenate([rows[:, :3], unit(rows[:, 3:])], axis=1)
    return rows[np.isfinite(rows).all(axis=1)]


def _measured(s: SignalSummary, name: str, data: Dataset, still: list[str]) -> str:
    moves: dict[str, int] = {}
    for pair, found in data.leads.items():
        if pair.command == s.topic and kind_of(pair, combined(found)) == "absolute":
            moves[pair.state] = moves.get(pair.state, 0) + 1
    poses = {o.topic for o in data.of("state") if o.type in Pose.types}
    alike = [topic for topic, count in moves.items() if count >= FROM and topic in poses]
    if len(alike) == 1:
        return f"    measured: {{pose: {named(alike[0])}}}   {MARK} it moves as it is commanded"
    there = ", ".join(sorted(poses)) or "none; record one"
    still.append(f"action {name}: measured: the pose that says where it is; recorded poses: {there}")
    why = f"the observation that says where it is; recorded poses: {comment(there)}"
    return f"    measured: {{pose: {FILL_IN}}}   # {why}"


def _limits(
    s: SignalSummary, rows: np.ndarray, home: np.ndarray, pace: float, still: list[str]
) -> list[str]:
    turns = rotation_vector(product(conjugate(home), rows[:, 3:]))
    values = np.concatenate([rows[:, :3], turns], axis=1)
    low, high = np.quantile(values, QUANTILES, axis=0)
    pad = np.maximum(MARGIN * (high - low), 0.01)
    low, high = low - pad, high + pad
    fastest = column_quantile(s.speeds.rows, QUANTILES[1]) / pace
    speed = [fastest[s.labels.index(n)] for n in FIELDS[:3]]
    # |dq/dt| is half the angular speed.
    turn = 2 * float(np.hypot.reduce([fastest[s.labels.index(f"pose.orientation.{c}")] for c in "xyzw"]))
    lines = [
        f"    limits:   {MARK} 0.1 % to 99.9 % of the recorded poses, and a tenth of that range more; rate: 99.9 % "
        "of the changes per second, and a tenth more"
    ]
    widest = np.hypot.reduce(np.maximum(np.abs(low[3:]), np.abs(high[3:])))
    for k, label in enumerate(LABELS):
        if k >= 3 and widest > LARGEST_TURN:
            lines.append(f"      {label}: {FILL_IN}   # {{min, max, rate}}; no one home reaches all that are recorded")
            why = f"the recorded turns go further than {LARGEST_TURN:.3g} rad from home"
            still.append(f"{s.topic}: limits of {label}: {why}")
            continue
        told = speed[k] if k < 3 else turn
        rate = (1 + MARGIN) * told if np.isfinite(told) and told > 0 else high[k] - low[k]
        lines.append(f"      {label}: {{min: {digits(low[k])}, max: {digits(high[k])}, rate: {digits(rate)}}}")
    return lines
