"""Whether recordings can be read and learnt from together, and how they ended."""

from __future__ import annotations

import numpy as np

from qgf_ros.console import some
from training.doctor.bag_survey import SEVERAL_POINTS
from training.doctor.check import SHOWN, Check, unseen
from training.doctor.dataset import Dataset

SHORT = 0.25  # of the median length
FEW_EPISODES = 20


def readable(data: Dataset) -> Check:
    lost = sum(data.rejected.values())
    if not data.recordings:
        return unseen("readable", "there are no recordings")
    if data.unreadable:
        return Check(
            "readable",
            "bad",
            f"{len(data.unreadable)} columns cannot be read: {some(data.unreadable)}",
            "mend what is named in the dataset's own metadata; nothing is trained on a part of it",
            tuple(f"{c}: {why}" for c, why in data.unreadable.items())[:SHOWN],
        )
    if not lost and not data.refused:
        return Check("readable", "ok", f"all of {len(data.recordings)} recordings were read whole")
    undecoded = list(data.undecoded.values())
    places = [f"{r.name}: {r.refused}" for r in data.refused]
    places += [f"{count} x {why}" for why, count in data.rejected.most_common()]
    found = f"{len(data.refused)} of {len(data.recordings)} recordings are refused, {lost} messages rejected"
    fix = "copy the files again from where they were recorded, or remove those that are named"
    if undecoded:
        more = f"; so are those of {len(undecoded) - 1} more topics" * (len(undecoded) > 1)
        found = f"{undecoded[0]}{more}; {found}"
    if any("not defined in the bag" in why for why in undecoded):
        fix = (
            "source the workspace that defines the type, or give a folder of its .msg files (--msgs), "
            "or convert the bag to mcap there (`ros2 bag convert`), which then holds the definition"
        )
    elif data.rejected and not data.refused:
        fix = f"most often: {data.rejected.most_common(1)[0][0]}; " + fix
    return Check("readable", "bad", found, fix, tuple((undecoded + places)[:SHOWN]))


def unread(data: Dataset) -> Check | None:
    """Messages that are whole, and hold nothing that a contract could name."""
    if not data.unread:
        return None
    places, points = [], []
    for topic, reasons in data.unread.items():
        signal = data.signals.get(topic)
        total = sum(reasons.values()) + (signal.messages if signal is not None else 0)
        for why, count in reasons.items():
            places.append(f"{topic}: {why}: {min(count, total)} of {total}")
            points += [topic] if why == SEVERAL_POINTS else []
    places.sort(key=lambda place: SEVERAL_POINTS not in place)
    remedy = "nothing to do if they are few: they are left out and counted"
    if points:
        remedy = (
            "a plan is no command of one period: record the controller's reference "
            "(its ~/controller_state), or resample the plan to one point per message"
        )
    gone = [t for t in data.unread if t not in data.signals]
    text = "; ".join(places[:2]) + (f"; {len(places) - 2} more" if len(places) > 2 else "")
    return Check(
        "unread", "bad" if gone and points else "warn", text, remedy, tuple(places[:SHOWN])
    )


def layout(data: Dataset) -> Check:
    """One robot, one set of topics: what differs cannot be learnt from together (fault 109)."""
    count = len(data.readable)
    partly = [s for s in data.signals.values() if s.recordings < count]
    other = [f"{t}: other numbers in {some(names)}" for t, names in data.layouts.items()]
    missing = [
        f"{s.topic}: in {s.recordings} of {count} recordings"
        for s in partly
        if s.topic not in data.layouts
    ]
    if count < 2:
        return unseen("layout", "there are no two recordings to compare")
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
    if not data.episodes:
        return unseen("outcomes", "there is no episode", "see what the other verdicts say is lost")
    text = ", ".join(f"{k} {v}" for k, v in said.items())
    if data.contract is not None and data.contract.outcome.assume_success:
        text += "; success is assumed by the contract"
    if said["failure"] and said["success"]:
        return Check("outcomes", "ok", text)
    if not said["success"] and not said["failure"]:
        return Check(
            "outcomes",
            "warn",
            f"no failures are recorded: nothing says how any of {data.episodes} episodes ended",
            "if all of them reached the task, write `outcome: {objective: time_to_success, "
            "assume_success: true}`; the critic then knows that sooner is better and nothing else. "
            "Otherwise label them (`qgf data label`), and record failures too",
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


def duplicates(data: Dataset) -> Check:
    recordings = [r for r in data.readable if r.rows]
    episodes = data.aligned.episodes if data.aligned is not None else []
    names: dict[str, list[str]] = {}
    for r in recordings:
        names.setdefault(r.content, []).append(r.name)
    for e in episodes:
        names.setdefault(e.content, []).append(e.name)
    twice = [group for group in names.values() if len(group) > 1]
    if max(len(recordings), len(episodes)) < 2:  # not one of each, which are the same data
        return unseen("duplicates", "there are no two recordings with data to compare")
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
