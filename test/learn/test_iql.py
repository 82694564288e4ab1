"""Training: the losses against arithmetic by hand, and one step of all nets together."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.learn.critics.batch import ChunkBatch
from training.learn.critics.iql import IQLConfig, Learner, critic_loss, value_loss
from training.learn.flow import flow_loss
from training.learn.models import Critic, Value, VelocityField

CONFIG = IQLConfig(discount=0.9, horizon=3, expectile=0.8, target_rate=0.25)


def batch(rows=12, obs_dim=5, D=6) -> ChunkBatch:
    return ChunkBatch(
        obs=torch.randn(rows, obs_dim),
        action=torch.rand(rows, D) * 2 - 1,
        reward=torch.randn(rows),
        mask=(torch.rand(rows) > 0.3).float(),
        next_obs=torch.randn(rows, obs_dim),
        valid=(torch.rand(rows) > 0.2).float(),
    )


def learner(config=CONFIG, members=2, seed=0) -> Learner:
    torch.manual_seed(seed)
    nets = VelocityField(5, 6, (16, 8)), Critic(5, 6, (16, 8), members), Value(5, (16, 8))
    target = Critic(5, 6, (16, 8), members)
    return Learner(*nets, config, target_critic=target)


class Fixed(nn.Module):
    """A network that says the same for every input."""

    output = "linear"

    def __init__(self, *values: list[float]):
        super().__init__()
        self.out = nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.out


def test_flow_loss_by_hand():
    seen = {}

    def velocity(obs: Tensor, a: Tensor, t: Tensor) -> Tensor:
        seen["a_t"] = a
        return torch.tensor([[1.0, 2.0]])

    noise, action = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 1.0]])
    loss, metrics = flow_loss(velocity, torch.zeros(1, 1), action, noise, torch.tensor([0.25]))
    torch.testing.assert_close(seen["a_t"], torch.tensor([[0.625, -0.5]]))
    assert loss == pytest.approx(((1 - 0.5) ** 2 + (2 - 2.0) ** 2) / 2)
    assert metrics["flow_loss"] == loss


def test_critic_and_value_loss_by_hand():
    two = ChunkBatch(
        obs=torch.zeros(2, 1),
        action=torch.zeros(2, 1),
        reward=torch.tensor([1.0, -1.0]),
        mask=torch.tensor([1.0, 0.0]),
        next_obs=torch.zeros(2, 1),
        valid=torch.ones(2),
    )
    value, critic = Fixed([2.0, 3.0]), Fixed([1.0, 2.0], [3.0, 4.0])
    y = [1 + 0.9**3 * 2, -1.0]  # the second ends in a terminal state: no bootstrap
    loss, _ = critic_loss(critic, value, two, CONFIG)
    want = ((1 - y[0]) ** 2 + (2 - y[1]) ** 2 + (3 - y[0]) ** 2 + (4 - y[1]) ** 2) / 4
    assert loss.item() == pytest.approx(want)
    loss.backward()
    assert value.out.grad is None, "the target is a constant"

    loss, _ = value_loss(Fixed([0.5, 5.0]), critic, two, CONFIG)  # min Q = 1, 2: d = 0.5, -3
    assert loss.item() == pytest.approx((0.8 * 0.25 + 0.2 * 9) / 2)
    loss, _ = value_loss(Fixed([0.5, 5.0]), critic, two, replace(CONFIG, aggregation="mean"))
    assert loss.item() == pytest.approx((0.8 * 1.5**2 + 0.2 * 4) / 2)  # mean Q = 2, 3

    half = replace(two, valid=torch.tensor([1.0, 0.0]))
    loss, _ = critic_loss(critic, value, half, CONFIG)
    assert loss.item() == pytest.approx(((1 - y[0]) ** 2 + (3 - y[0]) ** 2) / 4)
    loss, _ = value_loss(Fixed([0.5, 5.0]), critic, half, CONFIG)
    assert loss.item() == pytest.approx(0.8 * 0.25 / 2)


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_value_is_drawn_to_the_expectile(expectile):
    """Of Q = 0 and 1, equally often, the expectile tau is tau itself."""
    two = replace(batch(2), valid=torch.ones(2))
    value, config = Fixed([0.3]), replace(CONFIG, expectile=expectile)
    optimizer = torch.optim.SGD(value.parameters(), lr=0.5)
    for _ in range(200):
        loss, _ = value_loss(value, Fixed([0.0, 1.0], [0.0, 1.0]), two, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert value.out.item() == pytest.approx(expectile, abs=1e-5)


class Adam:
    """The textbook's, one tensor at a time (Kingma and Ba, algorithm 1)."""

    def __init__(self, parameters: list[Tensor]):
        self.p, self.t = parameters, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, gradients: tuple[Tensor, ...], lr: float) -> None:
        self.t += 1
        for p, g, m, v in zip(self.p, gradients, self.m, self.v, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            root = (v / (1 - 0.999**self.t)).sqrt() + 1e-8
            p.data -= lr * (m / (1 - 0.9**self.t)) / root


@pytest.mark.parametrize("members, aggregation", [(2, "min"), (1, "min"), (3, "mean")])
def test_update_is_three_separate_steps_from_the_nets_before_it(members, aggregation):
    config = replace(CONFIG, aggregation=aggregation)
    ours = learner(config, members)
    mine = copy.deepcopy((ours.velocity, ours.critic, ours.value, ours.target_critic))
    velocity, critic, value, target = mine
    optimizers = [Adam(list(net.parameters())) for net in mine[:3]]
    torch.manual_seed(5)
    for _ in range(4):
        data, noise, time = batch(), torch.randn(12, 6), torch.rand(12)
        metrics = ours.update(data, noise, time)
        losses = (
            flow_loss(velocity, data.obs, data.action, noise, time)[0],
            critic_loss(critic, value, data, config)[0],
            value_loss(value, target, data, config)[0],
        )
        gradients = [
            torch.autograd.grad(loss, list(net.parameters()))
            for loss, net in zip(losses, mine[:3], strict=True)
        ]
        for p, q in zip(target.parameters(), critic.parameters(), strict=True):
            p.data.mul_(0.75).add_(0.25 * q.data)  # the critic from before its step
        for optimizer, gradient in zip(optimizers, gradients, strict=True):
            optimizer.step(gradient, 3e-4)
        for name, loss in zip(("flow", "critic", "value"), losses, strict=True):
            assert float(metrics[f"{name}_loss"]) == pytest.approx(loss.item(), rel=1e-5)
    theirs = (ours.velocity, ours.critic, ours.value, ours.target_critic)
    for a, b in zip(mine, theirs, strict=True):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), atol=2e-6, rtol=0, msg=name)


def test_update_reports_detached_scalars_and_leaves_the_target_frozen():
    ours = learner()
    metrics = ours.update(batch(), torch.randn(12, 6), torch.rand(12))
    assert {"flow_loss", "critic_loss", "value_loss", "q", "v"} <= metrics.keys()
    for name, metric in metrics.items():
        assert metric.dim() == 0 and not metric.requires_grad, name
    assert not any(p.requires_grad for p in ours.target_critic.parameters())


def test_target_starts_as_a_copy_of_the_critic():
    critic = Critic(5, 6, (8,))
    ours = Learner(VelocityField(5, 6, (8,)), critic, Value(5, (8,)), CONFIG)
    for p, q in zip(critic.parameters(), ours.target_critic.parameters(), strict=True):
        assert torch.equal(p, q) and p is not q


@pytest.mark.parametrize(
    "change",
    [
        {"discount": 0.0},
        {"discount": 1.1},
        {"horizon": 0},
        {"expectile": 1.0},
        {"target_rate": 0.0},
        {"learning_rate": math.nan},
        {"aggregation": "median"},
    ],
)
def test_config_refuses(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_batch_refuses_shapes_that_would_broadcast():
    good = batch()
    with pytest.raises(ValueError, match=r"reward has shape \(12, 1\), not \(B,\)"):
        replace(good, reward=good.reward[:, None])
    with pytest.raises(ValueError, match="mask has 11 rows, obs has 12"):
        replace(good, mask=good.mask[1:])
