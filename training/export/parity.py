"""Is a sampler the reference? The check that every backend has to pass, on the user's own policy.

A sampler is held to the reference in float64: the error of every normalised action is at most
1e-5 * (1 + w), on fresh inputs, for several beta and batch sizes, without guards and with each of
them and committed actions. Samples that float32 cannot decide are left out and counted: where two
ensemble members tie, min may take the other one; at its edge a guard may take hold or not; and
where guidance is too strong for the critic's curvature (w * lambda / T > 2, see method), or a flow
turns away sharply, the last digit grows until the reference sampler itself, in float32, is somewhere
else. What error is left is float32's own, see docs/design.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from qgf_ros.guidance import protocols as base
from qgf_ros.guidance.protocols import UNGUARDED, Sampler
from qgf_ros.policy.folder import Policy
from training.guards import Guards
from training.learn.models import Critic, VelocityField
from training.sampling import sample

TOLERANCE = 1e-5  # times (1 + w)
TIE = 1e-5  # of Q: members closer than this may swap
BATCHES = (1, 2, 5, 16)
ROUNDS = 6  # fresh inputs per beta and batch size
KINDS = ("support", "disagreement", "ratio_cap", "skip_first", "last", "only", "committed", "all")
GUARDED = 5  # batch size at which guards are compared, one round for each kind
UNDECIDED = 0.1  # of the tolerance: by this the reference differs from itself in float32
NUDGES = tuple(k * 2.0**-23 for k in (0, 1, -1, 2, -2))  # of the noise, last digits
LARGEST_SHARE = 0.05  # of guided samples, and of the others, that may be left out as undecided


def networks(policy: Policy, dtype: torch.dtype = torch.float32) -> tuple[VelocityField, Critic]:
    """The policy's networks, ready to run."""
    d = policy.description
    velocity = VelocityField(policy.obs_dim, policy.flat_dim, d.flow_network.hidden)
    critic = Critic(
        policy.obs_dim, policy.flat_dim, d.critic.hidden, d.critic.members, d.critic.output
    )
    for net, tensors in ((velocity, policy.velocity), (critic, policy.critic)):
        net.mlp.load_state_dict(
            {k: torch.from_numpy(v) for k, v in tensors.items() if k != "time_embedding"}
        )
        net.requires_grad_(False).to(dtype)
    return velocity, critic


@dataclass(frozen=True)
class Parity:
    """How far a sampler is from the reference."""

    largest_error: float  # of normalised action / (1e-5 * (1 + w)); 1 is the tolerance
    samples: int
    ties_left_out: int  # or undecided for another reason


def parity(policy: Policy, *samplers: Sampler, seed: int = 0) -> list[Parity]:
    """Compares samplers of the policy with the reference, all with the same inputs.

    Guards are set so that they take hold of some samples of the first one.
    """
    reference, tallies = Reference(policy), [_Tally() for _ in samplers]
    asked = list(cases(policy, samplers[0], np.random.default_rng([20265, seed])))
    for case, (theirs, tied) in zip(asked, reference.each(asked), strict=True):
        apart: np.ndarray | None = None
        for sampler, tally in zip(samplers, tallies):
            ours = sampler(case.obs, case.noise, case.weight, case.guards, case.committed).action
            error, chaotic = row_errors(ours, theirs, case.weight), np.zeros(len(tied), bool)
            if not (error[~tied] <= 1).all():
                apart = reference.apart(case, theirs) if apart is None else apart
                chaotic = ~tied & (error > 1) & (apart > UNDECIDED)
            tally.add(case.weight > 0, error, tied, chaotic)
    return [tally.result() for tally in tallies]


@dataclass(frozen=True)
class Case:
    """What is asked of a sampler."""

    obs: np.ndarray  # (O,); for the reference also (N, O)
    noise: np.ndarray  # (N, D)
    weight: float
    guards: base.Guards = UNGUARDED
    committed: np.ndarray | None = None


class Reference:
    """`training.sampling` of a policy, in any precision."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._networks = {t: networks(policy, t) for t in (torch.float32, torch.float64)}
        self._times = torch.from_numpy(policy.velocity["time_embedding"])

    def __call__(self, case: Case, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        """-> actions (N, D) in float64, and (N,) which rows came near a tie that may decide."""
        return self._together([case], dtype)[0]

    def each(self, cases: Sequence[Case]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same of each case, in float64. Those of the same guards and committed actions are one
        batch: most of the time of a small one is not arithmetic."""
        batches: defaultdict[Any, list[int]] = defaultdict(list)
        for i, case in enumerate(cases):
            held = None if case.committed is None else case.committed.tobytes()
            batches[case.guards, held].append(i)
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in batches.values():
            drawn = self._together([cases[i] for i in batch], torch.float64)
            found |= zip(batch, drawn, strict=True)
        return [found[i] for i in range(len(cases))]

    def apart(self, case: Case, actions: np.ndarray) -> np.ndarray:
        """(N,): the error of the reference itself, in float32, where the noise's last digits change."""
        nudged = [replace(case, noise=case.noise * np.float32(1 + scale)) for scale in NUDGES]
        singles = self._together(nudged, torch.float32)  # one run in float32 may be lucky
        return np.max([row_errors(a, actions, case.weight) for a, _ in singles], axis=0)

    def _together(
        self, cases: Sequence[Case], dtype: torch.dtype
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cases that differ in observations, noise and weight alone, as one batch."""
        d, (velocity, critic) = self._policy.description, self._networks[dtype]
        watch, sizes = TieWatch(critic), [len(case.noise) for case in cases]
        obs = [np.broadcast_to(c.obs, (n, c.obs.shape[-1])) for c, n in zip(cases, sizes)]
        noise = torch.from_numpy(np.concatenate([case.noise for case in cases])).to(dtype)
        weight = np.repeat(np.array([case.weight for case in cases], np.float32), sizes)
        held = cases[0].committed
        drawn = sample(
            velocity, watch, torch.from_numpy(np.concatenate(obs)).to(dtype), noise,
            torch.from_numpy(weight).to(dtype), steps=d.flow.denoise_steps,
            aggregation=d.returns.aggregation, times=self._times,
            guards=Guards.of(cases[0].guards, self._policy),
            committed=None if held is None else torch.from_numpy(held.ravel()),
        )  # fmt: skip
        decisive = (d.returns.aggregation == "min") & (weight > 0)
        ends = np.cumsum(sizes)[:-1]
        actions = np.split(drawn.action.double().numpy(), ends)
        return list(zip(actions, np.split(watch.tied.numpy() & decisive, ends), strict=True))


class TieWatch:
    """A critic that remembers which rows came near a tie of its two smallest members."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic
        self.tied = torch.zeros(0, dtype=torch.bool)

    def __call__(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q = self._critic(obs, action)
        near = torch.zeros(len(action), dtype=torch.bool)
        if len(q) > 1:
            two = q.detach().topk(2, dim=0, largest=False).values
            near = two[1] - two[0] < TIE
        self.tied = near if len(self.tied) != len(near) else self.tied | near
        return q


@dataclass
class _Tally:
    worst: float = 0.0
    samples: int = 0
    left_out: int = 0
    compared: Counter[bool] = field(default_factory=Counter)  # guided or not
    undecided: Counter[bool] = field(default_factory=Counter)

    def add(self, guided: bool, error: np.ndarray, tied: np.ndarray, chaotic: np.ndarray) -> None:
        """(N,) each: the error in units of the tolerance, and what is left out for two reasons."""
        kept = ~(tied | chaotic)
        worst = np.nan_to_num(error[kept], nan=np.inf).max(initial=0.0)
        self.worst = max(self.worst, float(worst))
        self.samples += len(error)
        self.left_out += int((~kept).sum())
        self.compared[guided] += int(kept.sum())
        self.undecided[guided] += int(chaotic.sum())

    def result(self) -> Parity:
        """Infinitely far where nothing, or too little, was shown."""
        decided = all(
            self.compared[guided]
            and self.undecided[guided]
            <= LARGEST_SHARE * (self.compared[guided] + self.undecided[guided])
            for guided in (False, True)
        )
        worst = self.worst if decided else float("inf")
        return Parity(worst, self.samples, self.left_out)


def cases(policy: Policy, probe: Sampler, rng: np.random.Generator) -> Iterator[Case]:
    """What `parity` asks, in its order."""
    floor = min(policy.description.beta.min, 1.0)
    for weight in (0.0, 0.1 / floor, 0.3 / floor, 1 / floor):
        for batch in BATCHES:
            for kind in (*("plain",) * ROUNDS, *(KINDS if batch == GUARDED else ())):
                obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
                noise = rng.standard_normal((batch, policy.flat_dim)).astype(np.float32)
                how = {}
                if kind != "plain":
                    how = _guarded(kind, policy, probe(obs, noise, weight), rng)
                yield Case(obs, noise, weight, **how)


def _guarded(
    kind: str, policy: Policy, probe: base.Sample, rng: np.random.Generator
) -> dict[str, Any]:
    """One guard, committed actions, or all of them, set so that they take hold of some rows of
    `probe`, the same sample without. What a policy has no room for is off."""
    d, names, every = policy.description, policy.contract.learnt_names, kind == "all"
    on: dict[str, dict[str, Any]] = {
        "support": {"support": d.support is not None},
        "disagreement": {"disagreement": float(np.median(probe.q_std))},
        "ratio_cap": {"ratio_cap": float(np.median(probe.guidance_ratio))},
        "skip_first": {"skip_first": d.flow.denoise_steps // 2},
        "last": {"last": d.flow.denoise_steps // 2},
        "only": {"only": names[:1]},
    }
    if d.critic.members < 2:
        del on["disagreement"]
    fields = [values for name, values in on.items() if every or name == kind]
    committed = None
    if kind in ("committed", "all") and policy.horizon > 1:
        committed = rng.uniform(-1, 1, (1, policy.action_dim)).astype(np.float32)
    guards = base.Guards(**{k: v for group in fields for k, v in group.items()})
    return {"guards": guards, "committed": committed}


def row_errors(action: np.ndarray, reference: np.ndarray, weight: float) -> np.ndarray:
    """(N,): largest difference of each row, in units of the tolerance."""
    return np.asarray(np.abs(action - reference).max(axis=1) / (TOLERANCE * (1 + weight)))
