"""The lab: one page in which a newcomer turns the knobs of guidance on flows known in closed form.

The page computes everything itself (the scripts beside this file), for any critic and any start. What is
computed here goes into the page beside that, by the code that users run: `testbed`, `sampling`,
`guards`, `estimators`. It covers the two critics with a name at T = 10, each beta of the slider
and each start that can be picked, so that whoever stands there sees both numbers.

Shapes: B rows, D = 1 or 2, K peaks, T steps. Float64; nothing is clipped and nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qgf_ros.files.atomic import replaced_file
from training import estimators
from training.estimators.base import Step
from training.estimators.qgf_chain import end
from training.guards import Guards
from training.judge.pages.page import FOLDER as SHARED
from training.judge.pages.page import render_interactive
from training.lab import testbed
from training.lab.testbed import BumpCritic
from training.sampling import sample

STEPS = 10  # T
BETAS = (math.inf, 10, 5, 3, 2, 1.5, 1, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125)  # the slider's stops
WAYS = ("bptt", "ood", "qgf")  # the fourth, none, is any of them at beta = infinity
DIGITS = 12  # of each number that goes into the page


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Flow:
    """A testbed with everything that the page asks about it."""

    means: Tensor  # (K, D)
    critics: dict[str, BumpCritic]  # of one optimum and one false peak
    support: Guards
    starts: Tensor  # (N, D), noise that the reader can pick
    particles: Tensor  # (P, D), noise that shares are counted over
    sweep: Tensor  # (M, D), noisy actions on a line along which gradients are compared

    def velocity(self, a: Tensor, k: int) -> Tensor:
        """The flow at a (B, D) and t = k / T -> (B, D)."""
        time = torch.full((len(a),), k / STEPS, dtype=a.dtype)
        return testbed.velocity(a[:, :0], a, time, self.means)

    def step(self, critic: BumpCritic, a: Tensor, k: int) -> Step:
        """Denoising step k at a (B, D)."""
        q = partial(_only_member, critic)
        return Step(self.velocity, q, a, self.velocity(a, k), k, STEPS, math.inf)


def _only_member(critic: BumpCritic, a: Tensor) -> Tensor:
    return critic(a[:, :0], a)[0]


def _quantiles(count: int) -> Tensor:
    """(count, 1): the middles of as many equal shares of N(0, 1)."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]


def _grid(low: float, high: float, count: int) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)[:, None]


def _plane(axis: Tensor) -> Tensor:
    """(n^2, 2): every pair of the n numbers of axis (n, 1)."""
    return torch.cartesian_prod(axis[:, 0], axis[:, 0])


LINE = Flow(
    testbed.MEANS[:, None],
    {"narrow": testbed.NARROW, "wide": testbed.WIDE},
    testbed.SUPPORT_GUARD,
    starts=_grid(-3, 3, 61),
    particles=_quantiles(225),
    sweep=_grid(-3, 3, 25),
)
PLANE = Flow(
    testbed.PLANE_MEANS,
    {"narrow": testbed.PLANE_NARROW, "wide": testbed.PLANE_WIDE},
    testbed.PLANE_SUPPORT_GUARD,
    starts=_plane(_grid(-2, 2, 9)),
    particles=_plane(_quantiles(15)),
    sweep=torch.cat([_grid(-3, 3, 25), torch.full((25, 1), 0.25, dtype=torch.float64)], dim=1),
)


def lab(out: Path) -> dict[str, Any]:
    """Writes the page to the file `out`; returns its path, size [bytes] and how many numbers of
    ours it holds. Raises OSError where it cannot be written."""
    content = document()
    page = render(content).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as file:
        file.write(page)
    return {"out": out, "bytes": len(page), "numbers": _count(content["flows"])}


def render(content: Mapping[str, Any]) -> str:
    """The page (about 5.5 MB) of `document`."""
    folder = Path(__file__).parent
    first, *own = (
        folder / f"{name}.js"
        for name in ("flow", "plane", "panels_ask", "panels_why", "work", "knobs")
    )
    shared = (SHARED / "plots.js", SHARED / "sight.js")
    return render_interactive("lab/lab.html.j2", content, [first, *shared, *own])


def document() -> dict[str, Any]:
    """What the page is told: the testbeds, and what our code does on them. Plain lists and numbers;
    null stands for infinity in `betas`."""
    return {
        "steps": STEPS,
        "betas": [beta if beta < math.inf else None for beta in BETAS],
        "sigma": testbed.SIGMA,
        "near": testbed.NEAR,
        "flows": {"line": _describe(LINE), "plane": _describe(PLANE)},
    }


def _describe(flow: Flow) -> dict[str, Any]:
    some, box = next(iter(flow.critics.values())), flow.support.support
    assert box is not None
    return {
        "means": _plain(flow.means),
        "optimum": list(some.optimum),
        "centre": list(some.centre),
        "box": box.to_dict(),
        "starts": _plain(flow.starts),
        "particles": _plain(flow.particles),
        "sweep": _plain(flow.sweep),
        "stretch": _stretch(flow),
        "critics": {
            name: {
                "height": critic.height,
                "width": critic.width,
                "ends": {way: _plain(_ends(flow, critic, flow.starts, way)) for way in WAYS},
                "shares": {
                    **{way: _shares(flow, critic, way) for way in WAYS},
                    "support": _shares(flow, critic, "qgf", flow.support),
                    "ratio_cap": _shares(flow, critic, "qgf", testbed.RATIO_CAP_1),
                },
                "gradients": {way: _gradients(flow, critic, way) for way in WAYS},
            }
            for name, critic in flow.critics.items()
        },
    }


def _ends(
    flow: Flow, critic: BumpCritic, noise: Tensor, way: str, guards: Guards | None = None
) -> Tensor:
    """(beta, N, D): where each noise (N, D) ends at each beta."""
    weight = torch.tensor([1 / beta for beta in BETAS], dtype=torch.float64)
    rows = noise.repeat(len(BETAS), 1)
    drawn = sample(
        partial(testbed.velocity, means=flow.means),
        critic,
        rows[:, :0],
        rows,
        weight.repeat_interleave(len(noise)),
        steps=STEPS,
        estimator=way,
        bound=math.inf,
        times=torch.arange(STEPS, dtype=torch.float64) / STEPS,
        guards=guards,
    )
    return drawn.action.view(len(BETAS), *noise.shape)


def _shares(flow: Flow, critic: BumpCritic, way: str, guards: Guards | None = None) -> list[Any]:
    """[beta][near, fooled]: shares of the particles. Fooled: nearer to the false peak than to the
    optimum, measured along the line from one to the other; a > 2 on the line."""
    ends = _ends(flow, critic, flow.particles, way, guards)
    optimum, centre = (ends.new_tensor(point) for point in (critic.optimum, critic.centre))
    near = (ends - optimum).norm(dim=-1) < testbed.NEAR
    fooled = ((ends - (optimum + centre) / 2) * (centre - optimum)).sum(-1) > 0
    return _plain(torch.stack([near, fooled], dim=-1).double().mean(dim=1))


def _gradients(flow: Flow, critic: BumpCritic, way: str) -> list[Any]:
    """[k][point][D]: what the estimator hands to the sampler along the sweep."""
    gradient = estimators.get(way)
    return [_plain(gradient(flow.step(critic, flow.sweep, k))) for k in range(STEPS)]


def _stretch(flow: Flow) -> dict[str, list[Any]]:
    """[k][start][D]: by how much small circles around a_t of the unguided path become longer, the
    longest axis first: in one step (one), to a_hat (hat), to the end of the chain (chain)."""
    critic = next(iter(flow.critics.values()))  # the maps are the flow's: any critic will do
    found: dict[str, list[Any]] = {"one": [], "hat": [], "chain": []}
    a = flow.starts
    for k in range(STEPS):
        step = flow.step(critic, a, k)
        for name, move in _maps(step).items():
            found[name].append(_plain(torch.linalg.svdvals(_jacobian(move, a))))
        a = a + step.v / STEPS
    return found


def _maps(step: Step) -> dict[str, Callable[[Tensor], Tensor]]:
    """What becomes of noisy actions (B, D) at that step: (B, D) each."""
    return {
        "one": lambda a: a + step.velocity(a, step.k) / step.steps,
        "hat": lambda a: step.denoised(a, step.velocity(a, step.k)),
        "chain": lambda a: end(step, a, step.velocity(a, step.k)),
    }


def _jacobian(move: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """(B, D, D): d move / d a, row by row, by autograd."""
    a = a.detach().requires_grad_()
    moved = move(a)
    rows = [torch.autograd.grad(y.sum(), a, retain_graph=True)[0] for y in moved.unbind(dim=1)]
    return torch.stack(rows, dim=1)


def _plain(numbers: Tensor) -> list[Any]:
    """Nested lists; NaN and infinity, which JSON has not, as null."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(v) for v in value]
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

    return short(numbers.tolist())


def _count(value: Any) -> int:
    """How many numbers there are in nested lists and mappings."""
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 1
