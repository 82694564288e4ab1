"""Rates, gaps, stamps, clocks; how commands lead states, and where states rest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qgf_ros.console import some
from qgf_ros.spaces.messages import TYPES
from training.doctor.bag_survey import SEVERAL_POINTS
from training.doctor.check import SHOWN, Check, of_all, steady, told, unseen, worst_of
from training.doctor.dataset import Dataset, rate
from training.doctor.leads import CLEARLY, Lead
from training.doctor.sample import column_quantile
from training.doctor.summary import GAP_PERIODS, STEADY

JITTER = 1.5  # 99 % quantile of the interval over its median
LATE, FUTURE = 0.5, 0.05  # s from stamp to receipt: more than this is another clock, or minus that
DRIFT = 0.05  # s in the course of a recording: two clocks that run at different speeds
PLAUSIBLE = 0.5  # s of lead, within which a state is believed to follow mirrored
# s of all recordings together in which a motion must be seen to be called another's, or its mirror image,
# and half of it where they are as good as equal: two that have nothing to do with each other look alike for
# a few seconds more often than not.
SEEN = 8.0
EQUAL = 0.95  # likeness
TRUSTED = 0.5  # correlation, below which a lead means little
ALIKE = 0.5  # likeness (`Lead.same`), from which a motion is another's: as far as a quarter, or four times
OFFSET = 0.1  # of the state's range


def rates(data: Dataset) -> Check:
    if data.timeless:
        return Check(
            "rates",
            "warn",
            "nothing says how many rows there are per second: rates and leads are unknown",
            "write it into the dataset (`fps` of an npz file); until then a row is one period of the contract",
        )
    said = [r.rate for r in data.readable if r.rate]
    uneven, places = [], []
    for s in steady(data):
        middle, late = max(s.paces().T, key=lambda pace: np.nan_to_num(pace[1] / pace[0]))
        if late > JITTER * middle:
            uneven.append(s.topic)
            places.append(
                f"{s.topic}: {rate(s):.4g} Hz, but 1 % of its intervals are above {late * 1e3:.3g} ms"
            )
    other = [r for r in data.readable if r.stated]
    if other:
        return Check(
            "rates",
            "bad",
            f"the dataset says {some(f'{r:g}' for r in sorted({r.stated for r in other}))} fps, and "
            f"timestamps go at {some(f'{r:g}' for r in sorted({_digits(r.rate) for r in other}))} Hz "
            f"in {len(other)} of {len(data.readable)} recordings",
            "the timestamps are believed, by a draft's period and by training; write their rate into the "
            "dataset (fps in meta/info.json), or, where fps is right, correct the timestamps",
            tuple(f"{r.name}: {r.rate:.4g} Hz by its timestamps" for r in other[:SHOWN]),
        )
    if data.noticed:
        return Check(
            "rates",
            "bad",
            f"timestamps of {max(data.noticed.values())} rows disagree with {data.rate:g} Hz",
            "write the true rate into the dataset (fps in meta/info.json), or record again what was dropped",
            tuple(f"{n} x {why}" for why, n in data.noticed.items()),
        )
    if len(set(said)) > 1:
        return Check(
            "rates",
            "bad",
            f"recordings are stated at {some(f'{r:g} Hz' for r in sorted(set(said)))}",
            "one contract has one period: keep rates in folders of their own",
        )
    if not steady(data) or not data.rate:
        return unseen("rates", f"no signal has {STEADY} messages per recording")
    if uneven:
        return Check(
            "rates",
            "warn",
            f"{len(uneven)} of {len(steady(data))} signals have uneven intervals",
            "alignment takes the newest message within max_age; look at the recorder's load, and "
            "give max_age room for the longest interval",
            tuple(places[:SHOWN]),
        )
    seen = of_all(len(steady(data)), len(told(data)), "signals")
    return Check("rates", "ok", f"{data.rate:.4g} Hz; intervals are even in {seen}")


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def gaps(data: Dataset) -> Check:
    found = sum(s.gaps for s in data.signals.values())
    if not found and (data.timeless or not steady(data)):
        return unseen("gaps", f"no signal with a clock has {STEADY} messages per recording")
    if not found:
        seen = of_all(len(steady(data)), len(told(data)), "signals")
        return Check(
            "gaps", "ok", f"none of {seen} fell silent for more than {GAP_PERIODS} of its intervals"
        )
    largest = sorted(
        ((g, s.topic) for s in data.signals.values() for g in s.largest),
        key=lambda p: -p[0].seconds,
    )
    return Check(
        "gaps",
        "warn",
        f"{found} gaps of more than {GAP_PERIODS} intervals, the longest {largest[0][0].seconds:.3g} s",
        "episodes are cut there, never interpolated; look at the network and the recorder's cache",
        tuple(
            f"{topic}: {g.seconds:.3g} s at {g.at:.4g} s in {data.recordings[g.recording].name}"
            for g, topic in largest[:SHOWN]
        ),
    )


def stamps(data: Dataset) -> Check:
    back, same = ({s.topic: getattr(s, k) for s in steady(data)} for k in ("backward", "repeated"))
    disorder, twice = sum(back.values()), sum(same.values())
    if data.timeless or not steady(data):
        return unseen("stamps", f"no signal with a clock has {STEADY} messages per recording")
    if not disorder and not twice:
        seen = of_all(len(steady(data)), len(told(data)), "signals")
        return Check("stamps", "ok", f"stamps increase in {seen}")
    places = [f"{t}: {n} stamps go back" for t, n in worst_of(back)]
    places += [f"{t}: {n} stamps are repeated" for t, n in worst_of(same)]
    return Check(
        "stamps",
        "warn",
        f"{disorder} stamps go back, {twice} are repeated",
        "a late message never replaces a newer one; if the sender repeats stamps, give "
        "`stamp: receipt` for that source",
        tuple(places[:SHOWN]),
    )


def clocks(data: Dataset) -> Check | None:
    """Header stamps against receipt: age on arrival, and whether the two clocks are one."""
    stamped = [s for s in data.signals.values() if s.type and s.messages and s.unset < s.recordings]
    if not any(s.type for s in data.signals.values()):
        return None  # a table has one clock
    unset = [
        s.topic
        for s in steady(data)
        if s.unset == s.recordings and s.type in TYPES and TYPES[s.type].stamped
    ]
    odd = []
    for s in stamped:
        low, middle, high = s.latency.quantile((0.01, 0.5, 0.99))[:, 0]
        if low < -FUTURE or middle > LATE:
            odd.append(
                f"{s.topic}: {middle:.3g} s from stamp to receipt (1 %: {low:.3g}, 99 %: {high:.3g})"
            )
        elif abs(s.drift) > DRIFT:
            odd.append(
                f"{s.topic}: stamp and receipt part by {s.drift:+.3g} s in the course of a recording"
            )
    if odd:
        return Check(
            "clocks",
            "bad",
            f"{len(odd)} signals are stamped by another clock than the recorder's",
            "give `stamp: receipt` for those sources, or synchronise the clocks (chrony); stamps in "
            "simulated time need its /clock in the bag",
            tuple(odd[:SHOWN]),
        )
    simulated = sum(r.simulated for r in data.readable)
    if simulated:
        return Check(
            "clocks",
            "warn",
            f"{simulated} of {len(data.readable)} recordings have stamps in simulated time and were "
            "received in wall time: receipts are led to simulated time by /clock",
            "nothing to do; `ros2 bag record --use-sim-time` does the same when recording",
        )
    if unset:
        return Check(
            "clocks",
            "warn",
            f"the stamps of {some(unset)} are unset: receipt counts instead",
            "let the driver stamp its messages: a delay of the transport cannot be seen otherwise",
        )
    often = [s for s in stamped if s.messages >= STEADY]
    if not often:
        return unseen("clocks", f"no topic has {STEADY} messages that carry a stamp of their own")
    worst = max(float(s.latency.quantile(0.99)[0]) for s in often)
    return Check(
        "clocks",
        "ok",
        f"99 % of messages are received within {worst * 1e3:.3g} ms of their stamp "
        f"({of_all(len(often), len([s for s in data.signals.values() if s.messages]), 'topics')})",
    )


def frames(data: Dataset) -> Check | None:
    """One topic in the axes of two frames: the same numbers are two motions."""
    found = {
        s.topic: s.frames
        for s in told(data)
        if len([f for f in s.frames if f.strip("/")]) > 1
        or (s.role == "command" and len(s.frames) > 1)
    }
    if not found:
        return None
    places = [
        f"{topic}: " + ", ".join(f"{f or 'an empty frame_id'} in {n}" for f, n in said.items())
        for topic, said in found.items()
    ]
    return Check(
        "frames",
        "warn",
        f"{len(found)} topics speak in several frames: {places[0]} messages",
        "a contract takes one frame, and rejects the messages of others: keep what was recorded in another "
        "frame in a folder of its own, or mend the sender",
        tuple(places[:SHOWN]),
    )


def lead(data: Dataset) -> Check | None:
    if not data.of("command"):
        plans = [t for t, reasons in data.unread.items() if SEVERAL_POINTS in reasons]
        if plans:
            return Check(
                "lead",
                "warn",
                f"{', '.join(plans[:3])}: {SEVERAL_POINTS}",
                "record the controller's reference (its ~/controller_state), or resample",
            )
        return Check(
            "lead",
            "warn",
            "no signal looks like a command",
            "nothing can be cloned from states alone: record the commands, or name their topic in a contract",
        )
    measured = {p.name: combined(found) for p, found in data.leads.items()}
    clear = {n: x for n, x in measured.items() if abs(x.correlation) >= TRUSTED}
    mirrored = [n for n, x in clear.items() if opposite(x)]
    if mirrored:
        return Check(
            "lead",
            "bad",
            f"{some(mirrored)} {'is' if len(mirrored) == 1 else 'are'} measured with the opposite sign: "
            "holding the measured pose would command its negative",
            "turn the sign where the data is written, of the state or of the command, so that both are one "
            "quantity; the robot's driver must do the same",
            tuple(f"{n}: likeness {clear[n].same:.2f}" for n in mirrored[:SHOWN]),
        )
    echoed = {n: x.echo for n, x in measured.items() if np.isfinite(x.echo)}
    if len(echoed) > len(measured) / 2:
        late = sum(echoed.values()) > 0
        return Check(
            "lead",
            "warn",
            f"{some(echoed)}: action[t] == state[t{'+1' if late else ''}] to the bit: an echo of what was "
            "measured, not what was commanded",
            "the lead is that of the file, not of the robot; a policy learns to ask for what is reached "
            "anyway and sags under load: record what was sent, if there was such a thing",
            tuple(f"{n}: {int(rows)} rows" for n, rows in list(echoed.items())[:SHOWN]),
        )
    brief = [n for n, x in clear.items() if not told_enough(x)]
    if clear and len(brief) == len(clear):
        longest = max(clear[n].compared for n in brief)
        return unseen(
            "lead",
            f"{some(brief)}: {longest:.3g} s are too little to tell a lead, or a sign, from chance; "
            f"{SEEN:g} s of all recordings together are enough",
            "record more",
        )
    clear = {n: x for n, x in clear.items() if n not in brief}
    if not clear:
        return Check(
            "lead",
            "warn",
            "no commanded number could be matched with a state that follows it",
            "give commands the names of the joints they move (JointState, or names in info.json)",
        )
    seconds = [x.seconds for x in clear.values()]
    behind = [f"{n}: {x.seconds * 1e3:.0f} ms" for n, x in clear.items() if x.seconds < 0]
    middle = float(np.median(seconds))
    span = f"median of {len(clear)}; {min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f}"
    text = f"commands lead their states by {middle * 1e3:.0f} ms ({span})"
    if len(behind) > len(clear) / 4:
        return Check(
            "lead",
            "bad",
            f"states come before their commands: {some(behind)}",
            "the recorded action is not what was sent, or is written one row late",
            tuple(behind[:SHOWN]),
        )
    if middle > 1:
        return Check("lead", "warn", text, "that is long: check both clocks")
    return Check("lead", "ok", text + "; pairing keeps it, so it must not be added again")


def opposite(x: Lead) -> bool:
    """Whether the state moves the other way as the command does, at a lead that a robot can have:
    somewhere in a few seconds of chance a mirror image is found as well. Less than SEEN says nothing."""
    return (
        told_enough(x)
        and abs(x.seconds) < PLAUSIBLE
        and x.same <= -ALIKE
        and not np.nanmax(np.abs([x.rate, x.step, 0.0])) > -x.same + CLEARLY
    )


def told_enough(x: Lead) -> bool:
    """Whether so much was seen of a command and what it moves that likeness is no chance."""
    likeness = np.nanmax(np.abs([x.same, x.rate, x.step, 0.0]))
    return x.compared >= SEEN or (x.compared >= SEEN / 2 and likeness >= EQUAL)


def offset(data: Dataset) -> Check:
    """A joint that rests elsewhere than it was told: calibration (lerobot #3762), load, or gravity."""
    found = []
    ranges = {
        (s.topic, n): float(
            np.subtract(*column_quantile(s.values.rows[:, [i]], (0.99, 0.01))[:, 0])
        )
        for s in data.of("state")
        for i, n in enumerate(s.labels)
    }
    said = {p: combined(x).offset for p, x in data.leads.items()}
    said = {
        p: x
        for p, x in said.items()
        if np.isfinite(x) and ranges.get((p.state, p.state_label), 0.0) > 0
    }
    if not said:
        return unseen("offset", "no commanded number rests long enough beside one that measures it")
    for pair, value in said.items():
        width = ranges[pair.state, pair.state_label]
        if abs(value) > OFFSET * width:
            found.append(
                (
                    abs(value) / width,
                    f"{pair.name}: rests {value:+.3g} from its command, {abs(value) / width:.0%} of its range",
                )
            )
    if not found:
        largest = max(said.items(), key=lambda x: abs(x[1]))
        return Check(
            "offset",
            "ok",
            f"at rest, states are where they were sent ({of_all(len(said), len(data.leads), 'numbers')} rest); "
            f"largest: {largest[0].name} {largest[1]:+.3g}",
        )
    found.sort(reverse=True)
    return Check(
        "offset",
        "warn",
        f"{len(found)} joints rest away from where they were sent",
        "compare zero positions of leader and follower; a gripper on an object, or gravity, is no fault",
        tuple(text for _, text in found[:SHOWN]),
    )


def combined(found: Iterable[Lead]) -> Lead:
    """Medians over recordings; of the lead over those in which it is clear."""
    found = list(found)
    clear = [x for x in found if abs(x.correlation) >= TRUSTED]

    def middle(key: str, of: list[Lead]) -> float:
        values = [getattr(x, key) for x in of if np.isfinite(getattr(x, key))]
        return float(np.median(values)) if values else float("nan")

    return Lead(
        middle("seconds", clear),
        middle("correlation", clear or found),
        middle("offset", found),
        middle("same", found),
        middle("rate", found),
        middle("echo", found),
        sum(x.compared for x in found),
        middle("step", found),
    )
