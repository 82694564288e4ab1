"""Other ways of asking the critic, on the user's own policy: how steady each gradient is, what Q it
reaches how far from the data, and how long a sample takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from training.estimators import ESTIMATORS
from training.judge.analysis.reach import GENTLE, Point, reach
from training.judge.analysis.sensitivity import sensitivity
from training.judge.subject import ALONE, Subject
from training.sampling import Sample

STATES, POOL = 128, 1024
SHOWN = 0.25  # of them, in the table: about the gentlest suggestion
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of guidance to flow, at which Q is compared
CANDIDATES = (1, 4, 16)
REPEATS = 11  # timed samples, of which the fastest counts: others shared the machine


@torch.no_grad()
def figures(subject: Subject, **_: Any) -> dict[str, Any]:
    """{times, sigma, cosine, reach, samplers}, plain but for NaN; or {absent: why}."""
    held, model = subject.select.held, subject.model
    if not held.comparable:
        return {"absent": ALONE}
    states = held.pool[:STATES]
    steady = sensitivity(model, states, subject.seed)
    reached = reach(
        model, states, held.recorded, (), subject.seed, held.pool[:POOL], RATIOS, CANDIDATES
    )
    return {
        "times": list(steady.times),
        "sigma": steady.sigmas[steady.middle],
        "cosine": {
            n: [asdict(x) for x in c.by_time[steady.middle]] for n, c in steady.estimators.items()
        },
        "overall": {n: asdict(c.overall) for n, c in steady.estimators.items()},
        "zero": {n: c.zero for n, c in steady.estimators.items()},
        "radius": reached.radius,
        "recorded": _point(reached.recorded),
        "best_of_n": [_point(p) for p in reached.best_of_n],
        "guided": {n: [_point(p) for p in row] for n, row in reached.guided.items()},
        "shown": SHOWN,
        "ms": _milliseconds(subject),
        "states": len(states),
        "episodes": len(states.episode.unique()),
    }


def _point(p: Point) -> dict[str, Any]:
    return {
        "candidates": p.candidates,
        "asked": p.ratio,
        "beta": p.beta,
        "ratio": p.guidance_ratio.mean,
        "q": asdict(p.q),
        "gain": asdict(p.gain),
        "distance": asdict(p.distance),
        "beyond": asdict(p.outside),
        "lost": p.not_finite,
        "best_of": p.best_of,
    }


def _milliseconds(subject: Subject) -> dict[str, float]:
    """Of one sample of one state, in the reference sampler on this machine."""
    model, state = subject.model, subject.select.held.pool[:1]
    noise = state.noise(subject.seed)

    def best(n: int) -> Sample:
        drawn = model.sample(state.obs.expand(n, -1), state.noise(subject.seed, n)[:, 0], 0.0)
        return drawn[drawn.q.argmax()[None]]

    ways: dict[str, Callable[[], Sample]] = {
        "unguided": lambda: model.sample(state.obs, noise, 0.0),
        **{n: partial(model.sample, state.obs, noise, GENTLE, n) for n in ESTIMATORS},
        **{f"best of {n}": partial(best, n) for n in CANDIDATES[1:]},
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):  # in turns: a machine that is busy for a moment is so for all
        for name, draw in ways.items():
            draw()  # what another way has just pushed out of the caches
            began = time.perf_counter()
            draw()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * min(taken) for name, taken in times.items()}
