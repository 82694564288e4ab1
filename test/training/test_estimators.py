"""The estimators are the gradients they say, and the guards do what they say and no more.

Finite differences in float64 for what is differentiated; the ODE's own solution for the point
at which Q is asked; the published loop, written out, for the sampler without guards.
"""

import math

import pytest
import torch
from torch import Tensor

from training import estimators
from training.estimators import Step
from training.guards import Box, Guards, capped, within_support
from training.lab import testbed
from training.learn.models import Critic, VelocityField, aggregate, time_table
from training.sampling import sample


def nets(obs_dim=5, D=4, hidden=(16, 16), members=2, seed=0):
    torch.manual_seed(seed)
    velocity, critic = VelocityField(obs_dim, D, hidden), Critic(obs_dim, D, hidden, members)
    for p in (*velocity.parameters(), *critic.parameters()):
        p.data.add_(0.1 * torch.randn_like(p))
    return velocity, critic


def step_at(k, T=10, rows=8, aggregation="min", speed=1.0, bound=1.0, spread=0.3):
    """A Step of small random nets in float64, with `v` a constant as the sampler has it."""
    velocity, critic = (net.double() for net in nets(members=3))
    obs = torch.randn(rows, 5, dtype=torch.float64)
    a = spread * torch.randn(rows, 4, dtype=torch.float64)
    table = time_table(T)

    def flow(x: Tensor, k: int) -> Tensor:
        return speed * velocity(obs, x, table[k].expand(len(x), -1))

    def q(x: Tensor) -> Tensor:
        return aggregate(critic(obs, x), aggregation)

    return Step(flow, q, a, flow(a, k).detach(), k, T, bound)


def one_step(step, a):
    return (a + (1 - step.k / step.steps) * step.velocity(a, step.k)).clamp(-1, 1)


def all_steps(step, a):
    for k in range(step.k, step.steps):
        a = a + step.velocity(a, k) / step.steps
    return a.clamp(-1, 1)


def differences(function, point, eps=1e-6):
    """Central differences of function: (B, D) -> (B,) at point, each dimension by itself."""
    columns = []
    for d in range(point.shape[1]):
        shift = torch.zeros_like(point)
        shift[:, d] = eps
        columns.append((function(point + shift) - function(point - shift)) / (2 * eps))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("k", [0, 3, 9])
@pytest.mark.parametrize("speed", [1.0, 3.0])  # the second saturates the clip often
@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
@pytest.mark.parametrize("aggregation", ["min", "mean"])
@torch.no_grad()
def test_estimators_are_the_gradients_they_say(estimator, aggregation, speed, k):
    """Against central differences; each says what is differentiated, and at which point."""
    step = step_at(k, aggregation=aggregation, speed=speed)
    function, point = {
        "qgf": (step.q, one_step(step, step.a)),
        "qgf_jacobian": (lambda a: step.q(one_step(step, a)), step.a),
        "qgf_chain": (step.q, all_steps(step, step.a)),
        "bptt": (lambda a: step.q(all_steps(step, a)), step.a),
        "ood": (step.q, step.a),
    }[estimator]
    ours = estimators.get(estimator)(step)
    torch.testing.assert_close(ours, differences(function, point), atol=1e-7, rtol=1e-6)
    assert ours.abs().max() > 1e-3 and not ours.requires_grad and step.a.grad is None


def test_the_clip_at_the_end_masks_bptt_but_not_qgf_chain():
    """Flow far outside the bound, Q linear: the end saturates in every dimension."""
    a = torch.zeros(3, 2)
    step = Step(lambda a, k: 5 + 0 * a, lambda a: a.sum(-1), a, 5 + a, 0, 4)
    assert torch.all(estimators.get("bptt")(step) == 0)
    assert torch.all(estimators.get("qgf_chain")(step) == 1)
    free = Step(step.velocity, step.q, a, 5 + a, 0, 4, bound=math.inf)
    assert torch.all(estimators.get("bptt")(free) == 1)


def asked(step, estimator):
    """The estimator's gradient, and the points at which it took Q."""
    points = []

    def q(a: Tensor) -> Tensor:
        points.append(a.detach())
        return step.q(a)

    watched = Step(step.velocity, q, step.a, step.v, step.k, step.steps, step.bound)
    return estimators.get(estimator)(watched), points


@pytest.mark.parametrize("estimator", ["qgf_chain", "bptt"])
def test_the_chain_asks_q_about_the_unguided_sample_itself(estimator):
    velocity, critic = nets()
    obs, noise = torch.randn(6, 5), torch.randn(6, 4)
    unguided = sample(velocity, critic, obs, noise, 0.0).action
    table = time_table(10)

    def flow(a: Tensor, k: int) -> Tensor:
        return velocity(obs, a, table[k].expand(len(a), -1))

    step = Step(flow, lambda a: critic(obs, a)[0], noise, flow(noise, 0).detach(), 0, 10)
    _, points = asked(step, estimator)
    assert len(points) == 1 and torch.equal(points[0], unguided)


@pytest.mark.parametrize("k", [0, 500, 900])
def test_the_chains_point_is_the_solution_of_the_ode(k):
    """A flow on a line keeps the order of its particles: F_1(a_1) = F_t(a_t), the distributions'
    functions, known in closed form for the testbed. Error of T Euler steps: of order 1/T."""
    T = 1000

    def distribution(a: Tensor, t: float) -> Tensor:
        spread = math.sqrt((1 - t) ** 2 + t**2 * testbed.SIGMA**2)
        return torch.special.ndtr((a - t * testbed.MEANS) / spread).mean(dim=1)

    def flow(a: Tensor, k: int) -> Tensor:
        return testbed.velocity(a, a, torch.full((len(a),), k / T, dtype=torch.float64))

    a = torch.linspace(-2.2, 1.4, 60, dtype=torch.float64)[:, None] * (0.3 + 0.7 * k / T)
    step = Step(flow, lambda a: a[:, 0], a, flow(a, k), k, T, math.inf)
    _, (end,) = asked(step, "qgf_chain")
    gap = (distribution(end, 1.0) - distribution(a, k / T)).abs().max()
    assert gap < 0.005


@pytest.mark.parametrize("left", [1, 3])  # steps left, so t = 1 - left / T
@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_all_agree_with_qgf_as_t_goes_to_1(estimator, left):
    """The gap is at most of order 1 - t, and nothing where one step of the chain is all of it."""
    for T in (10, 100, 1000, 10_000):
        step = step_at(T - left, T, spread=0.2)
        qgf = estimators.get("qgf")(step)
        gap = (estimators.get(estimator)(step) - qgf).norm() / qgf.norm()
        assert gap < 3 * left / T
        if estimator == "qgf" or (estimator == "qgf_chain" and left == 1):
            assert gap < 1e-12
        else:
            assert gap > 1e-7  # another algorithm after all


# The guards.

WHOLE = Guards(support=Box(low=(-1.1,), high=(1.1,)), ratio_cap=1e30)  # on, but never taking hold


def published(velocity, critic, obs, a, w, steps):
    """method.md's loop, written out: what `sample` returned before it had guards."""
    for k, row in enumerate(time_table(steps)):
        with torch.no_grad():
            v = velocity(obs, a, row.expand(len(a), -1))
        a_hat = (a + (1 - k / steps) * v).clamp(-1, 1).requires_grad_()
        g = torch.autograd.grad(critic(obs, a_hat).min(dim=0).values.sum(), a_hat)[0]
        a = a + (v + w * g) / steps
    return a.clamp(-1, 1)


@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guards_do_nothing_when_off(estimator, dtype):
    velocity, critic = (net.to(dtype) for net in nets())
    obs, noise = torch.randn(64, 5, dtype=dtype), torch.randn(64, 4, dtype=dtype)
    before = sample(velocity, critic, obs, noise, 2.0, estimator=estimator)
    if estimator == "qgf":
        assert torch.equal(before.action, published(velocity, critic, obs, noise, 2.0, 10))
    for guards in (None, Guards(), WHOLE):
        now = sample(velocity, critic, obs, noise, 2.0, estimator=estimator, guards=guards)
        for name in before.__dataclass_fields__:
            assert torch.equal(getattr(now, name), getattr(before, name)), (name, guards)


def test_guards_leave_the_unguided_rows_alone():
    velocity, critic = nets()
    obs, noise = torch.randn(4, 5), torch.randn(4, 4)
    guards = Guards(support=Box((-0.1,), (0.1,)), ratio_cap=0.1)
    w = torch.tensor([0.0, 3.0, 0.0, 3.0])
    plain = sample(velocity, critic, obs, noise, w)
    guarded = sample(velocity, critic, obs, noise, w, guards=guards)
    assert torch.equal(guarded.action[::2], plain.action[::2])
    assert not torch.equal(guarded.action[1::2], plain.action[1::2])
    assert torch.all(guarded.guidance_ratio <= 0.1 * (1 + 1e-6))  # it reports what was applied


def test_the_support_guard_drops_what_points_outward_outside_the_box_only():
    box = Box(low=(-2.0, 0.0), high=(1.0, 0.5))
    a_hat = torch.tensor([[1.1, 0.2], [1.1, -0.1], [-2.1, 0.6], [0.9, 0.4], [-3.0, -3.0]])
    g = torch.tensor([[5.0, 5.0], [-5.0, -5.0], [-5.0, 5.0], [5.0, 5.0], [5.0, 5.0]])
    expected = torch.tensor([[0.0, 5.0], [-5.0, 0.0], [0.0, 0.0], [5.0, 5.0], [5.0, 5.0]])
    assert torch.equal(within_support(g, a_hat, box), expected)


def test_the_ratio_cap_shortens_and_does_not_turn():
    torch.manual_seed(0)
    g, v = 10 * torch.randn(200, 3), torch.randn(200, 3)
    w = torch.rand(200, 1)
    got = capped(g, v, w, 2.0)
    ratio = w[:, 0] * got.norm(dim=1) / v.norm(dim=1)
    over = w[:, 0] * g.norm(dim=1) > 2 * v.norm(dim=1)
    assert 20 < over.sum() < 180
    assert torch.equal(got[~over], g[~over])
    torch.testing.assert_close(ratio[over], torch.full_like(ratio[over], 2.0))
    cosine = torch.cosine_similarity(got, g, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    still = torch.zeros_like(v)  # no flow and no gradient: no 0 / 0
    assert torch.equal(capped(still, still, w, 2.0), still)
    assert torch.equal(capped(g, still, w, 2.0), still)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Box((0.0,), (-1.0,)), "low <= high"),
        (lambda: Box((0.0, 0.0), (1.0,)), "as many numbers"),
        (lambda: Box((), ()), "at least one"),
        (lambda: Box((math.nan,), (1.0,)), "low <= high"),
        (lambda: Guards(ratio_cap=-1.0), "ratio_cap is -1.0"),
        (lambda: Guards(ratio_cap=math.nan), "ratio_cap is nan"),
        (
            lambda: within_support(torch.ones(2, 4), torch.ones(2, 4), Box((0.0,) * 3, (1.0,) * 3)),
            "3 dimensions for actions of 4",
        ),
    ],
)
def test_guards_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()
