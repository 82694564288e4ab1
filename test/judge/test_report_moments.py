"""What the report says of moments: chosen with reason, and computed as the sampler computes."""

import math

import pytest
import torch
from qgf_report import STEPS, subject

from qgf_ros.console import plain
from training.export.parity import networks
from training.judge.analysis.base import States
from training.judge.analysis.reach import distance, nearest
from training.judge.panels.timeline.figures import CLOUD
from training.judge.panels.timeline.figures import figures as timeline
from training.judge.panels.timeline.landscape import _bump
from training.learn.models import aggregate
from training.sampling import sample


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return subject(tmp_path_factory.mktemp("moments") / "policy")


@pytest.fixture(scope="module")
def told(some):
    return plain(timeline(some))


def test_episodes_of_both_outcomes_stand_first(some, told):
    assert [e["outcome"] for e in told["episodes"]] == ["success"] * 4 + ["failure"] * 4
    reported = {some.episodes[i].name for i in some.report.rows}
    assert {e["name"] for e in told["episodes"]} <= reported


def test_numbers_are_those_of_the_reference_sampler(some, told):
    """Sampled anew in float64, by other means than the report's."""
    policy, horizon = some.policy, some.policy.horizon
    episode = told["episodes"][5]
    moment = episode["moments"][2]
    tick = episode["tick"][moment["at"]]
    source = next(e for e in some.episodes if e.name == episode["name"])
    obs = torch.from_numpy(policy.normalizer.normalize_obs(source.obs[None, tick])).double()
    done = policy.normalizer.normalize_action(
        source.action[None, tick : tick + horizon], source.obs[None, tick]
    )
    velocity, critic = networks(policy, torch.float64)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(CLOUD, policy.flat_dim, generator=random)[:3].double()

    def drawn(beta, way="qgf"):
        return sample(
            velocity, critic, obs.expand(3, -1), noise, 1 / beta, steps=STEPS, estimator=way,
            times=torch.from_numpy(policy.velocity["time_embedding"]),
        )  # fmt: skip

    chunks = {
        "recorded": torch.from_numpy(done).double().view(1, -1),
        "unguided": drawn(math.inf).action[:1],
        "guided": drawn(told["beta"]).action[:1],
    }
    states = States(
        obs.float(), chunks["recorded"].float(), torch.tensor([some.episodes.index(source)])
    )
    near = nearest(states, some.report.held.recorded).double()
    for name, chunk in chunks.items():
        q = aggregate(critic(obs, chunk), "min").item()
        assert moment["marks"][name]["q"] == pytest.approx(q, abs=1e-4)
        assert episode[name]["q"][moment["at"]] == pytest.approx(q, abs=1e-4)
        away = distance(chunk, near).item()
        assert moment["marks"][name]["distance"] == pytest.approx(away, abs=1e-3)
    for w, way in enumerate(("qgf", "ood")):
        for s, stop in enumerate(told["stops"]):
            ours = drawn(math.inf if stop["beta"] == "inf" else stop["beta"], way)
            assert moment["paths"]["q"][w][s] == pytest.approx(ours.q.tolist(), abs=1e-3)
            away = distance(ours.action, near.expand(3, -1, -1)).tolist()
            assert moment["paths"]["distance"][w][s] == pytest.approx(away, abs=1e-3)


def test_a_false_peak_is_marked_where_there_is_one():
    """The same square with a peak off the data, without, and with a rise to the edge."""
    x = torch.linspace(-1, 1, 21)
    places = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
    away = places.norm(dim=-1)

    def at(height, *centre):
        gap = places - torch.tensor(centre)
        return height * torch.exp(-gap.square().sum(-1) / 0.05)

    peak = _bump(places, at(1, 0, 0) + at(2, 0.6, -0.5), away, 0.4)
    assert peak["peak"] and (peak["x"], peak["y"]) == pytest.approx((0.6, -0.5), abs=1e-5)
    assert peak["q"] == pytest.approx(2, abs=0.01) and peak["distance"] > 0.4
    assert _bump(places, at(1, 0, 0) + at(0.9, 0.6, -0.5), away, 0.4) is None
    rise = _bump(places, places[..., 0], away, 0.4)
    assert not rise["peak"] and rise["x"] == 1
    assert _bump(places, places[..., 0], away, math.nan) is None


def test_a_critic_without_gradient_leads_nowhere(tmp_path):
    found = timeline(subject(tmp_path / "policy", flat_critic=True, count=4))
    for episode in found["episodes"]:
        for moment in episode["moments"]:
            assert [axis["to"] for axis in moment["axes"]] == ["spread", "spread"]
            assert moment["bump"] is None and moment["q"]["low"] == moment["q"]["high"] == 0


def test_a_chunk_of_one_number_is_no_plane(tmp_path):
    """Episodes of two ticks, seen along the one direction that there is."""
    found = timeline(subject(tmp_path / "policy", joints=("a",), horizon=1, ticks=2, count=4))
    for episode in found["episodes"]:
        for moment in episode["moments"]:
            assert [axis["to"] for axis in moment["axes"]][1] == "none"
            assert moment["marks"]["recorded"]["off"] == moment["marks"]["recorded"]["y"] == 0
