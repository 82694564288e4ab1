"""What each beta gains and costs, on recorded states; and which to try first.

At every beta the same states and noise, on the select split, which the suggestions were chosen on,
and on the report split, which was never looked at. Q rises with guidance whether the robot does
better or not: distance and roughness stand beside it. Nothing here chooses a beta; the suggestions
and the floor are the policy's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.statistics import UNKNOWN, Interval, between, drawn
from training.judge.analysis.base import States
from training.judge.analysis.reach import lost_share, measured, natural, nearest, ratio_per_weight
from training.judge.analysis.stability import STABLE_SHARE, stability
from training.judge.subject import ALONE, Group, Subject

STATES, CURVED = 256, 128  # at which is sampled, and where curvature is looked at
RATIOS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of guidance to flow, that betas are for
APART = 0.2  # of the logarithms of two betas; nearer ones tell the same
TOLERATED = 0.05  # share beyond the data more than unguided
LOOSE = 0.2  # share of unguided samples beyond the data
SAID = {"guidance_ratio": "ratio", "outside": "beyond"}  # what the page calls them
ROUGH = 2.0  # times the jerk of unguided chunks


@torch.no_grad()
def figures(subject: Subject, fitness: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """{betas, policy, stable, groups: {select, report}, advice}, plain but for NaN and infinity; or
    {absent: why}. fitness: what the panel of that name found."""
    beta, model = subject.policy.description.beta, subject.model
    if not all(g.held.comparable for g in subject.groups):
        return {"absent": ALONE}
    states = subject.select.held.pool[:STATES]
    per_weight = ratio_per_weight(model, states, states.noise(subject.seed), "qgf")
    if not per_weight > 0:
        return {
            "absent": "the critic has no gradient that can be used, and no beta changes anything"
        }
    named = sorted({b for b in (beta.min, beta.default, *beta.suggested) if b < math.inf})
    tried = {float(f"{per_weight / r:.3g}") for r in RATIOS}
    between_named = {b for b in tried if all(abs(math.log(b / n)) > APART for n in named)}
    betas = [math.inf, *sorted({*between_named, *named}, reverse=True)]
    stable = stability(model, states[:CURVED], beta, subject.seed)
    groups = {g.name: _measured(subject, g, betas) for g in subject.groups}
    return {
        "betas": betas,
        "policy": {"floor": beta.min, "default": beta.default, "suggested": list(beta.suggested)},
        "stable": {
            "beta": stable.stable_beta,
            "share": STABLE_SHARE,
            "overshoot": {f"{x.beta:g}": asdict(x.unstable) for x in stable.policy},
        },
        "groups": groups,
        "advice": advice(subject, str(fitness["verdict"]), groups["report"], stable.stable_beta),
    }


def _measured(subject: Subject, group: Group, betas: list[float]) -> dict[str, Any]:
    """Rows in the order of `betas`, of which the first is infinite."""
    held, model, width = group.held, subject.model, subject.policy.action_dim
    states = held.pool[:STATES]
    near = nearest(states, held.recorded)
    (radius, median), noise = natural(held.pool, held.recorded), states.noise(subject.seed)
    recorded = _third(states.action, width)
    rows = []
    for beta in betas:
        sampled = model.sample(states.obs, noise, 0.0 if beta == math.inf else 1 / beta)
        if beta == math.inf:
            unguided = sampled.q
        found = measured(sampled, unguided, near, radius, states.episode)
        found["jerk"] = _quotient(_third(sampled.action, width), recorded, states)
        plain = {SAID.get(name, name): asdict(v) for name, v in found.items() if name != "q"}
        rows.append({"beta": beta, "lost": lost_share(sampled), **plain})
    return {
        "episodes": len(states.episode.unique()),
        "states": len(states),
        "radius": radius,
        "median": median,
        "rows": rows,
    }


def _third(action: Tensor, width: int) -> Tensor:
    """(B,) mean square of the third differences within chunks (B, H * width); NaN where H < 4."""
    steps = action.view(len(action), -1, width).double()
    return steps.diff(n=3, dim=1).square().mean((1, 2))


def _quotient(one: Tensor, other: Tensor, states: States) -> Interval:
    """Of root mean squares, over episodes."""
    group, draws = drawn(states.episode)
    finite = (one.isfinite() & other.isfinite()).numpy()
    if not finite.any():
        return UNKNOWN
    a, b = (draws @ np.bincount(group, np.where(finite, x.numpy(), 0.0)) for x in (one, other))
    return between(np.sqrt(a / np.where(b > 0, b, np.nan)))


def advice(
    subject: Subject, verdict: str, measured: Mapping[str, Any], stable: float
) -> dict[str, Any]:
    """{first, then: [...]}: which beta to try first, and what to know; in figures of the report split."""
    beta = subject.policy.description.beta
    rows = {r["beta"]: r for r in measured["rows"]}
    unguided = rows[math.inf]
    loose = unguided["beyond"]["mean"]
    then = []
    if loose > LOOSE:
        then.append(
            f"The flow alone lies beyond the data's radius in {loose:.0%} of the samples: it has not "
            "learnt the data, and no beta mends that. Train it longer or on more episodes."
        )
    if verdict == "unfit":
        then.append(
            "The figures say what its guidance would do to the actions, not that it would help."
        )
        return {"first": "Stay at beta inf: this critic is unfit to guide (panel 1).", "then": then}
    if not beta.suggested:
        return {"first": "Stay at beta inf: the policy suggests none.", "then": then}
    gentle, *harder = sorted(beta.suggested, reverse=True)
    lost = {b: rows[b]["lost"] for b in (gentle, *harder) if rows[b]["lost"] > 0}
    if lost:
        told = ", ".join(f"{share:.0%} at {b:g}" for b, share in lost.items())
        then.append(
            f"Guided samples are lost, their numbers or their Q not finite: {told}. No other figure "
            "counts them."
        )
    if gentle in lost:
        first = f"Stay at beta inf: at {gentle:g}, the gentlest suggestion, samples are lost."
        return {"first": first, "then": then}
    harder = [b for b in harder if b not in lost]
    if verdict == "fit":
        arms = " ".join(f"{b:g}" for b in (gentle, *harder[:1]))
        first = f"Try {gentle:g}, the gentlest suggestion, beside inf: qgf trial --beta inf {arms}."
        then.append(
            "Go to the next smaller one only while it succeeds more often."
            if harder
            else "Keep it only if it succeeds more often."
        )
    else:
        first = (
            f"In doubt, try {gentle:g} alone, blinded, beside inf: qgf trial --beta inf {gentle:g}."
        )
        then.append("Keep it only if it succeeds more often; go no further.")

    def too_far(b: float) -> bool:
        beyond, jerk = (rows[b][k]["mean"] for k in ("beyond", "jerk"))
        return bool(beyond > loose + TOLERATED or jerk > ROUGH * unguided["jerk"]["mean"])

    far = [b for b in (gentle, *harder) if too_far(b)]
    if far:
        then.append(
            f"From {max(far):g} on guidance leaves the data or gets rough: {TOLERATED:.0%} more of the "
            f"samples beyond its radius than unguided, or over {ROUGH:g} times the jerk."
        )
    if beta.min < stable:
        then.append(
            f"Below {stable:.2g} steps may overshoot in more than {1 - STABLE_SHARE:.0%} of the states."
        )
    return {"first": first, "then": then}
