"""Networks: layout of the parameters, the formulas they compute, and what is refused."""

import math

import numpy as np
import pytest
import torch

from training.learn.models import (
    MLP,
    Architecture,
    Critic,
    Value,
    VelocityField,
    aggregate,
    time_embedding,
    time_table,
)


def numpy_mlp(net: MLP, x: np.ndarray, member: int) -> np.ndarray:
    """The published layer order in float64, written a second time: linear, norm, GELU."""
    p = {k: v.detach().double().numpy()[member] for k, v in net.named_parameters()}
    last = len(net.layers) - 1
    for i in range(last + 1):
        x = x @ p[f"layers.{i}.weight"] + p[f"layers.{i}.bias"]
        if f"norms.{i}.weight" in p:
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
            x = x * p[f"norms.{i}.weight"] + p[f"norms.{i}.bias"]
        if i < last:
            x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x


def scramble(net: torch.nn.Module) -> None:
    """Biases and norms away from their 0 and 1, so that a test can see them."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("hidden", [(7,), (16, 5), (4, 4, 4, 4)])
@pytest.mark.parametrize("layer_norm_last", [True, False])
def test_mlp_is_its_formula(members, hidden, layer_norm_last):
    torch.manual_seed(0)
    net = MLP(6, hidden, 3, members, layer_norm_last=layer_norm_last)
    scramble(net)
    x = torch.randn(11, 6)
    ours = net(x)
    assert ours.shape == (members, 11, 3)
    for e in range(members):
        np.testing.assert_allclose(
            ours[e].detach(), numpy_mlp(net, x.double().numpy(), e), atol=2e-5
        )
    per_member = net(x.expand(members, 11, 6))
    torch.testing.assert_close(per_member, ours, atol=1e-6, rtol=0)


def test_members_see_their_own_inputs():
    net = MLP(4, (8, 8), 2, 3, layer_norm_last=True)
    x = torch.randn(3, 5, 4)
    own = net(x)
    for e in range(3):
        torch.testing.assert_close(own[e], net(x[e])[e], atol=1e-6, rtol=0)


def test_parameter_names_and_shapes():
    flow, critic = VelocityField(11, 15, (48, 32, 24)), Critic(11, 15, (48, 32), members=2)
    shapes = {k: tuple(v.shape) for k, v in flow.mlp.state_dict().items()}
    assert shapes["layers.0.weight"] == (1, 11 + 15 + 16, 48)
    assert shapes["layers.3.bias"] == (1, 15)
    assert {k for k in shapes if k.startswith("norms")} == {
        f"norms.{i}.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")
    }, "the flow has no layer norm on its last hidden layer"
    shapes = {k: tuple(v.shape) for k, v in critic.mlp.state_dict().items()}
    assert shapes["layers.0.weight"] == (2, 26, 48)
    assert shapes["layers.2.weight"] == (2, 32, 1)
    assert shapes["norms.1.weight"] == (2, 32), "the critic has one on every hidden layer"


def test_initialisation_is_glorot_uniform():
    torch.manual_seed(1)
    weight = MLP(300, (200,), 1, 2, layer_norm_last=True).layers[0].weight.detach()
    bound = math.sqrt(6 / 500)
    assert weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not torch.equal(weight[0], weight[1])


def test_outputs_have_the_promised_shapes():
    obs, action = torch.randn(7, 3), torch.randn(7, 4)
    assert VelocityField(3, 4, (8,))(obs, action, torch.rand(7)).shape == (7, 4)
    assert Critic(3, 4, (8,), 5)(obs, action).shape == (5, 7)
    assert Value(3, (8,))(obs).shape == (7,)


def test_time_embedding_is_the_published_one():
    t = np.array([0.0, 0.1, 0.5, 1.0], dtype=np.float32)
    frequencies = 10_000.0 ** (-np.arange(8) / 8)
    phase = (t * np.float32(10_000)).astype(np.float64)[:, None] * frequencies
    want = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    ours = time_embedding(torch.from_numpy(t))
    assert ours.shape == (4, 16) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours, want, atol=6e-4)  # float32's step at a phase of 10000 is 1e-3
    np.testing.assert_array_equal(ours[0], [1.0] * 8 + [0.0] * 8)
    assert ours[3, 0] == pytest.approx(math.cos(10_000), abs=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 10])
def test_time_table_is_the_embedding_of_each_step(steps):
    table = time_table(steps)
    assert table.shape == (steps, 16)
    for k in range(steps):
        t = torch.tensor([k], dtype=torch.float32) / steps
        assert torch.equal(table[k], time_embedding(t)[0])


def test_time_or_its_embedding_give_the_same_velocity():
    flow, obs, a, t = (
        VelocityField(3, 4, (8, 8)),
        torch.randn(5, 3),
        torch.randn(5, 4),
        torch.rand(5),
    )
    assert torch.equal(flow(obs, a, t), flow(obs, a, time_embedding(t)))
    double = flow.double()(obs.double(), a.double(), t)
    assert double.dtype == torch.float64


def test_min_sends_its_gradient_through_the_smaller_member_only():
    q = torch.tensor([[1.0, 5.0, 2.0], [2.0, 3.0, 2.0]], requires_grad=True)
    low = aggregate(q, "min")
    assert low.tolist() == [1.0, 3.0, 2.0]
    low.sum().backward()
    assert q.grad is not None
    assert q.grad[:, :2].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert q.grad[:, 2].sum() == 1.0, "of equal members one is taken, never both"
    assert aggregate(q, "mean").tolist() == [1.5, 4.0, 2.0]
    with pytest.raises(ValueError, match="unknown aggregation 'max'; known: min, mean"):
        aggregate(q, "max")


@pytest.mark.parametrize("k", [0, 0.5, 1, 2.75])
@pytest.mark.parametrize("members", [1, 2, 5])
def test_mean_less_k_std_is_numpy_s_and_its_gradient_the_difference_quotient(k, members):
    rng = np.random.default_rng(members)
    numbers, how, step = rng.normal(size=(members, 7)), f"mean-{k}std", 1e-6

    def formula(x):
        return x.mean(axis=0) - k * x.std(axis=0)

    q = torch.tensor(numbers, requires_grad=True)
    low = aggregate(q, how)
    np.testing.assert_allclose(low.detach(), formula(numbers), rtol=1e-12)
    (gradient,) = torch.autograd.grad(low.sum(), q)
    for e in range(members):
        moved = np.zeros_like(numbers)
        moved[e] = step
        quotient = (formula(numbers + moved) - formula(numbers - moved)) / (2 * step)
        np.testing.assert_allclose(gradient[e], quotient, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_members_that_agree_have_no_spread_and_a_finite_gradient(dtype):
    """The slope of a square root at 0 is infinite, and 0 times it is not a number."""
    for q in (torch.full((4, 3), 0.3), torch.tensor([[2.0]]), torch.tensor([[1e-30], [0.0]])):
        q = q.to(dtype).requires_grad_()
        low = aggregate(q, "mean-2std")
        torch.testing.assert_close(low, q.mean(dim=0))
        (gradient,) = torch.autograd.grad(low.sum(), q)
        assert gradient.isfinite().all()
    q = torch.full((5, 1), 0.7, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(aggregate(q, "mean-1std").sum(), q)
    torch.testing.assert_close(gradient, torch.full_like(q, 0.2))


def test_no_std_below_the_mean_is_the_mean_to_the_bit():
    q = torch.randn(5, 100)
    assert torch.equal(aggregate(q, "mean-0std"), aggregate(q, "mean"))
    assert torch.equal(aggregate(q, "mean"), q.mean(dim=0))


@pytest.mark.parametrize(
    "how", ["", "max", "mean-std", "mean--1std", "mean-1", "mean-1 std", "mean-1e3std", "Min"]
)
def test_an_unknown_aggregation_is_refused_and_all_known_are_named(how):
    with pytest.raises(ValueError, match="known: min, mean, mean-<k>std .* such as mean-1std"):
        aggregate(torch.zeros(2, 1), how)


def test_a_sigmoid_output_is_the_sigmoid_of_the_same_network():
    torch.manual_seed(0)
    obs, action = torch.randn(9, 3), torch.randn(9, 4)
    critic, value = Critic(3, 4, (8,), 3, "sigmoid"), Value(3, (8,), "sigmoid")
    torch.testing.assert_close(critic(obs, action), critic.logits(obs, action).sigmoid())
    linear = Critic(3, 4, (8,), 3)
    linear.load_state_dict(critic.state_dict())
    assert torch.equal(linear(obs, action), critic.logits(obs, action))
    torch.testing.assert_close(value(obs), value.mlp(obs)[0, :, 0].sigmoid())
    with pytest.raises(ValueError, match="output is 'tanh'; known: linear, sigmoid"):
        Critic(3, 4, (8,), 3, "tanh")


@pytest.mark.parametrize("kind, members", [("velocity", 1), ("critic", 3), ("value", 1)])
def test_architecture_rebuilds_its_network(kind, members):
    output = "linear" if kind == "velocity" else "sigmoid"
    arch = Architecture(kind, 5, 2, 3, (8, 6), members, output)
    again = Architecture.from_dict(arch.to_dict())
    assert again == arch and again.action_size == 6
    net = arch.build()
    again.build().load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "diffusion"}, "unknown network kind 'diffusion'; known: velocity, critic, value"),
        ({"hidden": []}, "hidden"),
        ({"hidden": [8, 0]}, "hidden"),
        ({"hidden": 8}, "hidden"),
        ({"obs_dim": 2.5}, "obs_dim is 2.5"),
        ({"members": 2}, "only a critic"),
        ({"output": "sigmoid"}, "a velocity's is linear"),
        ({"activation": "relu"}, r"unknown \['activation'\]"),
    ],
)
def test_architecture_refuses(change, message):
    good = Architecture("velocity", 5, 2, 3, (8, 6)).to_dict()
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(good | change)
    with pytest.raises(ValueError, match=r"missing \['hidden'\]"):
        Architecture.from_dict({k: v for k, v in good.items() if k != "hidden"})
