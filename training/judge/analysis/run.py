"""A policy folder and data to the whole analysis: one document, its tables, its picture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from qgf_ros.console import plain, say, table
from qgf_ros.errors import UsageError
from qgf_ros.policy.folder import Policy, load_policy
from qgf_ros.spaces.contract import Contract
from qgf_ros.statistics import RESAMPLES, few
from training.judge.analysis.reach import POOL, Point, Reach, reach
from training.judge.analysis.sensitivity import Sensitivity, sensitivity
from training.judge.analysis.stability import STABLE_SHARE, Stability, stability
from training.judge.data import policy_episodes
from training.judge.pages.analysis_plot import draw
from training.judge.subject import Held, held_out, model_of
from training.pipeline.episodes import Episode, data_hash

DOCUMENT, PICTURE = "analysis.json", "analysis.png"
TOLERATED = 0.05  # share off the data, of which recorded chunks have 1 %
SHOWN_RATIOS = (0.25, 0.5, 1.0, 4.0)


def analyze(
    policy_folder: Path,
    data: Path,
    out: Path,
    contract_path: Path | None = None,
    count: int = 256,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, Any]:
    """Analyses at `count` held-out states; writes `out`/analysis.json and analysis.png.

    The same arguments give the same document. Returns it: plain, and finite but for the string
    "inf" where a limit does not exist.

    Raises:
        UsageError, PolicyRefused, DataRefused: an argument, the policy or the data cannot be used.
    """
    if count < 2 or seed < 0:
        raise UsageError(f"states is {count}, seed {seed}; allowed: at least 2 and at least 0")
    contract = Contract.load(contract_path) if contract_path else None
    policy = load_policy(policy_folder, contract)
    episodes = policy_episodes(policy, data, contract, workers)
    return examine(policy, episodes, held_out(policy, episodes, seed), out, count, seed)


def examine(
    policy: Policy, episodes: Sequence[Episode], held: Held, out: Path, count: int, seed: int
) -> dict[str, Any]:
    """As `analyze`, from episodes and a choice among them that was made elsewhere."""
    began = time.monotonic()
    torch.set_num_threads(1)  # the same sums in the same order, and no slower on small networks
    states = held.pool[:count]
    used = len(states.episode.unique())
    say(f"{len(states)} states of {used} episodes: {held.why}")
    model = model_of(policy)
    beta = policy.description.beta
    noise = sensitivity(model, states, seed)
    say(f"  noise sensitivity: {time.monotonic() - began:.0f} s")
    betas = (beta.min, beta.default, *beta.suggested)
    pool = held.pool[: max(count, POOL)]
    reached = reach(model, states, held.recorded, betas, seed, pool)
    say(f"  Q and distance: {time.monotonic() - began:.0f} s")
    stable = stability(model, states, beta, seed)
    document: dict[str, Any] = plain(
        {
            "schema": 1,
            "policy": {
                "name": policy.name,
                "sha256": policy.sha256,
                "beta": beta,
                "informative": policy.description.returns.informative,
                "denoise_steps": model.steps,
                "aggregation": model.aggregation,
            },
            "data": {
                "sha256": data_hash(episodes),
                "episodes": len(episodes),
                "group": held.group,
                "why": held.why,
                "states": len(states),
                "states_episodes": used,
            },
            "seed": seed,
            "intervals": f"95 %, percentile bootstrap over whole episodes, {RESAMPLES} resamples",
            "sensitivity": noise,
            "reach": reached,
            "stability": stable,
            "findings": findings(noise, reached, stable, policy, used),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / DOCUMENT).write_text(json.dumps(document, indent=1, allow_nan=False))
    draw(out / PICTURE, document)
    show(noise, reached, stable)
    for line in document["findings"]:
        say(f"- {line}")
    say(f"{out / DOCUMENT}, {out / PICTURE}: {time.monotonic() - began:.0f} s")
    return document


def findings(
    noise: Sensitivity, reached: Reach, stable: Stability, policy: Policy, episodes: int
) -> list[str]:
    """What the figures say, in sentences."""
    d = policy.description
    lines = [*_order(noise), *_reached(reached, d.beta.default)]
    lines.append(
        f"the steps are stable in {STABLE_SHARE:.0%} of the states from beta {stable.stable_beta:.2g} on; "
        f"the policy's floor is {d.beta.min:.2g}"
        + ("" if stable.floor_is_stable else ", where some may overshoot")
    )
    if not d.returns.informative:
        lines.append("the data held no difference in outcome: the critic's Q means nothing")
    if said := few(episodes, "episode"):
        lines.append(said)
    return lines


def _order(noise: Sensitivity) -> list[str]:
    cos = noise.estimators
    said = ", ".join(f"{n} {cos[n].overall.mean:.3f}" for n in noise.order)
    is_it = "" if noise.reproduced else "not "
    lines = [
        f"noise sensitivity, least first (mean cosine): {said}; {is_it}the paper's order "
        f"({', '.join(noise.paper_order)})"
    ]
    for what, pairs in (
        ("borne out by the paired difference", [p for p in noise.pairs if p.difference.low > 0]),
        ("reversed by it", [p for p in noise.pairs if p.difference.high < 0]),
        ("with overlapping intervals", [p for p in noise.pairs if p.overlap]),
    ):
        said = ", ".join(f"{p.first} > {p.second}" for p in pairs) or "none"
        lines.append(f"pairs of the paper's order {what}: {said}")
    for what, attribute in (("are zero, without a cosine", "zero"), ("overflow", "not_finite")):
        shares = {n: getattr(c, attribute) for n, c in cos.items()}
        said = ", ".join(f"{n} {x:.2%}" for n, x in shares.items() if x)
        lines += [f"gradients that {what}: {said}"] if said else []
    return lines


def _reached(reached: Reach, default: float) -> list[str]:
    unguided = reached.best_of_n[0]
    lines = [
        f"off the data (further than 99 % of recorded chunks): unguided {unguided.outside.mean:.1%}"
        + "".join(
            f", qgf at the policy's default beta {p.beta:.2g} {p.outside.mean:.1%} for a gain in Q of {p.gain}"
            for p in reached.at_policy_betas
            if math.isclose(p.beta, default)
        )
    ]
    for name, points in reached.guided.items():
        near = [p for p in points if p.outside.mean <= TOLERATED]
        best = max(near, key=lambda p: p.q.mean, default=None)
        lines.append(
            f"{name}: no gradient at all, so nothing to guide with"
            if not points
            else f"{name}: more than {TOLERATED:.0%} off the data at every weight tried"
            if best is None
            else f"{name}: with at most {TOLERATED:.0%} off the data, Q {best.q.mean:.3f} at rho "
            f"{best.ratio:g} (beta {best.beta:.2g}), as best of {_as_best_of(best, reached)}"
        )
    return lines


def show(noise: Sensitivity, reached: Reach, stable: Stability) -> None:
    """The tables for a person."""
    cos = noise.estimators
    table(
        "Noise sensitivity: mean cosine of the gradients at a_t and a_t + eps, eps ~ N(0, sigma^2)",
        ("estimator", *(f"sigma {s:g}" for s in noise.sigmas), "all", "zero", "|g| 99/50 %"),
        [
            [n, *(f"{i.mean:.3f}" for i in cos[n].by_sigma), cos[n].overall]
            + [f"{cos[n].zero:.1%}", f"{cos[n].norm_spread:.1f}"]
            for n in noise.order
        ],
    )
    points = [reached.recorded, *reached.best_of_n, *reached.at_policy_betas]
    points += [p for row in reached.guided.values() for p in row if p.ratio in SHOWN_RATIOS]
    table(
        f"Q reached, and RMS distance to the data (99 % of recorded chunks: {reached.radius:.3f})",
        ("sampler", "rho", "beta", "Q", "gain", "distance", "outside", "best of"),
        [
            [_name(p), f"{p.ratio:.3g}", f"{p.beta:.2g}", f"{p.q.mean:.3f}", p.gain]
            + [f"{p.distance.mean:.3f}", f"{p.outside.mean:.1%}", _as_best_of(p, reached)]
            for p in points
        ],
    )
    table(
        "Stability: w * lambda / T < 2, lambda the largest of a state's T steps",
        ("share of states", "lambda", "largest w", "smallest beta"),
        [
            [f"{x.quantile:.0%}", f"{x.curvature:.3g}", f"{x.weight:.3g}", f"{x.beta:.3g}"]
            for x in stable.limits
        ],
    )
    table(
        "The policy's betas",
        ("beta", "", "share of states that overshoot"),
        [[f"{x.beta:g}", x.name, x.unstable] for x in stable.policy],
    )


def _as_best_of(point: Point, reached: Reach) -> str:
    """The N that does as well; "32+": no N tried does."""
    most = reached.best_of_n[-1].candidates
    if point.best_of == most and point.q.mean > reached.best_of_n[-1].q.mean:
        return f"{most}+"
    return str(point.best_of or "-")


def _name(point: Point) -> str:
    return f"best of {point.candidates}" if point.name == "best_of_n" else point.name
