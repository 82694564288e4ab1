"""policy folder -> sampler.onnx, with its parity check.

The exported sampler is held to the reference in float64: the error of every normalised action is
at most 1e-5 * (1 + w), on fresh inputs, for several beta and batch sizes, without guards and with
each of them and committed actions. Samples that float32 cannot decide are left out and counted:
where two ensemble members tie, min may take the other one; at its edge a guard may take hold or
not; and where guidance is too strong for the critic's curvature (w * lambda / T > 2, see method)
the last digit grows until the reference sampler itself, in float32, is somewhere else.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from qgf_ros.errors import CriterionNotMet
from qgf_ros.policy import SAMPLER, Export, Policy, load_policy, write_policy
from qgf_ros.sampler import base
from qgf_ros.sampler.base import UNGUARDED
from qgf_ros.sampler.ort import OnnxSampler
from training.explicit import GuidedSampler, export_onnx
from training.guards import Guards
from training.models import Critic, VelocityField
from training.sampling import sample

TOLERANCE = 1e-5  # times (1 + w)
TIE = 1e-5  # of Q: members closer than this may swap
BATCHES = (1, 2, 5, 16)
ROUNDS = 6  # fresh inputs per beta and batch size
KINDS = ("support", "disagreement", "ratio_cap", "skip_first", "last", "only", "committed", "all")
GUARDED = 5  # batch size at which guards are compared, one round for each kind
UNDECIDED = 0.1  # of the tolerance: by this the reference differs from itself in float32
NUDGES = tuple(k * 2.0**-23 for k in (0, 1, -1, 2, -2))  # of the noise, last digits
LARGEST_SHARE = 0.05  # of guided samples that may be left out as undecided


def networks(policy: Policy, dtype: torch.dtype = torch.float32) -> tuple[VelocityField, Critic]:
    """The policy's networks, ready to run."""
    d = policy.description
    velocity = VelocityField(policy.obs_dim, policy.flat_dim, d.velocity.hidden)
    critic = Critic(
        policy.obs_dim, policy.flat_dim, d.critic.hidden, d.critic.members, d.critic.output
    )
    for net, tensors in ((velocity, policy.velocity), (critic, policy.critic)):
        net.mlp.load_state_dict(
            {k: torch.from_numpy(v) for k, v in tensors.items() if k != "time_embedding"}
        )
        net.requires_grad_(False).to(dtype)
    return velocity, critic


def export(folder: Path) -> Export:
    """Writes sampler.onnx and the result of the parity check into the policy folder.

    Raises:
        PolicyRefused: the folder is not a sound policy.
        CriterionNotMet: parity failed; the folder is left as it was.
    """
    policy = load_policy(folder)
    velocity, critic = networks(policy)
    d = policy.description
    times = torch.from_numpy(policy.velocity["time_embedding"])
    module = GuidedSampler(velocity, critic, d.flow.denoise_steps, d.returns.aggregation, times)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SAMPLER
        export_onnx(module, path)
        onnx = path.read_bytes()
    result = parity(replace(policy, onnx=onnx))
    if not result.largest_error <= 1:
        raise CriterionNotMet(
            f"{folder}: the exported sampler differs by {result.largest_error:.2f} times the tolerance of "
            f"{TOLERANCE:g} * (1 + w); nothing was written. A larger beta floor or another network may help"
        )
    tensors = {d.velocity.file: policy.velocity, d.critic.file: policy.critic}
    write_policy(folder, replace(d, export=result), tensors, {SAMPLER: onnx})
    return result


def parity(policy: Policy, seed: int = 0) -> Export:
    """Compares `policy.onnx` with the reference sampler in float64."""
    sampler = OnnxSampler(policy, "cpu")
    critics = {dtype: networks(policy, dtype) for dtype in (torch.float32, torch.float64)}
    d = policy.description
    times = torch.from_numpy(policy.velocity["time_embedding"])

    def reference(obs: np.ndarray, noise: np.ndarray, weight: float, case: Case, dtype: Any) -> Any:
        """-> actions in float64, and which rows came near a tie."""
        velocity, critic = critics[dtype]
        watch = TieWatch(critic)
        rows = torch.from_numpy(obs).to(dtype).expand(len(noise), -1)
        drawn = sample(
            velocity, watch, rows, torch.from_numpy(noise).to(dtype), float(np.float32(weight)),
            steps=d.flow.denoise_steps, aggregation=d.returns.aggregation, times=times,
            guards=Guards.of(case.guards, policy),
            committed=None if case.committed is None else torch.from_numpy(case.committed.ravel()),
        )  # fmt: skip
        return drawn.action.double().numpy(), watch.tied.numpy()

    rng = np.random.default_rng([20265, seed])
    floor = min(d.beta.min, 1.0)
    weights = (0.0, 0.1 / floor, 0.3 / floor, 1 / floor)
    worst, samples, left_out, compared, undecided = 0.0, 0, 0, 0, 0
    for weight in weights:
        for batch in BATCHES:
            for kind in (*("plain",) * ROUNDS, *(KINDS if batch == GUARDED else ())):
                obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
                noise = rng.standard_normal((batch, policy.flat_dim)).astype(np.float32)
                case = _case(kind, policy, sampler(obs, noise, weight), rng)
                ours = sampler(obs, noise, weight, case.guards, case.committed).action
                theirs, tied = reference(obs, noise, weight, case, torch.float64)
                out = np.zeros(batch, bool)
                if d.returns.aggregation == "min" and weight > 0:
                    out = tied
                error = _error(ours, theirs, weight)
                if weight > 0 and not (error[~out] <= 1).all():
                    apart = np.zeros(batch)
                    for scale in NUDGES:  # one run in float32 may be lucky
                        nudged = noise * np.float32(1 + scale)
                        single, _ = reference(obs, nudged, weight, case, torch.float32)
                        apart = np.maximum(apart, _error(single, theirs, weight))
                    chaotic = ~out & (error > 1) & (apart > UNDECIDED)
                    undecided += int(chaotic.sum())
                    out = out | chaotic
                worst = max(worst, float(np.nan_to_num(error[~out], nan=np.inf).max(initial=0.0)))
                samples, left_out = samples + batch, left_out + int(out.sum())
                compared += int((~out).sum()) * (weight > 0)
    if not compared or undecided > LARGEST_SHARE * (compared + undecided):
        worst = float("inf")  # nothing, or too little, was shown
    return Export(worst, samples, left_out, onnxruntime.__version__)


@dataclass(frozen=True)
class Case:
    """What is asked of the sampler beside the weight."""

    guards: base.Guards = UNGUARDED
    committed: np.ndarray | None = None


def _case(kind: str, policy: Policy, probe: base.Sample, rng: np.random.Generator) -> Case:
    """One guard, committed actions, or all of them, set so that they take hold of some rows of
    `probe`, the same sample without. What a policy has no room for is off."""
    d, names, every = policy.description, policy.contract.action_names, kind == "all"
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
    return Case(base.Guards(**{k: v for group in fields for k, v in group.items()}), committed)


def _error(action: np.ndarray, reference: np.ndarray, weight: float) -> np.ndarray:
    """(N,): largest difference of each row, in units of the tolerance."""
    return np.abs(action - reference).max(axis=1) / (TOLERANCE * (1 + weight))


class TieWatch:
    """A critic that remembers which rows came near a tie of its two smallest members."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic
        self.tied = torch.zeros(0, dtype=torch.bool)

    def __call__(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q = self._critic(obs, action)
        if len(q) > 1:
            two = q.detach().topk(2, dim=0, largest=False).values
            near = two[1] - two[0] < TIE
            self.tied = near if len(self.tied) != len(near) else self.tied | near
        return q
