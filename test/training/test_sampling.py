"""The reference sampler: closed forms and exactness at w = 0. Its 1-D testbed: test_testbed.py."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from training import estimators
from training.guards import Box, Guards
from training.lab import testbed
from training.learn.grad_step import grad_step
from training.learn.models import Critic, VelocityField, time_table
from training.sampling import best_of_n, sample


def nets(obs_dim=5, D=4, hidden=(16, 16), members=2, seed=0):
    torch.manual_seed(seed)
    velocity, critic = VelocityField(obs_dim, D, hidden), Critic(obs_dim, D, hidden, members)
    for p in (*velocity.parameters(), *critic.parameters()):
        p.data.add_(0.1 * torch.randn_like(p))
    return velocity, critic


def queried_gap(critic):
    """The critic, and the smallest distance of its two smallest members per row at gradients."""
    gaps = []

    def watched(obs: Tensor, a: Tensor) -> Tensor:
        q = critic(obs, a)
        if torch.is_grad_enabled() and len(q) > 1:
            two = q.detach().sort(dim=0).values
            gaps.append(two[1] - two[0])
        return q

    return watched, lambda: torch.stack(gaps).min(dim=0).values


def test_constant_flow_and_quadratic_critic_have_a_closed_form():
    """v = c, Q = -|a - m|^2 / 2: each step is a_k+1 = a_k + (c + w (m - a_k - (1-t) c)) / T."""
    c, m, w, T = 0.3, -0.2, 2.0, 8
    a = x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    for k in range(T):
        x = x + (c + w * (m - x - (1 - k / T) * c)) / T
    ours = sample(
        lambda obs, a, t: torch.full_like(a, c),
        lambda obs, a: -((a - m) ** 2).sum(-1)[None] / 2,
        a,
        a,
        w,
        steps=T,
        bound=100,
    )
    torch.testing.assert_close(ours.action, x)
    torch.testing.assert_close(ours.q, -((x[:, 0] - m) ** 2) / 2)
    torch.testing.assert_close(ours.guidance_ratio, w * ours.gradient_norm / c)


def test_the_clip_bounds_a_hat_but_is_no_part_of_the_gradient():
    """Flow far outside the bound, Q linear: qgf still pushes, the Jacobian variant cannot."""
    noise = torch.zeros(3, 2)
    seen = []

    def critic(obs: Tensor, a: Tensor) -> Tensor:
        seen.append(a.detach())
        return a.sum(-1)[None]

    def flow(obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        return 5 + 0 * a

    plain = sample(flow, critic, noise, noise, 1.0, steps=4)
    assert all(a.abs().max() <= 1 for a in seen)
    torch.testing.assert_close(plain.gradient_norm, torch.full((3,), math.sqrt(2)))
    masked = sample(flow, critic, noise, noise, 1.0, steps=4, estimator="qgf_jacobian")
    assert torch.all(masked.gradient_norm == 0)


@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_zero_weight_is_the_unguided_policy_to_the_bit(estimator):
    velocity, critic = nets()
    obs, noise = torch.randn(6, 5), torch.randn(6, 4)
    reference = noise
    for row in time_table(10):
        with torch.no_grad():
            reference = reference + velocity(obs, reference, row.expand(6, 16)) / 10
    unguided = sample(velocity, critic, obs, noise, 0.0, estimator=estimator)
    assert torch.equal(unguided.action, reference.clamp(-1, 1))
    assert torch.all(unguided.gradient_norm == 0) and torch.all(unguided.guidance_ratio == 0)
    w = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 0.5])
    mixed = sample(velocity, critic, obs, noise, w, estimator=estimator)
    off = w == 0
    assert torch.equal(mixed.action[off], unguided.action[off])
    assert not torch.equal(mixed.action[~off], unguided.action[~off])


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_zero_weight_survives_a_gradient_that_is_not_finite(bad):
    velocity, _ = nets()

    def broken(obs: Tensor, a: Tensor) -> Tensor:
        return (a * bad).sum(-1)[None]

    obs, noise = torch.randn(2, 5), torch.randn(2, 4)
    unguided = sample(velocity, broken, obs, noise, 0.0)
    mixed = sample(velocity, broken, obs, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed.action[0], unguided.action[0])
    assert mixed.action[0].isfinite().all() and not mixed.action[1].isfinite().all()


@pytest.mark.parametrize(
    "sizes", [(1, 1, (8,), 1, 1), (5, 4, (16, 16), 2, 10), (9, 6, (32,), 4, 7)]
)
@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
def test_float32_stays_close_to_float64(sizes, weight):
    obs_dim, D, hidden, members, steps = sizes
    velocity, critic = nets(obs_dim, D, hidden, members, seed=steps)
    obs, noise = torch.randn(200, obs_dim), torch.randn(200, D)
    single = sample(velocity, critic, obs, noise, weight, steps=steps)
    watched, gap = queried_gap(critic.double())
    double = sample(velocity.double(), watched, obs.double(), noise.double(), weight, steps=steps)
    assert double.action.dtype == torch.float64 and single.action.dtype == torch.float32
    keep = torch.ones(200, dtype=torch.bool)
    if members > 1 and weight > 0:
        keep = gap() > 1e-5
    assert keep.double().mean() > 0.9, f"{int((~keep).sum())} of 200 samples are ties"
    error = (single.action - double.action).abs()[keep].max()
    assert error < 1e-5 * (1 + weight)


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_best_of_n_takes_the_best_of_each_observation(n, weight):
    velocity, critic = nets()
    obs, noise = torch.randn(5, 5), torch.randn(5 * n, 4)
    best = best_of_n(velocity, critic, obs, noise, n, weight, steps=4)
    for b in range(5):
        rows = noise[b * n : (b + 1) * n]
        each = sample(velocity, critic, obs[b].expand(n, -1), rows, weight, steps=4)
        top = each.q.argmax()
        torch.testing.assert_close(best.action[b], each.action[top], atol=1e-6, rtol=0)
        torch.testing.assert_close(best.q[b], each.q.max(), atol=1e-6, rtol=0)


def test_best_of_n_takes_a_weight_per_observation():
    velocity, critic = nets()
    obs, noise = torch.randn(2, 5), torch.randn(6, 4)
    mixed = best_of_n(velocity, critic, obs, noise, 3, torch.tensor([0.0, 2.0]))
    assert torch.equal(mixed.action[0], best_of_n(velocity, critic, obs, noise, 3).action[0])
    guided = best_of_n(velocity, critic, obs, noise, 3, 2.0)
    torch.testing.assert_close(mixed.action[1], guided.action[1])


@pytest.mark.parametrize(
    "guards",
    [Guards(support=Box((-0.1,), (0.1,)), ratio_cap=0.5), Guards(last=2), Guards(keep_best=True)],
)
def test_best_of_n_is_the_best_of_guarded_samples(guards):
    velocity, critic = nets()
    obs, noise, w = torch.randn(5, 5), torch.randn(20, 4), torch.tensor([0.0, 1.0, 4.0, 20.0, 40.0])
    best = best_of_n(velocity, critic, obs, noise, 4, w, guards=guards)
    for b in range(5):
        rows = noise[4 * b : 4 * b + 4]
        each = sample(velocity, critic, obs[b].expand(4, -1), rows, float(w[b]), guards=guards)
        torch.testing.assert_close(best.action[b], each.action[each.q.argmax()], atol=1e-5, rtol=0)
    plain = best_of_n(velocity, critic, obs, noise, 4, w)
    assert torch.equal(best.action[0], plain.action[0])
    if guards.keep_best:  # the best of the kept is never below the best of the unguided
        assert torch.all(best.q >= best_of_n(velocity, critic, obs, noise, 4).q - 1e-6)
    else:
        assert not torch.equal(best.action[1:], plain.action[1:])


def test_grad_step_on_a_quadratic_critic_has_a_closed_form():
    """Flow of constant c, then a <- a - size (a - m): m is approached by 1 - size each step."""
    c, m = 0.3, -0.2
    noise = torch.linspace(-0.6, 0.6, 7, dtype=torch.float64)[:, None]
    got = grad_step(
        lambda obs, a, t: torch.full_like(a, c),
        lambda obs, a: -((a - m) ** 2).sum(-1)[None] / 2,
        noise,
        noise,
        grad_steps=3,
        size=0.25,
    )
    start = noise + c - m
    torch.testing.assert_close(got.action, m + 0.75**3 * start)
    torch.testing.assert_close(got.q, -((got.action[:, 0] - m) ** 2) / 2)
    norm = start.abs()[:, 0] * (1 + 0.75 + 0.75**2) / 3
    torch.testing.assert_close(got.gradient_norm, norm)
    torch.testing.assert_close(got.guidance_ratio, 0.25 * 3 * norm / c)


def test_grad_step_is_three_clipped_steps_of_a_hundredth_from_the_unguided_sample():
    velocity, critic = nets()
    obs, noise = torch.randn(64, 5), 3 * torch.randn(64, 4)
    a = unguided = sample(velocity, critic, obs, noise, 0.0).action
    for _ in range(3):
        a = a.detach().requires_grad_()
        q = critic(obs, a).min(dim=0).values
        a = (a + 0.01 * torch.autograd.grad(q.sum(), a)[0]).clamp(-1, 1)
    got = grad_step(velocity, critic, obs, noise)
    assert torch.equal(got.action, a.detach())
    assert not torch.equal(a, unguided) and (unguided.abs() == 1).any()
    assert torch.equal(grad_step(velocity, critic, obs, noise, grad_steps=0).action, unguided)
    assert torch.equal(grad_step(velocity, critic, obs, noise, size=0.0).action, unguided)


def test_grad_step_follows_the_critic_out_of_the_data():
    """Wide bump: whoever takes as long a way as QGF does ends on the false peak, all of them."""
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.arange(10).double() / 10
    options = {"steps": 10, "times": times, "bound": math.inf}
    call = partial(grad_step, testbed.velocity, testbed.WIDE, noise[:, :0], noise, **options)
    assert ((call().action - 1).abs() < 0.5).double().mean() == pytest.approx(1 / 3, abs=0.03)
    assert (call(grad_steps=30, size=0.1).action > 2).double().mean() > 0.99


@pytest.mark.parametrize("bad", [{"grad_steps": -1}, {"size": -0.1}, {"size": math.nan}])
def test_grad_step_refuses(bad):
    velocity, critic = nets()
    with pytest.raises(ValueError, match="needed: at least 0"):
        grad_step(velocity, critic, torch.zeros(2, 5), torch.zeros(2, 4), **bad)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weight": -0.1}, "finite and at least 0"),
        ({"weight": math.inf}, "finite and at least 0"),
        ({"weight": math.nan}, "finite and at least 0"),
        ({"weight": torch.ones(3)}, "shape"),
        ({"weight": 1.0, "estimator": "magic"}, "unknown estimator 'magic'; known: qgf"),
        ({"weight": 0.0, "aggregation": "max"}, "unknown aggregation"),
        ({"weight": 0.0, "steps": 0}, "steps"),
        ({"weight": 0.0, "times": time_table(9)}, "9 rows for 10 steps"),
    ],
)
def test_sample_refuses(arguments, message):
    velocity, critic = nets()
    with pytest.raises(ValueError, match=message):
        sample(velocity, critic, torch.zeros(2, 5), torch.zeros(2, 4), **arguments)


def test_best_of_n_refuses_noise_of_another_size():
    velocity, critic = nets()
    with pytest.raises(ValueError, match="7 noise rows for 2 observations of 4 candidates"):
        best_of_n(velocity, critic, torch.zeros(2, 5), torch.zeros(7, 4), 4)


# Committed actions: going to be executed anyway, the others are sampled to follow them.


def test_committed_numbers_run_straight_from_their_noise_and_the_flow_sees_them_do_so():
    seen = []

    def velocity(obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        seen.append(a[:, 0].clone())
        return torch.ones_like(a)

    noise, held = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    got = sample(velocity, lambda obs, a: a.sum(-1)[None], noise, noise, 2.0, committed=held)
    for k, a in enumerate(seen):
        torch.testing.assert_close(a, noise[:, 0] + k / 10 * (held - noise[:, 0]))
    assert torch.all(got.action[:, 0] == 0.5)
    free = noise[:, 1:] + 1 + 2.0  # v = 1 and w dQ/da = 2, all the way
    torch.testing.assert_close(got.action[:, 1:], free.clamp(-1, 1))


@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_no_estimator_moves_what_is_committed(estimator):
    velocity, critic = nets()
    obs, noise, held = torch.randn(8, 5), torch.randn(8, 4), torch.tensor([0.5, -1.5])
    call = partial(sample, velocity, critic, obs, noise, estimator=estimator)
    got, without = call(3.0, committed=held), call(3.0)
    assert torch.equal(got.action[:, :2], held.expand(8, 2)), "to the bit, and not clipped"
    assert not torch.equal(got.action[:, 2:], without.action[:, 2:]), "the others know of it"
    torch.testing.assert_close(got.q, critic(obs, got.action).min(dim=0).values)


def test_the_unguided_sample_that_is_kept_has_the_committed_numbers_too():
    velocity, critic = nets()
    obs, noise, held = torch.randn(64, 5), torch.randn(64, 4), torch.tensor([0.9])
    got = sample(velocity, critic, obs, noise, 1e4, committed=held, guards=Guards(keep_best=True))
    assert torch.any(got.gradient_norm == 0), "else none was kept"
    assert torch.all(got.action[:, 0] == held)


@pytest.mark.parametrize("size", [0, 4, 5])
def test_committed_leaves_something_to_sample(size):
    velocity, critic = nets()
    with pytest.raises(ValueError, match="committed has shape"):
        sample(
            velocity, critic, torch.zeros(1, 5), torch.zeros(1, 4), 1.0, committed=torch.zeros(size)
        )
