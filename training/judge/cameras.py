"""What each camera is worth to a policy: how far Q and the action go when it says nothing.

A camera that is masked says its mean features, whatever it sees; all else stays as it was:

    worth of Q       mean over held-out ticks of |Q(o', a) - Q(o, a)| / s
    worth of action  mean over held-out ticks of RMS(A(o', z) - A(o, z))

o is the observation and o' the same with the camera's numbers at their mean over the recorded data; a is the
chunk that was recorded; s is the standard deviation of Q(o, a) over the same ticks; A is the guided sampler at
the policy's default beta, and z its noise, the same both times.

Features are masked, and not pixels: a mean image is one that the encoder never saw, and what it makes of it is
anything; the mean features are the constant that is nearest to what it says. It also needs no image, so it holds
for any encoder, learnt or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from qgf_ros.spaces.contract import Contract
from qgf_ros.statistics import interval
from training.judge.analysis.base import Model

ALL = "all cameras"  # masked together, where there are several
TAIL = 0.9  # of the ticks, in which Q changes less than `q_most`


def columns_of(contract: Contract) -> dict[str, slice]:
    """Where in the observation each camera's features stand, by its name."""
    return {o.name: contract.observation_slices[o.name] for o in contract.recorded.cameras}


@dataclass(frozen=True, eq=False)
class Change:
    """What other observations change, B of them."""

    q: Tensor  # (B,) Q of the recorded chunk, in scaled returns: after less before
    action: Tensor  # (B,) RMS over the D numbers of the sampled chunk, in normalised actions


class Asked:
    """A policy at some states, to be asked what it would make of other observations there."""

    def __init__(self, model: Model, obs: Tensor, action: Tensor, noise: Tensor, beta: float) -> None:
        """
        Args:
            obs: (B, O) normalised.
            action: (B, D) recorded chunks, normalised.
            noise: (B, D), of which the sampler makes a chunk.
            beta: of guidance; infinite for none.
        """
        self._model, self._weight = model, 1 / beta
        self._action, self._noise = action, noise
        self.q, self._sampled = self._look(obs)

    def __call__(self, obs: Tensor, times: int = 1) -> Change:
        """obs: (B * times, O), as many for each state, behind each other."""
        q, sampled = self._look(obs, times)
        moved = sampled - self._sampled.repeat_interleave(times, 0)
        return Change(q - self.q.repeat_interleave(times), moved.square().mean(1).sqrt())

    @torch.no_grad()
    def _look(self, obs: Tensor, times: int = 1) -> tuple[Tensor, Tensor]:
        action, noise = (x.repeat_interleave(times, 0) for x in (self._action, self._noise))
        return self._model.q(obs, action), self._model.sample(obs, noise, self._weight).action


def masked(obs: Tensor, mean: Tensor, *columns: slice) -> Tensor:
    """(B, O) with these columns at their mean (O,)."""
    out = obs.clone()
    for part in columns:
        out[:, part] = mean[part]
    return out


def worth(
    model: Model,
    obs: Tensor,
    action: Tensor,
    episode: Any,
    mean: Tensor,
    columns: Mapping[str, slice],
    beta: float,
    seed: int = 0,
) -> dict[str, Any]:
    """What each camera is worth, by the formula above; plain but for NaN and infinity.

    Args:
        obs: (B, O) of held-out ticks, normalised.
        action: (B, D) the chunks that were recorded there, normalised.
        episode: (B,) in which episode: intervals are 95 %, from a bootstrap over whole episodes.
        mean: (O,) of recorded observations, normalised.
        columns: of each camera, as `columns_of` gives them.
        beta: default of the policy; infinite for unguided samples.

    Returns:
        `q_spread`: s, NaN where Q is the same everywhere. `other_noise`: RMS by which the action differs under
        another noise, to compare with. `each`: by camera, and all of them together where there are several,
        intervals of `q` and `action` as above, and of `rise`, (Q(o', a) - Q(o, a)) / s with its sign; and
        `q_most`, which |Q(o', a) - Q(o, a)| / s exceeds in a tenth of the ticks.
    """
    random = torch.Generator().manual_seed(seed + 3)
    noise, other = torch.randn(2, *action.shape, generator=random)
    asked = Asked(model, obs, action, noise, beta)
    spread = spread_of(asked.q)
    again = model.sample(obs, other, 1 / beta).action - model.sample(obs, noise, 1 / beta).action
    each = {}
    together = {ALL: tuple(columns.values())} if len(columns) > 1 else {}
    for name, parts in {**{n: (c,) for n, c in columns.items()}, **together}.items():
        found = asked(masked(obs, mean, *parts))
        rise = found.q / spread
        each[name] = {
            "q": asdict(interval(rise.abs(), episode)),
            "q_most": float(rise.abs().quantile(TAIL)),
            "rise": asdict(interval(rise, episode)),
            "action": asdict(interval(found.action, episode)),
        }
    return {
        "chunks": len(obs),
        "beta": beta,
        "q_spread": spread,
        "other_noise": float(again.square().mean(1).sqrt().mean()),
        "each": each,
    }


def spread_of(q: Tensor) -> float:
    """Standard deviation of Q (B,); NaN where it is the same everywhere."""
    found = float(q.double().std(correction=0))
    return found if found > 1e-9 else math.nan
