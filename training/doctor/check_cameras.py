"""Whether cameras can be learnt from: dark, over-exposed, frozen, of several sizes, out of step."""

from __future__ import annotations

import numpy as np

from training.doctor.cameras import LABELS, LOOK
from training.doctor.check import SHOWN, Check
from training.doctor.dataset import Dataset, rate
from training.doctor.in_step import Lag, kept, lag
from training.doctor.summary import SignalSummary
from training.pipeline.readers.tables import column_name

BLACK, SOME = 0.98, 0.01  # share of an image that shows nothing; share of images that may be so
BLOWN = 0.5  # share of an image at the end of its range
FROZEN = 0.05  # share of images that are the one before them
OUT = 0.05  # s by which frames and state may be apart, or an image's interval where that is longer
CLEAR = 2  # standard errors, by which they are further apart than that, before it is a finding
SLOW = 0.5  # of the control rate: a camera that is slower shows old things


def cameras(data: Dataset) -> Check | None:
    found = data.of("camera")
    if not found:
        return None
    bad, warn = [], []
    for s in found:
        problems, doubts = _of(s, data)
        bad += [f"{s.topic}: {p}" for p in problems]
        warn += [f"{s.topic}: {d}" for d in doubts]
    if data.contract is not None:
        names = data.contract.cameras
        seen = {o.topic.strip("/") for o in names} | {column_name(data.contract, o.name) for o in names}
        blind = [s.topic for s in found if s.topic.strip("/") not in seen]  # of a table, its column
        warn += [f"{t}: the contract does not name it, and no policy sees it" for t in blind]
    each = "; ".join(f"{s.topic} {_size(s)} at {rate(s):.3g} Hz" for s in found[:SHOWN])
    if bad or warn:
        return Check(
            "cameras", "bad" if bad else "warn", "; ".join((bad + warn)[:2]) + f" ({each})",
            "look at the strip of its images on the page; record again what shows nothing, and one size only",
            tuple((bad + warn)[:SHOWN]),
        )  # fmt: skip
    return Check("cameras", "ok", each)


def in_step(data: Dataset) -> Check | None:
    """Whether images and states of one stamp are of one moment; None where too little moves to say so."""
    found, out = list[str](), list[str]()
    for s in data.of("camera"):
        blocks = data.in_step.get(s.topic)
        late = lag(kept(blocks)) if blocks else None
        if late is None:
            continue
        found.append(f"{s.topic}: {said(late)}")
        allowed = max(OUT, 1 / rate(s) if rate(s) else 0.0)
        if abs(late.seconds) - CLEAR * late.error > allowed:
            out.append(found[-1])
    if not found:
        return None
    if out:
        return Check(
            "frames and state", "warn", "; ".join(out[:2]),
            "told from motion: see whether the camera's stamp is its capture, and not the end of its transfer, "
            "and whether both stamp by one clock; a policy learns the wrong moment for what it sees",
            tuple(out[:SHOWN]),
        )  # fmt: skip
    return Check("frames and state", "ok", "; ".join(found[:SHOWN]))


def said(late: Lag) -> str:
    """ "frames lag the state by 0.08 +- 0.02 s" """
    how = "lag" if late.seconds >= 0 else "lead"
    return f"frames {how} the state by {abs(late.seconds):.3f} +- {late.error:.3f} s"


def _of(s: SignalSummary, data: Dataset) -> tuple[list[str], list[str]]:
    """What no policy learns from, and what is worth a look."""
    values = {name: s.values.rows[:, i] for i, name in enumerate(LABELS)}
    bad, warn = [], []
    if not len(s.values.rows):
        return ["no image could be read"], []
    if (share := float((values["dark"] >= BLACK).mean())) > SOME:
        bad.append(f"{share:.0%} of its images show nothing")
    sizes = {n: (np.nanmin(s.extremes.values[:, i]), np.nanmax(s.extremes.values[:, i])) for i, n in enumerate(LABELS)}
    changed = [n for n in ("width", "height") if sizes[n][0] != sizes[n][1]]
    if changed:
        low, high = sizes[changed[0]]
        bad.append(f"its {changed[0]} changes from {low:.0f} to {high:.0f} pixels: a policy sees one size")
    if (share := float(np.nanmean(values["bright"] >= BLOWN))) > SOME:
        warn.append(f"{share:.0%} of its images are over-exposed, or beyond the range")
    changes = values["change"][np.isfinite(values["change"])]
    if len(changes) and (share := float((changes == 0).mean())) > FROZEN:
        warn.append(
            f"{share:.0%} of its images are the one before them at {LOOK[0]} x {LOOK[1]} pixels: frozen, a "
            "simulator's, or of a scene that stands still"
        )
    if data.rate and rate(s) and rate(s) < SLOW * data.rate:
        warn.append(f"{rate(s):.3g} Hz, and the robot is commanded at {data.rate:.3g} Hz")
    return bad, warn


def _size(s: SignalSummary) -> str:
    width, height = (np.nanmax(s.extremes.values[:, LABELS.index(n)]) for n in ("width", "height"))
    return f"{width:.0f} x {height:.0f}"
