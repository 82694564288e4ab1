"""What a commanded number means to the robot, as far as the recorded motion says it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from qgf_ros.console import some
from training.doctor.check_timing import ALIKE, SEEN, TRUSTED, combined, opposite, told_enough
from training.doctor.check_values import constants
from training.doctor.dataset import Dataset
from training.doctor.leads import CLEARLY, Lead
from training.doctor.roles import Pair, has_name, joint, quantity
from training.doctor.summary import SignalSummary

SPOKEN = 0.5  # share of the moving numbers whose motion must say what they are


@dataclass(frozen=True)
class Meaning:
    """representation: absolute, velocity, or "" where nobody but a person can say. why: the evidence.
    paired: commanded and measured label of those that move alike by other names. changes: they are changes of
    position, of which nobody can say by how they move what they are relative to."""

    representation: str
    why: str
    paired: tuple[tuple[str, str], ...] = ()
    changes: bool = False


def meaning(
    s: SignalSummary, labels: list[str], pairs: dict[str, Pair], data: Dataset, said: str = ""
) -> Meaning:
    """Of one command, which is `labels` of a signal. said: what its messages say they are (`absolute`,
    `velocity`), if anything.

    A name is no evidence: a command called as a measured number may be its position, its velocity,
    a change of it or its mirror image. What it moves like is.
    """
    moving = [n for n in labels if n not in constants(s)]
    kinds = {n: kind_of(p, combined(data.leads.get(p, ()))) for n, p in pairs.items()}
    measured = {n: p.state_label for n, p in pairs.items()}
    mirrored = [n for n, k in kinds.items() if k == "mirrored"]
    if mirrored:
        return Meaning(
            "",
            f"{some(mirrored)} measured with the opposite sign (holding the measured pose would "
            "command its negative): turn the sign in the data",
        )
    told = {k: [n for n in moving if kinds.get(n) == k] for k in ("absolute", "velocity", "delta", "scaled")}
    if len(told["absolute"]) >= SPOKEN * len(moving) and not told["velocity"] and not told["delta"]:
        # A column says one thing of all its joints: what hardly moved, or lagged, and has the name of
        # what was measured is what most of the others are.
        told["scaled"] = [n for n in told["scaled"] if pairs[n].by == "correlation"]
    others = {k: names for k, names in told.items() if names and k != said}
    if said:
        if others.keys() - {"scaled"}:
            kind, names = next((k, v) for k, v in others.items() if k != "scaled")
            return Meaning(
                "", f"the message says {said}, but {some(names)} move as {kind} numbers do"
            )
        return Meaning(said, "as the message says")
    by_motion = [n for n, p in pairs.items() if p.by == "correlation"]
    other_names = [
        n for n in by_motion if any(map(has_name, s.labels)) or not has_name(measured[n])
    ]
    unknown = [n for n in moving if n not in pairs]
    if not any(told.values()):
        return Meaning("", _unseen(s, pairs, moving, data))
    evidence = "; ".join(
        f"{some(names)} {_moves(k)} {some(dict.fromkeys(measured[n] for n in names))}"
        for k, names in told.items()
        if names
    )
    if unknown:
        evidence += f"; nothing measured moves as {some(unknown)}"
    paired = tuple((n, measured[n]) for n in other_names)
    if len(others.keys() - {"scaled"}) > 1:
        evidence += "; split it into two actions, each with its part of the column"
    if len(others) != 1 or others.keys() & {"scaled", "delta"} or unknown or other_names:
        return Meaning("", evidence, paired, changes="delta" in others)
    ((kind, names),) = others.items()
    if len(names) < SPOKEN * len(moving) or (kind == "absolute" and len(pairs) < len(labels)):
        return Meaning("", f"{evidence}, but the rest of the numbers do not show what they are")
    return Meaning(kind, evidence)


def _moves(kind: str) -> str:
    return {
        "absolute": "move with",
        "velocity": "add up to the motion of",
        "delta": "are changes, and add up row by row to the motion of",
        "scaled": "move like, but not as far as, or along with the changes of",
    }[kind]


def kind_of(pair: Pair, lead: Lead) -> str:
    """absolute, velocity, delta, mirrored, scaled, or "" where its motion does not show it."""
    if not told_enough(lead):
        return ""
    same, rate = np.nan_to_num(lead.same), abs(np.nan_to_num(lead.rate))
    field = quantity(pair.state, pair.state_label) or "position"
    if opposite(lead):
        return "mirrored" if field == "position" else "velocity"
    if same >= ALIKE and same > rate + CLEARLY:
        return {"position": "absolute", "velocity": "velocity"}.get(field, "")
    step = np.nan_to_num(lead.step)
    if rate >= ALIKE and rate > max(abs(same), abs(step)) + CLEARLY:
        return "velocity" if field == "position" else ""
    if step >= ALIKE and step > max(abs(same), rate) + CLEARLY:
        return "delta" if field == "position" else ""
    alike = abs(np.nan_to_num(lead.correlation)) >= TRUSTED
    return "scaled" if alike else ""


def _unseen(s: SignalSummary, pairs: dict[str, Pair], moving: list[str], data: Dataset) -> str:
    if data.timeless:
        return "nothing says how fast the rows were recorded, so that no motion can be compared"
    if not moving:
        return "the numbers never change in the recording"
    seen = [combined(data.leads.get(p, ())) for p in pairs.values()]
    if seen and not any(map(told_enough, seen)):
        longest = max(x.compared for x in seen)
        return (
            f"{longest:.3g} s were recorded of it and of what is measured: too little to tell what moves "
            f"alike from chance; {SEEN:g} s of all recordings together are enough"
        )
    if pairs:
        return f"{some(pairs)} have the names of measured numbers, which do not move as they do"
    return "no measured number goes by these names, or moves alike"


def groups(s: SignalSummary, labels: Iterable[str]) -> list[list[str]]:
    """Labels that come in the same messages. One list where no message lacks any."""
    there = ~np.isnan(s.values.rows)
    found: dict[bytes, list[str]] = {}
    for label in labels:
        i = s.labels.index(label)
        key = there[:, i].tobytes() if s.absent[i] else b""
        found.setdefault(key, []).append(label)
    return list(found.values())


def part_of(s: SignalSummary, labels: list[str]) -> SignalSummary:
    """The summary of some of a signal's numbers, counted over the messages that have them."""
    if len(labels) == len(s.labels):
        return s
    part = s.picked(labels)
    least = int(part.absent.min())
    return replace(part, messages=s.messages - least, absent=part.absent - least)


def share(s: SignalSummary, labels: Iterable[str]) -> float:
    """Of the messages, in which all of `labels` are."""
    lost = max((int(s.absent[s.labels.index(n)]) for n in labels), default=0)
    return 1 - lost / max(s.messages, 1)


def name_of(source: str, label: str, named: bool) -> str:
    """Of a number in a contract: its own, or the source's with its place."""
    if named:
        return joint(label)[1]
    return f"{source}_{label.removeprefix('data.')}" if label not in ("", "data") else source
