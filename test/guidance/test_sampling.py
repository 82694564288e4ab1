"""The sampler in numpy, of any velocity field and critic: the authors' vectors, the guards, components
of somebody else's, and what it refuses."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qgf_nets import policy_of

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.guards import guards_of
from qgf_ros.guidance.protocols import Guards
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.guidance.sampling import NumpySampler, aggregate, aggregate_gradient

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.append(str(GOLDEN))


class Straight:
    """A velocity field that leads to one chunk, whatever the noise: (goal - a) / (1 - t)."""

    def __init__(self, goal):
        self.goal = goal

    def __call__(self, obs, action, time):
        return (self.goal - action) / (1 - time)


class Hill:
    """Two members with peaks of their own; Q = -|a - peak|^2 / 2."""

    def __init__(self, *peaks):
        self.peaks = np.array(peaks)

    def values(self, obs, action):
        return -0.5 * ((action - self.peaks[:, None]) ** 2).sum(-1)

    def gradients(self, obs, action):
        return self.values(obs, action), self.peaks[:, None] - action


@pytest.mark.parametrize("path", sorted((GOLDEN / "data").glob("*.npz")), ids=lambda p: p.stem)
def test_the_authors_vectors(path):
    pytest.importorskip("torch")
    from golden_file import Golden
    from test_golden_native import TOLERANCE, near_ties, policy_from

    golden = Golden(path)
    nets = golden.networks()
    policy = policy_from(golden, nets)
    sampler = NumpySampler(policy)
    obs = golden.get("obs", -1, policy.obs_dim)
    noise = golden.get("noise", len(obs), policy.flat_dim)
    for i, weight in enumerate(golden.get("guidance_weights", -1).tolist()):
        theirs = golden.get(f"sample/qgf/{i}", len(obs), policy.flat_dim).numpy()
        rows = zip(obs.numpy(), noise.numpy())
        ours = np.concatenate([sampler(o, a[None], weight).action for o, a in rows])
        keep = ~near_ties(golden, nets, obs, noise, weight)
        assert keep.mean() > 0.9 and np.abs(ours - theirs)[keep].max() <= TOLERANCE, weight


GUARDS = [
    Guards(),
    Guards(skip_first=1, last=2),
    Guards(only=("commands.a1",)),
    Guards(support=True),
    Guards(disagreement=0.3),
    Guards(ratio_cap=0.05),
    Guards(support=True, disagreement=0.5, ratio_cap=0.2, skip_first=1),
]


@pytest.mark.parametrize("committed", [0, 1])
@pytest.mark.parametrize("guards", GUARDS, ids=str)
@pytest.mark.parametrize("how", ["min", "mean-0.5std"])
def test_guards_and_committed_actions_are_the_native_samplers(how, guards, committed):
    """Every field of the sample: two implementations that share no line."""
    policy = policy_of(aggregation=how, steps=4)
    names = policy.contract.action_names
    guards = replace(guards, only=names[1:] if guards.only else ())
    native = make_sampler(policy, "native")
    rng = np.random.default_rng(3)
    obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
    noise = rng.standard_normal((16, policy.flat_dim)).astype(np.float32)
    held = rng.uniform(-1, 1, (committed, policy.action_dim)).astype(np.float32)
    given = (obs, noise, 2.0, guards, held if committed else None)
    ours, theirs = NumpySampler(policy)(*given), native(*given)
    for name in (
        "action",
        "q",
        "action_unguided",
        "q_unguided",
        "q_std",
        "gradient_norm",
        "guidance_ratio",
    ):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)
    assert (ours.acted == theirs.acted).mean() > 0.9, "at an edge, the last digit decides"
    if guards.support or guards.ratio_cap < 1:
        assert ours.acted.any()


def test_components_of_somebody_elses():
    """Only values of the velocity are asked for. Without guidance it ends where the field leads; with
    it, on the way from there to the peak, by as much as T Euler steps of w (peak - a_hat) give."""
    policy = policy_of(steps=4, members=2)
    goal, flat = np.full(policy.flat_dim, -0.25), policy.flat_dim
    near, far = np.full(flat, 0.5), np.full(flat, 0.9)
    sampler = NumpySampler(policy, Straight(goal), Hill(near, far))
    noise = np.random.default_rng(0).standard_normal((3, flat)).astype(np.float32)
    obs = np.zeros(policy.obs_dim, np.float32)
    free = sampler(obs, noise, 0.0)
    np.testing.assert_allclose(free.action, np.tile(goal, (3, 1)), atol=1e-6)
    assert (free.gradient_norm == 0).all()
    led = sampler(obs, noise, 0.5)
    # a_hat is the goal at every step, and the field takes back all but the last step's push.
    pushed = goal + 0.5 * (far - goal) / 4
    np.testing.assert_allclose(led.action, np.tile(pushed, (3, 1)), atol=1e-6)
    assert (led.q > led.q_unguided).all() and (led.action_unguided == free.action).all()


def test_the_smaller_member_guides_and_the_gradient_is_the_aggregates():
    q, gradients = Hill([0.5], [-0.9]).gradients(np.zeros(1), np.array([[0.2], [-0.5]]))
    for how in ("min", "mean", "mean-1.5std"):
        g, tied = aggregate_gradient(q, gradients, how)
        step = 1e-6
        moved = [
            aggregate(Hill([0.5], [-0.9]).values(np.zeros(1), np.array([[0.2], [-0.5]]) + s), how)
            for s in (step, -step)
        ]
        np.testing.assert_allclose(g[:, 0], (moved[0] - moved[1]) / (2 * step), rtol=1e-5)
        assert not tied.any()
    same = np.ones((2, 1))
    assert aggregate_gradient(same, np.ones((2, 1, 1)), "min")[1].all()


@pytest.mark.parametrize(
    "change",
    [
        dict(obs=np.zeros(3, np.float32)),
        dict(noise=np.zeros((1, 5), np.float32)),
        dict(weight=np.nan),
        dict(weight=-1.0),
        dict(weight=np.inf),
        dict(committed=np.zeros((3, 2), np.float32)),
        dict(committed=np.zeros((1, 3), np.float32)),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(change):
    policy = policy_of()
    given = {
        "obs": np.zeros(policy.obs_dim, np.float32),
        "noise": np.zeros((1, policy.flat_dim), np.float32),
        "weight": 1.0,
    }
    with pytest.raises(ValueError, match="needed|weight is"):
        NumpySampler(policy)(**(given | change))


def test_a_field_of_another_shape_is_an_error_not_a_broadcast():
    policy = policy_of()
    sampler = NumpySampler(policy, lambda obs, action, time: np.zeros(1))
    with pytest.raises(ValueError, match="the velocity field answers with shape"):
        sampler(np.zeros(policy.obs_dim), np.zeros((2, policy.flat_dim)), 1.0)


def test_by_name_and_never_in_silence():
    policy = policy_of()
    sampler = make_sampler(policy, "numpy")
    assert (sampler.backend, sampler.device, sampler.details) == ("numpy", "cpu", "float64")
    d = policy.description
    guards = guards_of(
        {
            "guidance.only": "", "guidance.skip_first": 0, "guidance.last": 0, "guidance.support": True,
            "guidance.disagreement": np.inf, "guidance.ratio_cap": np.inf, "guidance.keep_best": False,
        },
        policy,
    )  # fmt: skip
    drawn = sampler(
        np.zeros(policy.obs_dim), np.ones((1, policy.flat_dim)), 1 / d.beta.default, guards
    )
    assert np.isfinite(drawn.action).all() and drawn.action.dtype == np.float32
    deep = policy_of(velocity=(4,) * 17)
    with pytest.raises(PolicyRefused, match="native sampler does not take it"):
        make_sampler(deep)  # a policy of networks is not left to the slow one
