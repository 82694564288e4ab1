"""What held-out episodes say of a trained policy: one document, every figure with its interval and
with what a large value means.

Intervals are 95 %, from a bootstrap over whole episodes: neighbouring states look alike, and drawing
them one by one would claim more than the data says. What the data cannot say is left out, with the
reason. Everything is looked at in a bounded number of chunks, drawn by the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.console import plain, say, table
from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.contract import Contract
from qgf_ros.statistics import Interval, few, interval
from training.judge import critic_metrics, prediction
from training.judge.analysis.base import Model
from training.judge.seen import Seen
from training.learn.batches import tensors
from training.learn.config import FitConfig
from training.learn.critics.base import td_errors
from training.learn.critics.batch import ChunkBatch
from training.learn.flow import flow_error
from training.learn.models import Critic, VelocityField, time_table
from training.pipeline.chunks import Chunks, ChunkTable
from training.pipeline.episodes import Episode

CHUNKS = 1024  # held-out ones that are looked at
OUTCOMES = 1000  # ended episodes whose outcomes are compared
PATHS = 256  # chunks along whose flow the gradient is taken

MEANING = {
    "prediction": "RMSE of chunks, in spreads of the command over the training data: 1 is what always "
    "commanding the mean would give. Large: the policy does not do what was done. It must beat repeat "
    "(nothing changes) and linear, or it has learnt less than a line; a single sample may not, for it "
    "carries the spread of the data.",
    "beyond_range": "Share of recorded commands outside what the policy can command (its actions are "
    "clipped to the range of the training data). Large: held-out episodes were done where no training "
    "episode was.",
    "flow_loss": "Mean squared error of the velocity; the spread of the data keeps it above 0. Large "
    "beside its value in training: the flow has learnt its episodes by heart.",
    "td_error": "RMS of Q less what it is trained to predict, in scaled returns, which are about 1 wide. "
    "Large: Q does not agree with itself. Small does not say that Q is right.",
    "calibration": "Q of what was done against the return that followed. slope 1 and intercept 0: Q says "
    "what comes. slope below 1: differences in Q are larger than those in outcome, guidance is led too "
    "far. bias above 0: Q promises too much; iql's is the value of better than the data, so some is meant.",
    "separation": "Chance that Q of an episode that succeeded is above that of one that failed. 1: it "
    "tells them apart; 0.5: a coin would do as well; below: it leads the wrong way.",
    "disagreement": "Standard deviation of the ensemble's members, in scaled returns. A ratio above 1: "
    "they notice what they have not seen, and their minimum is careful there. 1: pessimism does not help.",
    "guidance": "RMS of the flow's velocity and of Q's gradient along unguided sampling, per number. Their "
    "ratio is the beta at which guidance is about as strong as the flow; a large one means a steep critic.",
}
OF_CAMERAS = (  # there where a policy has cameras
    "Each camera masked, which is its mean features whatever it sees: q is the mean change of Q of what was "
    "done, in standard deviations of Q, rise the same with its sign, action the RMS change of the normalised "
    "chunk that the sampler makes of the same noise (other_noise: what another noise changes). 0: it could be "
    "left out. Large: it counts, whether it is right or not. Two cameras that show the same may each be near 0."
)
LEARNT = 50_000  # recorded ticks of which a camera's mean is taken


@dataclass(frozen=True)
class Nets:
    """What was trained."""

    velocity: VelocityField  # as it samples
    critic: Critic  # as it guides: the target critic
    target: Callable[[ChunkBatch], Tensor] | None  # (B,), what Q learnt to predict (Learner.target)


@dataclass(frozen=True)
class Judgement:
    """`document` holds plain values only, ready for JSON; null is not a number."""

    document: dict[str, Any]

    def show(self) -> None:
        """The figures as tables for a person."""
        found = self.document["prediction"]
        table(
            f"Held out: {found['chunks']} chunks of {found['episodes']} episodes; RMSE in spreads of the command",
            ("step", "policy", "one sample", "repeat", "linear", "beats repeat", "beats linear"),
            [
                _row(name, step)
                for name, step in (
                    *((str(i), s) for i, s in enumerate(found["steps"], 1)),
                    ("all", found["overall"]),
                )
            ],
        )
        table("", ("figure", "value"), list(_lines(self.document)))
        if said := few(found["episodes"], "held-out episode"):
            say(said)


def judge(
    nets: Nets,
    codec: ActionCodec,
    scale: float,
    contract: Contract,
    trained: Sequence[Episode],
    held: Sequence[Episode],
    config: FitConfig,
    seed: int = 0,
    beta: float = math.inf,
) -> Judgement:
    """Looks at `held`, episodes that nothing was trained or chosen on.

    Args:
        scale: the return scale.
        trained: what was trained on; the linear model learns from them.
        beta: the policy's default, at which cameras are judged, where there are any.

    Raises:
        DataRefused: no episode is long enough for a chunk.
    """
    seen = Seen(held, codec, scale, contract, config, seed)
    known = Seen(trained, codec, scale, contract, config, seed)
    parts, batch = seen.cut(seen.some(CHUNKS))
    model = Model(nets.velocity, nets.critic, time_table(config.denoise_steps), config.aggregation)
    found: dict[str, Any] = {
        "prediction": prediction.predict(model, seen, known, parts, batch, seed),
        "beyond_range": prediction.beyond_range(codec, parts),
        "flow_loss": _flow_loss(nets.velocity, batch, parts.episode, config, seed),
        "td_error": _td_error(nets, batch, parts.episode, config),
        "calibration": _calibration(model, batch, parts, scale),
        "separation": _separation(model, seen),
        "disagreement": _disagreement(nets.critic, batch, parts.episode, seed),
        "guidance": _guidance(model, batch, seed),
    }
    document = {name: {**value, "meaning": MEANING[name]} for name, value in found.items()}
    if contract.recorded.cameras:
        worth = _cameras(model, known, batch, parts.episode, contract, beta, seed)
        document["cameras"] = {**worth, "meaning": OF_CAMERAS}
    return Judgement(plain(document))


def _cameras(
    model: Model,
    known: Seen,
    batch: ChunkBatch,
    episode: np.ndarray,
    contract: Contract,
    beta: float,
    seed: int,
) -> dict[str, Any]:
    from training.judge.cameras import columns_of, worth

    obs, _ = known.episodes.some_ticks(LEARNT)
    mean = torch.from_numpy(known.codec.normalizer.normalize_obs(obs)).mean(0)
    return worth(model, batch.obs, batch.action, episode, mean, columns_of(contract), beta, seed)


@torch.no_grad()
def _flow_loss(
    velocity: VelocityField, batch: ChunkBatch, episode: np.ndarray, config: FitConfig, seed: int
) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(batch.action.shape, generator=random)
    time = torch.rand(len(noise), generator=random)
    if config.grid_time:
        time = (time * (config.denoise_steps + 1)).floor() / config.denoise_steps
    error = flow_error(velocity, batch.seen_by_flow, batch.action, noise, time)
    return asdict(interval(error, episode))


@torch.no_grad()
def _td_error(
    nets: Nets, batch: ChunkBatch, episode: np.ndarray, config: FitConfig
) -> dict[str, Any]:
    if nets.target is None:
        return {"absent": "the policy does not hold what Q was trained to predict"}
    valid = batch.valid > 0
    if not valid.any():
        return {"absent": "nothing is known of the held-out chunks' values: all episodes were cut"}
    off = td_errors(nets.critic, nets.target, batch, config.aggregation)
    found = interval(off.square(), episode[valid.numpy()])
    return asdict(Interval(*(math.sqrt(x) for x in (found.mean, found.low, found.high))))


@torch.no_grad()
def _calibration(model: Model, batch: ChunkBatch, parts: Chunks, scale: float) -> dict[str, Any]:
    known = np.isfinite(parts.to_go)
    if not known.any():
        return {
            "absent": "no held-out episode ended in success or failure: what followed is not known"
        }
    q = model.q(batch.obs, batch.action).double().numpy()[known]
    return critic_metrics.calibration(q, parts.to_go[known] / scale, parts.episode[known])


@torch.no_grad()
def _separation(model: Model, seen: Seen) -> dict[str, Any]:
    """From the first state and from half-way, with what was done there."""
    episodes = seen.episodes
    succeeded, failed = (
        [i for i, s in enumerate(episodes.success) if s is which and episodes.terminal[i]]
        for which in (True, False)
    )
    if not succeeded or not failed:
        none = "failure" if succeeded else "success"
        return {"absent": f"no held-out episode ended in {none}"}
    found: dict[str, Any] = {"succeeded": len(succeeded), "failed": len(failed)}
    both = [episodes.pick(group[:OUTCOMES]) for group in (succeeded, failed)]
    for name, share in (("start", 0.0), ("middle", 0.5)):
        q = []
        for group in both:
            cut = ChunkTable(group, seen.table.horizon, seen.table.discount)
            # Of episodes that ended every tick begins a chunk.
            rows = np.cumsum(group.steps) - group.steps + (share * group.steps).astype(int)
            batch = tensors(cut.cut(rows), seen.codec, seen.scale)
            q.append(model.q(batch.obs, batch.action).double().numpy())
        found[name] = asdict(critic_metrics.separation(*q))
    return found


def _disagreement(
    critic: Critic, batch: ChunkBatch, episode: np.ndarray, seed: int
) -> dict[str, Any]:
    if len(critic(batch.obs[:1], batch.action[:1])) < 2:
        return {"absent": "the ensemble has one member"}
    return critic_metrics.disagreement(critic, batch.obs, batch.action, episode, seed)


def _guidance(model: Model, batch: ChunkBatch, seed: int) -> dict[str, Any]:
    obs = batch.seen_by_flow[:PATHS]
    noise = torch.randn(
        (len(obs), batch.action.shape[1]), generator=torch.Generator().manual_seed(seed + 2)
    )
    path = model.path(obs, noise)
    velocity = torch.stack([v for _, v in path])
    gradient = torch.stack([model.gradient("qgf", obs, a, k) for k, (a, _) in enumerate(path)])
    rms = {
        name: float(x.square().mean().sqrt())
        for name, x in (("velocity_rms", velocity), ("gradient_rms", gradient))
    }
    return rms | {"ratio": rms["gradient_rms"] / max(rms["velocity_rms"], 1e-30)}


def _row(name: str, step: Mapping[str, Any]) -> tuple[str, ...]:
    values = (f"{step[k]['mean']:.3f}" for k in ("policy", "single", "repeat", "linear"))
    against = (step[f"policy_less_{k}"] for k in ("repeat", "linear"))
    return (name, *values, *(f"{d['policy_is']} {_ends(d)}" for d in against))


def _lines(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every figure but the prediction."""
    for name, value in document.items():
        if "absent" in value:
            yield name, f"not known: {value['absent']}"
        elif "mean" in value:
            yield name, _text(value)
        elif name != "prediction":
            inside = {part: inner for part, inner in value.items() if part != "each"}
            for camera, parts in value.get("each", {}).items():
                inside |= {f"{camera}: {part}": inner for part, inner in parts.items()}
            for part, inner in inside.items():
                if isinstance(inner, Mapping):
                    yield f"{name}: {part}", _text(inner)
                elif isinstance(inner, float):
                    yield f"{name}: {part}", f"{inner:.3g}"


def _text(value: Mapping[str, Any]) -> str:
    return f"{_number(value['mean']):.3g} {_ends(value)}"


def _ends(value: Mapping[str, Any]) -> str:
    low, high = _number(value["low"]), _number(value["high"])
    return "(no interval)" if low != low or high != high else f"[{low:.3g}, {high:.3g}]"


def _number(value: Any) -> float:
    """As it was before it was made plain."""
    return math.nan if value is None else float(value)
