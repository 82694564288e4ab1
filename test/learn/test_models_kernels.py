"""The MLP with its reverse pass written out, beside the same MLP in PyTorch's own operations.

Small nets: what is large enough for it is set to anything, so that every product goes through
oneDNN, also those that would not.
"""

from types import SimpleNamespace

import pytest
import torch

from training.learn import kernels
from training.learn.models import MLP, Critic, VelocityField

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN"
)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(kernels, "LEAST", 1)
    monkeypatch.setattr(kernels, "FEWEST", 1)


def nets(members=2, hidden=(16, 24, 8), out=3, layer_norm_last=True):
    """The same random net twice: in float32, and in float64, which is never for the kernels."""
    torch.manual_seed(members)
    net = MLP(5, hidden, out, members, layer_norm_last=layer_norm_last)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    double = MLP(5, hidden, out, members, layer_norm_last=layer_norm_last).double()
    double.load_state_dict(net.state_dict())
    return net, double


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("layer_norm_last", [True, False])
@pytest.mark.parametrize("hidden, out", [((16,), 1), ((16, 24, 8), 3)])
def test_output_and_all_gradients_are_those_of_plain_operations(
    always, members, layer_norm_last, hidden, out
):
    net, double = nets(members, hidden, out, layer_norm_last)
    x, weights = torch.randn(32, 5), torch.randn(members, 32, out)
    results = []
    for n, seen in ((net, x.clone()), (double, x.double())):
        y = n(seen.requires_grad_())
        loss = (y * weights.to(y) + y.square()).sum()
        results.append([y, *torch.autograd.grad(loss, [seen, *n.parameters()])])
    assert type(results[0][0].grad_fn).__name__ == "_MLPBackward", "the kernels were not used"
    close(*results)


def test_without_a_gradient_the_output_is_the_same_to_the_bit(always):
    net, _ = nets()
    x = torch.randn(32, 5)
    with torch.no_grad():
        without = net(x)
    assert torch.equal(without, net(x)) and not without.requires_grad
    net.requires_grad_(False)
    assert not net(x).requires_grad


def test_of_frozen_networks_the_input_s_gradient_is_left(always):
    """What guidance asks of the target critic."""
    net, double = nets()
    net.requires_grad_(False)
    x = torch.randn(32, 5)
    results = []
    for n, seen in ((net, x.clone()), (double, x.double())):
        results.append(torch.autograd.grad(n(seen.requires_grad_()).sum(), seen))
    close(*results)


def test_a_gradient_can_be_differentiated_again(always):
    """What the analysis of stability does: the Hessian of Q, and its slope in the weights."""
    net, double = nets(out=1)
    x, direction = torch.randn(32, 5), torch.randn(32, 5)
    results = []
    for n, seen in ((net, x.clone()), (double, x.double())):
        y = n(seen.requires_grad_()).square().sum()
        (g,) = torch.autograd.grad(y, seen, create_graph=True)
        inputs = [seen, *(p for name, p in n.named_parameters() if name != "layers.3.bias")]
        results.append([g, *torch.autograd.grad((g * direction.to(g)).sum(), inputs)])
    close(*results)


def test_a_graph_that_is_kept_gives_its_gradients_twice(always):
    net, _ = nets()
    loss = net(torch.randn(32, 5)).square().sum()
    first = torch.autograd.grad(loss, net.parameters(), retain_graph=True)
    second = torch.autograd.grad(loss, net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_weights_changed_before_the_reverse_pass_are_noticed(always):
    net, _ = nets()
    loss = net(torch.randn(32, 5)).sum()
    with torch.no_grad():
        net.layers[1].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inputs_in_any_layout(always):
    net, double = nets()
    wide = torch.randn(32, 10)
    for x in (wide[:, ::2], wide[:, :5], torch.randn(5, 32).t(), torch.randn(1, 5).expand(32, 5)):
        close([net(x)], [double(x.double())])


@pytest.mark.parametrize("columns", [4, 6])
def test_an_input_of_another_width_is_refused(always, columns):
    net, _ = nets()
    with pytest.raises(RuntimeError):
        net(torch.randn(32, columns))


@pytest.mark.parametrize("extreme", [0.0, 1e-30, 100.0, -100.0, 1e6, -1e6])
def test_gelu_far_out_has_no_surprises(always, extreme):
    """Without a norm before it: the slope is 1 or 0 there, and the output finite."""
    net, double = nets(1, (4,), 2, layer_norm_last=False)
    x = torch.full((8, 5), extreme)
    results = []
    for n, seen in ((net, x), (double, x.double())):
        y = n(seen.requires_grad_())
        results.append([y, *torch.autograd.grad(y.sum(), [seen, *n.parameters()])])
    close(*results)


def test_large_batches_in_float32_are_for_it_and_others_are_not():
    critic, flow = Critic(37, 25, (256,) * 3), VelocityField(37, 25, (256,) * 3)
    obs, action, time = torch.randn(256, 37), torch.randn(256, 25), torch.rand(256)
    assert critic(obs, action).isfinite().all()
    assert type(critic.mlp(torch.randn(256, 62)).grad_fn).__name__ == "_MLPBackward"
    small = critic.mlp(torch.randn(4, 62))
    assert type(small.grad_fn).__name__ != "_MLPBackward"
    again = critic(obs, action)[:, :4]
    torch.testing.assert_close(again, critic(obs[:4], action[:4]), rtol=0, atol=1e-5)
    assert flow.double()(obs.double(), action.double(), time).dtype == torch.float64


def other_arguments(x, weight):
    raise RuntimeError("expected 2 arguments")


@pytest.mark.parametrize("mkldnn", [
    SimpleNamespace(), SimpleNamespace(_linear_pointwise=other_arguments),
    SimpleNamespace(_linear_pointwise=lambda x, weight, *_: x @ weight.t()),
], ids=["gone", "with other arguments", "with another meaning"])  # fmt: skip
def test_without_the_product_which_is_not_public_networks_are_the_same(always, monkeypatch, mkldnn):
    net, double = nets()
    x = torch.randn(32, 5)
    with monkeypatch.context() as other:
        other.setattr(torch.ops, "mkldnn", mkldnn)
        kernels.has_product.cache_clear()
        y = net(x)
        plain = torch.autograd.grad(y.square().sum(), [*net.parameters()])
        assert type(y.grad_fn).__name__ != "_MLPBackward"
    kernels.has_product.cache_clear()
    assert kernels.has_product() and type(net(x).grad_fn).__name__ == "_MLPBackward"
    z = double(x.double())
    close([y, *plain], [z, *torch.autograd.grad(z.square().sum(), [*double.parameters()])])
