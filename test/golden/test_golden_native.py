"""The native sampler on the golden vectors of the authors' code."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qgf_nets import policy_of

from qgf_ros.guidance.backends.native import NativeSampler, isas
from training.learn.models import time_table
from training.sampling import sample

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

from golden_file import Golden  # noqa: E402

FILES = sorted((HERE / "data").glob("*.npz"))
TOLERANCE, TIE = 1e-4, 1e-5


def policy_from(golden, nets):
    a = golden.architecture
    plain = policy_of(
        a.obs_dim, a.horizon, a.action_dim, a.hidden, a.hidden, len(nets["target_critic"].mlp.norms[0].weight),
        golden.steps, golden.config.aggregation,
    )  # fmt: skip
    velocity, critic = (
        {k: v.detach().numpy() for k, v in nets[name].mlp.state_dict().items()}
        for name in ("policy", "target_critic")
    )
    velocity["time_embedding"] = time_table(golden.steps).numpy()
    return replace(plain, velocity=velocity, critic=critic)


def near_ties(golden, nets, obs, noise, weight):
    """(B,): where min may take either member."""
    gaps = []

    def critic(rows, action):
        q = nets["target_critic"](rows, action)
        if len(q) > 1:
            two = q.detach().sort(dim=0).values
            gaps.append((two[1] - two[0]) < TIE)
        return q

    sample(
        nets["policy"], critic, obs, noise, weight,
        steps=golden.steps, aggregation=golden.config.aggregation,
    )  # fmt: skip
    tied = torch.stack(gaps).any(dim=0) if gaps else torch.zeros(len(obs), dtype=torch.bool)
    return tied.numpy() & (weight > 0) & (golden.config.aggregation == "min")


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_vectors(path, isa):
    golden = Golden(path)
    nets = golden.networks()
    policy = policy_from(golden, nets)
    sampler = NativeSampler(policy, isa=isa)
    obs = golden.get("obs", -1, policy.obs_dim)
    noise = golden.get("noise", len(obs), policy.flat_dim)
    for i, weight in enumerate(golden.get("guidance_weights", -1).tolist()):
        theirs = golden.get(f"sample/qgf/{i}", len(obs), policy.flat_dim).numpy()
        rows = zip(obs.numpy(), noise.numpy())
        ours = np.concatenate([sampler(o, a[None], weight).action for o, a in rows])
        keep = ~near_ties(golden, nets, obs, noise, weight)
        assert keep.mean() > 0.9
        assert np.abs(ours - theirs)[keep].max() <= TOLERANCE, weight
