"""Verdicts on what is in a dataset, each with its fix. Every check is a function of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.data.doctor.dataset import Dataset, rate
from training.data.doctor.leads import Lead
from training.data.doctor.sample import column_quantile
from training.data.doctor.summary import GAP_PERIODS, STEADY, SignalSummary

Verdict = Literal["ok", "warn", "bad"]

SHOWN = 5  # of a list, in a sentence
JITTER = 1.5  # 99 % quantile of the interval over its median
OFF_RATE = 0.02  # share, of the stated rate
LATE, FUTURE = 0.5, 0.05  # s from stamp to receipt: more than this is another clock, or minus that
SATURATED = 0.1  # share of the samples at one end of the range
FAR, ABSURD = 15.0, 1000.0  # robust standard deviations
SPREAD_OF_99 = 4.65  # a Gaussian's 1 % and 99 % quantiles are so many standard deviations apart
FULL_TURN = 2 * np.pi
METRES = 20.0  # positions beyond are another unit
TRUSTED = 0.5  # correlation, below which a lead means little
OFFSET = 0.1  # of the state's range
SHORT = 0.25  # of the median length
KEPT = 0.95  # share of ticks that a contract should keep
FEW_EPISODES = 20


@dataclass(frozen=True)
class Check:
    """One question to the data. `where` are the places worth a look, most serious first."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""
    where: tuple[str, ...] = ()


def checks(data: Dataset) -> list[Check]:
    """Every check that applies, in a fixed order."""
    asked: tuple[Callable[[Dataset], Check | None], ...] = (
        readable, layout, outcomes, rates, gaps, stamps, clocks, finite, constant, saturated,
        outliers, units, lead, offset, duplicates, short, kept, fresh, limits, rewards,
    )  # fmt: skip
    return [found for ask in asked if (found := ask(data)) is not None]


def readable(data: Dataset) -> Check:
    lost = sum(data.rejected.values())
    if not lost and not data.refused:
        return Check("readable", "ok", f"all of {len(data.recordings)} recordings were read whole")
    places = [f"{r.name}: {r.refused}" for r in data.refused]
    places += [f"{count} x {why}" for why, count in data.rejected.most_common()]
    return Check(
        "readable",
        "bad",
        f"{len(data.refused)} of {len(data.recordings)} recordings are refused, {lost} messages rejected",
        "copy the files again from where they were recorded, or remove those that are named",
        tuple(places[:SHOWN]),
    )


def layout(data: Dataset) -> Check:
    """One robot, one set of topics: what differs cannot be learnt from together (fault 109)."""
    count = len(data.readable)
    partly = [s for s in data.signals.values() if s.recordings < count]
    other = [f"{t}: other numbers in {_some(names)}" for t, names in data.layouts.items()]
    missing = [
        f"{s.topic}: in {s.recordings} of {count} recordings"
        for s in partly
        if s.topic not in data.layouts
    ]
    if not other and not missing:
        return Check(
            "layout", "ok", f"{count} recordings have the same {len(data.signals)} signals"
        )
    return Check(
        "layout",
        "bad" if other else "warn",
        "recordings differ in what they hold",
        "keep recordings of different robots or set-ups in folders of their own",
        tuple((other + missing)[:SHOWN]),
    )


def outcomes(data: Dataset) -> Check:
    said = data.outcomes
    text = ", ".join(f"{k} {v}" for k, v in said.items())
    if said["failure"] and said["success"]:
        return Check("outcomes", "ok", text)
    if not said["success"] and not said["failure"]:
        return Check(
            "outcomes",
            "warn",
            f"no failures are recorded: nothing says how any of {data.episodes} episodes ended",
            "if all of them reached the task, write `outcome: {objective: time_to_success, "
            "assume_success: true}`; the critic then knows that sooner is better and nothing else. "
            "Otherwise label them, and record failures too",
        )
    only = "failures" if said["failure"] else "successes"
    absent = "successes" if said["failure"] else "failures"
    return Check(
        "outcomes",
        "warn",
        f"no {absent} are recorded: {text}",
        f"a critic learns to tell good from bad: record {absent} too; with {only} alone it only "
        "knows how long they took",
    )


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
        middle, late = s.intervals.quantile((0.5, 0.99))[:, 0]
        if late > JITTER * middle:
            uneven.append(s.topic)
            places.append(
                f"{s.topic}: {rate(s):.4g} Hz, but 1 % of its intervals are above {late * 1e3:.3g} ms"
            )
    off = {why: n for why, n in data.rejected.items() if why.startswith("timestamp ")}
    if off:
        return Check(
            "rates",
            "bad",
            f"timestamps of {max(off.values())} rows disagree with {data.rate:g} Hz",
            "write the true rate into the dataset (fps in meta/info.json), or record again what was dropped",
            tuple(f"{n} x {why}" for why, n in off.items()),
        )
    if len(set(said)) > 1:
        return Check(
            "rates",
            "bad",
            f"recordings are stated at {_some(f'{r:g} Hz' for r in sorted(set(said)))}",
            "one contract has one period: keep rates in folders of their own",
        )
    if uneven:
        return Check(
            "rates",
            "warn",
            f"{len(uneven)} of {len(steady(data))} signals have uneven intervals",
            "alignment takes the newest message within max_age; look at the recorder's load, and "
            "give max_age room for the longest interval",
            tuple(places[:SHOWN]),
        )
    return Check("rates", "ok", f"{data.rate:.4g} Hz; intervals are even")


def gaps(data: Dataset) -> Check:
    found = sum(s.gaps for s in data.signals.values())
    if not found:
        return Check(
            "gaps", "ok", f"nobody fell silent for more than {GAP_PERIODS} of its intervals"
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
    if not disorder and not twice:
        return Check("stamps", "ok", "stamps of every signal increase")
    places = [f"{t}: {n} stamps go back" for t, n in _worst(back)]
    places += [f"{t}: {n} stamps are repeated" for t, n in _worst(same)]
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
        if s.unset == s.recordings and s.type.endswith(("Stamped", "JointState", "Odometry", "Imu"))
    ]
    odd = []
    for s in stamped:
        low, middle, high = s.latency.quantile((0.01, 0.5, 0.99))[:, 0]
        if low < -FUTURE or middle > LATE:
            odd.append(
                f"{s.topic}: {middle:.3g} s from stamp to receipt (1 %: {low:.3g}, 99 %: {high:.3g})"
            )
    if odd:
        return Check(
            "clocks",
            "bad",
            f"{len(odd)} signals are stamped by another clock than the recorder's",
            "synchronise the clocks (chrony), or give `stamp: receipt` for those sources",
            tuple(odd[:SHOWN]),
        )
    if unset:
        return Check(
            "clocks",
            "warn",
            f"the stamps of {_some(unset)} are unset: receipt counts instead",
            "let the driver stamp its messages: a delay of the transport cannot be seen otherwise",
        )
    worst = max((float(s.latency.quantile(0.99)[0]) for s in stamped), default=0.0)
    return Check(
        "clocks", "ok", f"99 % of messages are received within {worst * 1e3:.3g} ms of their stamp"
    )


def finite(data: Dataset) -> Check:
    lost = Counter(
        {f"{s.topic} {n}": int(c) for s in told(data) for n, c in zip(s.labels, s.missing) if c}
    )
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
    if not still:
        return Check("constant", "ok", "every number varies")
    return Check(
        "constant",
        "warn",
        f"{len(still)} numbers never change: {_some(still)}",
        "leave them out of the contract; as an input they say nothing, as a command they are sent as they are",
        tuple(still),
    )


def saturated(data: Dataset) -> Check:
    """Time spent at exactly one end of the range."""
    places = []
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
        "right for grippers, switches and goals; for a joint it is a limit: raise it, or command less",
        tuple(text for _, text in sorted(places, reverse=True)[:SHOWN]),
    )


def outliers(data: Dataset) -> Check:
    places = [found for s in told(data) for found in far_out(s, data)]
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
    suspects = []
    for s in told(data):
        low, high = column_quantile(s.values.rows, (0.01, 0.99))
        joints = [i for i, n in enumerate(s.labels) if _is_joint_position(s, n)]
        turned = [s.labels[i] for i in joints if max(-low[i], high[i]) > FULL_TURN]
        if len(turned) >= 2 and len(turned) >= len(joints) / 4:
            mixed = len(turned) < len(joints)
            suspects.append(
                f"{s.topic}: {len(turned)} of {len(joints)} joints beyond a full turn ({_some(turned)}): "
                + ("degrees and radians mixed, or wheels" if mixed else "degrees")
            )
        far = [
            n
            for i, n in enumerate(s.labels)
            if n.rpartition(".")[0].endswith(("position", "point", "translation"))
            and n[-2:] in (".x", ".y", ".z")
            and max(-low[i], high[i]) > METRES
        ]
        if far:
            suspects.append(f"{s.topic}: {_some(far)} beyond {METRES:g}: millimetres")
    if not suspects:
        return Check("units", "ok", "ranges fit radians and metres")
    return Check(
        "units",
        "warn",
        "ranges do not look like radians and metres (REP 103)",
        "convert where the data is written; a policy that was trained in degrees speaks degrees to the robot",
        tuple(suspects[:SHOWN]),
    )


def lead(data: Dataset) -> Check | None:
    if not data.of("command"):
        return Check(
            "lead",
            "warn",
            "no signal looks like a command",
            "nothing can be cloned from states alone: record the commands, or name their topic in a contract",
        )
    measured = {p.name: combined(found) for p, found in data.leads.items()}
    clear = {n: x for n, x in measured.items() if x.correlation >= TRUSTED}
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
    text = f"commands lead their states by {middle * 1e3:.0f} ms (median of {len(clear)}; {min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f})"
    if len(behind) > len(clear) / 4:
        return Check(
            "lead",
            "bad",
            f"states come before their commands: {_some(behind)}",
            "the recorded action is not what was sent, or is written one row late",
            tuple(behind[:SHOWN]),
        )
    if middle > 1:
        return Check("lead", "warn", text, "that is long: check both clocks")
    return Check("lead", "ok", text + "; pairing keeps it, so it must not be added again")


def offset(data: Dataset) -> Check | None:
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
    said = {p: x for p, x in said.items() if np.isfinite(x)}
    if not said:
        return None
    for pair, value in said.items():
        width = ranges.get((pair.state, pair.state_label), 0.0)
        if abs(value) > OFFSET * width > 0:
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
            f"at rest, states are where they were sent; largest: {largest[0].name} {largest[1]:+.3g}",
        )
    found.sort(reverse=True)
    return Check(
        "offset",
        "warn",
        f"{len(found)} joints rest away from where they were sent",
        "compare zero positions of leader and follower; a gripper on an object, or gravity, is no fault",
        tuple(text for _, text in found[:SHOWN]),
    )


def duplicates(data: Dataset) -> Check:
    names: dict[str, list[str]] = {}
    for r in data.readable:
        if r.rows:
            names.setdefault(r.content, []).append(r.name)
    if data.aligned is not None:
        for e in data.aligned.episodes:
            names.setdefault(e.content, []).append(e.name)
    twice = [group for group in names.values() if len(group) > 1]
    if not twice:
        return Check("duplicates", "ok", "no two recordings are the same")
    return Check(
        "duplicates",
        "warn",
        f"{sum(len(g) - 1 for g in twice)} copies of other recordings",
        "training keeps one of each, so that none leaks into validation; remove the copies",
        tuple(" = ".join(g[:3]) for g in twice[:SHOWN]),
    )


def short(data: Dataset) -> Check | None:
    lengths = [(r.rows, r.name) for r in data.readable if r.whole]
    unit = "rows"
    if data.aligned is not None and data.aligned.episodes:
        lengths, unit = [(e.ticks, e.name) for e in data.aligned.episodes], "ticks"
    if not lengths:
        return None
    middle = float(np.median([n for n, _ in lengths]))
    few = sorted((n, name) for n, name in lengths if n < SHORT * middle)
    text = f"{len(lengths)} episodes of {min(lengths)[0]} to {max(lengths)[0]} {unit}, median {middle:g}"
    if few:
        return Check(
            "lengths",
            "warn",
            f"{len(few)} episodes are shorter than a quarter of the median; {text}",
            "look whether they were started by mistake; a chunk that runs past a cut is left out",
            tuple(f"{name}: {n} {unit}" for n, name in few[:SHOWN]),
        )
    if len(lengths) < FEW_EPISODES:
        return Check(
            "lengths",
            "warn",
            text,
            f"fewer than {FEW_EPISODES} episodes leave little to validate on",
        )
    return Check("lengths", "ok", text)


def kept(data: Dataset) -> Check | None:
    """What alignment makes of it; None without a contract."""
    part = data.aligned
    if part is None:
        return None
    lost = {why: n for why, n in part.report.dropped.items() if n}
    ticks = part.report.ticks
    share = ticks / max(1, ticks + lost.get("tick without fresh data", 0))
    places = [f"{n} x {why}" for why, n in Counter(lost).most_common(SHOWN)]
    places += [f"{name}: {why}" for name, why in part.refused.items()][:SHOWN]
    text = f"{part.report.episodes} episodes, {ticks} ticks kept ({share:.1%})"
    if not ticks or part.refused or share < KEPT:
        return Check(
            "contract",
            "bad",
            f"{text}; {len(part.refused)} recordings do not fit the contract",
            "see which source is missing or older than its max_age; raise max_age only if the robot may too",
            tuple(places),
        )
    return Check(
        "contract",
        "warn" if lost else "ok",
        text,
        "nothing to do if the counts are small" if lost else "",
        tuple(places),
    )


def fresh(data: Dataset) -> Check | None:
    if data.aligned is None or data.contract is None:
        return None
    places, oldest = [], 0.0
    for source in data.contract.observations:
        sample = data.aligned.ages.get(source.name)
        if sample is None or not len(sample.rows):
            continue
        late, limit = float(sample.quantile(0.99)[0]), data.contract.max_age(source)
        oldest = max(oldest, late)
        if late > limit:
            places.append(
                f"{source.name}: 1 % are older than {late * 1e3:.3g} ms, max_age is {limit * 1e3:.3g} ms"
            )
    if places:
        return Check(
            "ages", "warn", f"{len(places)} observations are often older than their max_age",
            "ticks without fresh data are dropped here, and hold the robot there; publish faster, or raise max_age",
            tuple(places),
        )  # fmt: skip
    return Check(
        "ages", "ok", f"99 % of observations are replaced before they are {oldest * 1e3:.3g} ms old"
    )


def limits(data: Dataset) -> Check | None:
    if data.aligned is None or data.contract is None or not data.aligned.report.ticks:
        return None
    ticks = data.aligned.report.ticks
    places = []
    for name, beyond, faster in zip(
        data.contract.action_names, data.aligned.beyond, data.aligned.faster
    ):
        if beyond:
            places.append(
                (beyond, f"{name}: {beyond / ticks:.2%} of commands are beyond its limits")
            )
        if faster:
            places.append((faster, f"{name}: {faster / ticks:.2%} of changes are beyond its rate"))
    if not places:
        return Check("limits", "ok", "every recorded command keeps to the contract's limits")
    places.sort(reverse=True)
    return Check(
        "limits",
        "warn",
        f"{len(places)} commanded numbers go beyond the contract's limits",
        "the gate will clip such commands: widen limits that are too narrow, or check the units",
        tuple(text for _, text in places[:SHOWN]),
    )


def rewards(data: Dataset) -> Check | None:
    if data.aligned is None or not data.aligned.episodes:
        return None
    low, high = data.aligned.rewards
    totals = [e.total for e in data.aligned.episodes]
    text = f"reward of a period {low:.4g} to {high:.4g}, of an episode {min(totals):.4g} to {max(totals):.4g}"
    if low == high:
        return Check(
            "rewards", "bad", f"the reward is always {low:.4g}",
            "a critic learns nothing from it: look at the reward's topic, or take another objective",
        )  # fmt: skip
    return Check("rewards", "ok", text)


def steady(data: Dataset) -> list[SignalSummary]:
    """Signals with a rate."""
    return [s for s in told(data) if s.messages >= STEADY * s.recordings]


def told(data: Dataset) -> list[SignalSummary]:
    """States and commands."""
    return [s for s in data.signals.values() if s.role in ("state", "command") and s.messages]


def constants(s: SignalSummary) -> list[str]:
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(s.extremes.values), np.fmax.reduce(s.extremes.values)
        return [n for n, same in zip(s.labels, low == high) if same and s.messages > 1]


def saturation(s: SignalSummary, i: int) -> tuple[float, str]:
    """Largest share of the samples at exactly the minimum or the maximum, and which; 0 of a constant."""
    values = s.values.rows[:, i]
    values = values[np.isfinite(values)]
    low, high = (f.reduce(s.extremes.values[:, i]) for f in (np.fmin, np.fmax))
    if len(values) < STEADY or not low < high:
        return 0.0, ""
    return max(
        (float((values == low).mean()), "minimum"), (float((values == high).mean()), "maximum")
    )


def far_out(s: SignalSummary, data: Dataset) -> Iterable[tuple[float, str]]:
    """(robust z, sentence) of values far out, the farthest of each number."""
    middle = column_quantile(s.values.rows, 0.5)
    deviation = 1.4826 * column_quantile(np.abs(s.values.rows - middle), 0.5)
    low, high = column_quantile(s.values.rows, (0.01, 0.99))
    scale = np.fmax(deviation, (high - low) / SPREAD_OF_99)
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
                f"{s.topic} {label}: {values[k]:.4g} at {at:.3f} s in {name}, {z[k]:.3g} out",
            )


def combined(found: Iterable[Lead]) -> Lead:
    """Medians over recordings; of the lead over those in which it is clear."""
    found = list(found)
    clear = [x for x in found if x.correlation >= TRUSTED]
    lead_of = [x.seconds for x in clear]
    likeness = [x.correlation for x in (clear or found) if np.isfinite(x.correlation)]
    offsets = [x.offset for x in found if np.isfinite(x.offset)]

    def middle(x: list[float]) -> float:
        return float(np.median(x)) if x else float("nan")

    return Lead(middle(lead_of), middle(likeness), middle(offsets))


def _is_joint_position(s: SignalSummary, label: str) -> bool:
    """Where the type says so, or in a table without units, where most numbers are joints."""
    if s.type:
        return s.type == "sensor_msgs/JointState" and label.startswith("position.")
    return not s.units and s.role == "state" and len(s.labels) > 1


def _worst(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(k, n) for k, n in Counter(counts).most_common() if n]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
