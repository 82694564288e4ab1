"""policy folder -> sampler.onnx, with its parity check.

The exported sampler is held to the reference in float64: the error of every normalised action is
at most 1e-5 * (1 + w), on fresh inputs, for several beta and batch sizes. Where two ensemble
members tie, min may take the other one; such samples are left out and counted.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from qgf_ros.errors import CriterionNotMet
from qgf_ros.policy import SAMPLER, Export, Policy, load_policy, write_policy
from qgf_ros.sampler.ort import OnnxSampler
from training.explicit import GuidedSampler, export_onnx
from training.models import Critic, VelocityField
from training.sampling import sample

TOLERANCE = 1e-5  # times (1 + w)
TIE = 1e-5  # of Q: members closer than this may swap
BATCHES = (1, 2, 5, 16)
ROUNDS = 6  # fresh inputs per beta and batch size


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
    velocity, critic = networks(policy, torch.float64)
    d = policy.description
    times = torch.from_numpy(policy.velocity["time_embedding"])
    rng = np.random.default_rng([20265, seed])
    floor = min(d.beta.min, 1.0)
    weights = (0.0, 0.1 / floor, 0.3 / floor, 1 / floor)
    worst, samples, left_out, compared = 0.0, 0, 0, 0
    for weight in weights:
        for batch in BATCHES:
            for _ in range(ROUNDS):
                obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
                noise = rng.standard_normal((batch, policy.flat_dim)).astype(np.float32)
                ours = sampler(obs, noise, weight)
                watch = TieWatch(critic)
                rows = torch.from_numpy(obs).double().expand(batch, -1)
                reference = sample(
                    velocity, watch, rows, torch.from_numpy(noise).double(), float(np.float32(weight)),
                    steps=d.flow.denoise_steps, aggregation=d.returns.aggregation, times=times,
                )  # fmt: skip
                tied = np.zeros(batch, bool)
                if d.returns.aggregation == "min" and weight > 0:
                    tied = watch.tied.numpy()
                difference = np.abs(ours.action - reference.action.numpy()).max(axis=1)
                error = difference[~tied] / (TOLERANCE * (1 + weight))
                worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max(initial=0.0)))
                samples, left_out = samples + batch, left_out + int(tied.sum())
                compared += int((~tied).sum()) * (weight > 0)
    if not compared:
        worst = float("inf")  # every guided sample tied: nothing was shown
    return Export(worst, samples, left_out, onnxruntime.__version__)


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
