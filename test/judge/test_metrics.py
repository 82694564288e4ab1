"""The judgement of a policy in a world where everything is known: positions go a tenth of the way to
their goal each period, so every chunk is a linear function of what is observed."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from qgf_make import contract, position_dict
from torch import nn

from qgf_ros.spaces.actions.codec import ActionCodec
from qgf_ros.spaces.normalizer import Normalizer
from training.judge.metrics import MEANING, Nets, judge
from training.learn.config import FitConfig
from training.learn.models import VelocityField
from training.pipeline.chunks import chunks
from training.pipeline.episodes import Episode

OWN = contract(position_dict(horizon=4, execute=4))
CONFIG = FitConfig(discount=0.97)
STEPS = 80
RETURN = 2  # the observed number that, in this world, is the return to go
POSITIONS = slice(0, 2)


def episode(seed, success=True, terminal=True, offset=0.0):
    rng = np.random.default_rng(seed)
    goal = rng.uniform(-1, 1)
    obs = np.zeros((STEPS + 1, 5))
    obs[0, POSITIONS] = rng.uniform(-1, 1, size=2)
    obs[:, 4] = goal
    for k in range(STEPS):
        obs[k + 1, POSITIONS] = 0.9 * obs[k, POSITIONS] + 0.1 * goal
    obs[:-1, RETURN] = success * CONFIG.discount ** np.arange(STEPS - 1, -1, -1)
    obs[:, POSITIONS] += offset
    obs[:, 4] += offset
    reward = np.zeros(STEPS)
    reward[-1] = float(success and terminal)
    return Episode(
        f"e{seed}", obs, obs[1:, POSITIONS], reward, terminal, success if terminal else None
    )


TRAINED = [episode(i, success=i % 3 > 0) for i in range(30)]
HELD = [episode(100 + i, success=i % 3 > 0) for i in range(12)]


def normalizer(episodes=TRAINED, relative=False):
    parts = chunks(episodes, 4, CONFIG.discount)
    reference = OWN.measured_positions if relative else None
    return Normalizer.fit(parts.obs, parts.action, OWN.observation_siblings, reference)


class Exact(nn.Module):
    """The flow whose every sample is what this world does next."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, obs, a, time):
        if time.dim() == 2:  # an embedding: its slowest cosine tells the time
            time = torch.arccos(time[:, 7].clamp(-1, 1)) / 10_000 ** (1 / 8)
        at = self.n.unnormalize_obs(obs.numpy())
        share = 0.9 ** np.arange(1, 5)[:, None]
        chunk = at[:, None, 4:] + share * (at[:, None, POSITIONS] - at[:, None, 4:])
        wanted = torch.from_numpy(self.n.normalize_action(chunk, at)).reshape(len(a), -1)
        return (wanted - a) / (1 - time).clamp_min(1e-6)[:, None]


class Knows(nn.Module):
    """Q is the return, and each member says so; `slope` . a is added."""

    def __init__(self, n, members=2, slope=0.0):
        super().__init__()
        self.n, self.members, self.slope = n, members, slope

    def forward(self, obs, action):
        q = obs[:, RETURN] * self.n.obs_std[RETURN] + self.n.obs_mean[RETURN]
        return (q + self.slope * action.sum(-1)).float().expand(self.members, -1)


def judged(n=None, velocity=None, critic=None, held=HELD, trained=TRAINED, **changes):
    n = n or normalizer(trained)
    critic = critic or Knows(n)
    nets = Nets(velocity or Exact(n), critic, lambda b: critic(b.obs, b.action)[0])
    return judge(nets, ActionCodec(OWN, n), 1.0, OWN, trained, held, CONFIG, **changes).document


@pytest.fixture(scope="module")
def perfect():
    return judged()


def test_a_perfect_policy_has_no_error_and_beats_repeating_the_state(perfect):
    found = perfect["prediction"]
    assert found["chunks"] == 12 * STEPS and found["episodes"] == 12
    for step in found["steps"]:
        assert step["policy"]["mean"] < 0.03 < step["repeat"]["mean"]
        assert step["single"]["mean"] == pytest.approx(step["policy"]["mean"], abs=1e-4)
        assert step["policy_less_repeat"]["policy_is"] == "better"


def test_the_linear_model_is_as_good_in_a_linear_world(perfect):
    assert perfect["prediction"]["overall"]["linear"]["mean"] < 0.03


def test_repeat_falls_behind_with_every_step_by_as_much_as_the_robot_moves(perfect):
    """In its own unit: the positions move to (1 - 0.9^i) of what is left of the way."""
    at = np.concatenate([e.obs[:-1, 0] - e.obs[:-1, 4] for e in HELD])
    found = perfect["prediction"]["joints"]["arm.a"]["steps"]["repeat"]
    for i, step in enumerate(found, 1):
        assert step["mean"] == pytest.approx((1 - 0.9**i) * np.sqrt((at**2).mean()), rel=0.03)


def test_a_policy_that_learnt_nothing_is_worse_than_both():
    torch.manual_seed(0)
    overall = judged(velocity=VelocityField(5, 8, (16,)))["prediction"]["overall"]
    assert overall["policy_less_repeat"]["policy_is"] == "worse"
    assert overall["policy_less_linear"]["policy_is"] == "worse"
    assert overall["single"]["mean"] > overall["policy"]["mean"]


def test_a_critic_that_says_the_return(perfect):
    for name, value in (("slope", 1), ("intercept", 0), ("bias", 0), ("spearman", 1)):
        assert perfect["calibration"][name]["mean"] == pytest.approx(value, abs=1e-4), name
    assert perfect["td_error"]["mean"] == pytest.approx(0, abs=1e-6)
    for moment in ("start", "middle"):
        assert perfect["separation"][moment]["mean"] == 1
        assert 0.3 < perfect["separation"][moment]["low"] < 1
    assert (perfect["separation"]["succeeded"], perfect["separation"]["failed"]) == (8, 4)


def test_the_flow_loss_of_an_exact_flow_is_nothing(perfect):
    assert perfect["flow_loss"]["mean"] < 1e-3
    assert perfect["beyond_range"]["mean"] < 0.05


def test_poses_that_no_demonstration_had_are_beyond_an_absolute_policy_and_not_a_relative_one():
    moved = [episode(200 + i, offset=5.0) for i in range(6)]
    absolute = judged(held=moved)
    relative = judged(normalizer(relative=True), held=moved)
    assert absolute["beyond_range"]["mean"] > 0.9
    assert absolute["prediction"]["overall"]["policy_less_repeat"]["policy_is"] == "worse"
    assert relative["beyond_range"]["mean"] < 0.05
    assert relative["prediction"]["overall"]["policy_less_repeat"]["policy_is"] == "better"


def test_the_episode_that_spoils_the_mean_is_named():
    odd = episode(300, offset=5.0)
    worst = judged(held=[*HELD, odd])["prediction"]["worst_episodes"]
    assert worst[0]["name"] == odd.name and worst[0]["policy"] > 10 * worst[1]["policy"]


def test_the_gradient_and_the_flow_are_measured_along_the_samples():
    n = normalizer()
    guidance = judged(n, critic=Knows(n, slope=0.25))["guidance"]
    assert guidance["gradient_rms"] == pytest.approx(0.25, rel=1e-5)
    assert guidance["velocity_rms"] > 0.5
    assert guidance["ratio"] == pytest.approx(0.25 / guidance["velocity_rms"])


@pytest.mark.parametrize(
    "figure,reason,change",
    [
        ("separation", "failure", {"held": [e for e in HELD if e.success]}),
        ("separation", "success", {"held": [e for e in HELD if not e.success]}),
        ("calibration", "ended", {"held": [episode(i, terminal=False) for i in range(4)]}),
        ("disagreement", "one member", {"critic": Knows(normalizer(), members=1)}),
    ],
)
def test_what_the_data_cannot_say_is_left_out_with_the_reason(figure, reason, change):
    found = judged(**change)[figure]
    assert reason in found["absent"] and set(found) == {"absent", "meaning"}


def test_the_document_is_json_and_says_what_a_large_value_means(perfect):
    alone = judged(held=HELD[:1])  # no intervals
    for document in (perfect, alone):
        json.dumps(document, allow_nan=False)
        assert set(document) == set(MEANING)
        assert all(len(figure["meaning"]) > 40 for figure in document.values())
    assert alone["prediction"]["overall"]["policy"]["low"] is None
    assert alone["prediction"]["overall"]["policy_less_repeat"]["policy_is"] == "undecided"


def test_same_seed_same_figures(perfect):
    assert judged() == perfect


def test_tables_for_a_person(perfect, capsys):
    from training.judge.metrics import Judgement

    Judgement(perfect).show()
    shown = capsys.readouterr().err
    assert "beats repeat" in shown and "better [-" in shown and "calibration: slope" in shown
    assert shown.count("better [-") >= 5


def test_goals_are_drawn_as_in_training(perfect):
    value = position_dict(horizon=4, execute=4)
    value["outcome"] = {
        "objective": "reach_goal",
        "goal": {"observation": "goal", "achieved": ["joints.position.a"], "radius": 0.05},
    }
    n = normalizer()
    nets = Nets(Exact(n), Knows(n), lambda b: b.reward)

    def found(share):
        config = replace(CONFIG, flow_future_goals=share)
        own = contract(value)
        return judge(nets, ActionCodec(own, n), 1.0, own, TRAINED, HELD, config).document

    recorded, hindsight = found(0.0), found(1.0)
    # Told of another goal than the one that was followed, the exact flow goes there instead.
    error = [d["prediction"]["overall"]["policy"]["mean"] for d in (perfect, recorded, hindsight)]
    assert error[0] == pytest.approx(error[1], rel=0.2) and error[2] > 1.4 * error[1]
    assert math.isfinite(hindsight["calibration"]["slope"]["mean"])
