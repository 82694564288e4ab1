"""The written-out reverse pass against autograd, and its ONNX export against the reference."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qgf_ros.guidance.backends.explicit import INPUTS, OUTPUTS
from qgf_ros.guidance.backends.explicit_nets import CriticGradient, gelu_and_slope
from training.export.explicit import GuidedSampler, export_onnx
from training.guards import Box, Guards
from training.learn.models import Critic, VelocityField, aggregate
from training.sampling import sample

AGGREGATIONS = ["min", "mean", "mean-0std", "mean-1std", "mean-0.5std"]


def nets(obs_dim=5, D=4, hidden=(16, 12), members=2, seed=0, dtype=torch.float32, output="linear"):
    torch.manual_seed(seed)
    velocity = VelocityField(obs_dim, D, hidden)
    critic = Critic(obs_dim, D, hidden, members, output)
    for p in (*velocity.parameters(), *critic.parameters()):
        p.data.add_(0.1 * torch.randn_like(p))
    return velocity.to(dtype).requires_grad_(False), critic.to(dtype).requires_grad_(False)


def inputs(rows: int, obs_dim=5, D=4, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, obs_dim, dtype=dtype), torch.randn(rows, D, dtype=dtype)


def gradient_of(critic: Critic, aggregation: str) -> CriticGradient:
    return CriticGradient(critic.mlp.state_dict(), 4, aggregation, critic.output == "sigmoid")


GUARDS = INPUTS[3:]


def drawn(module: GuidedSampler, obs, noise, w, **guards: Tensor) -> dict[str, Tensor]:
    """What the module gives; guards and committed actions by name, off where not given."""
    off = dict(zip(GUARDS, module.unguarded(), strict=True))
    given = {k: torch.as_tensor(v).to(off[k].dtype) for k, v in guards.items()}
    return named(module(obs, noise, w, *(off | given).values()))


def named(outputs) -> dict[str, Tensor]:
    return dict(zip(OUTPUTS, outputs, strict=True))


def test_gelu_and_its_slope():
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64, requires_grad=True)
    y, slope = gelu_and_slope(x)
    want = torch.nn.functional.gelu(x, approximate="tanh")
    (gradient,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(y, want, atol=1e-14, rtol=1e-12)
    torch.testing.assert_close(slope, gradient, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("hidden", [(8,), (16, 12), (6, 7, 8, 9)])
def test_reverse_pass_is_the_gradient(members, aggregation, hidden, output, monkeypatch):
    _, critic = nets(hidden=hidden, members=members, dtype=torch.float64, output=output)
    obs, action = inputs(50, dtype=torch.float64)
    explicit = gradient_of(critic, aggregation)
    seen = explicit.observe(obs)
    torch.testing.assert_close(explicit(seen, action), critic(obs, action))
    action.requires_grad_()
    (want,) = torch.autograd.grad(aggregate(critic(obs, action), aggregation).sum(), action)
    for exporting in (False, True):  # the operations of ONNX, and those that PyTorch has fused
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)  # noqa: B023
        got, members_q = explicit.gradient(seen, action.detach(), explicit.transposed())
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(members_q.squeeze(-1), critic(obs, action))


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("steps", [1, 7, 10])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("sizes", [(1, 1, (8,), 1), (5, 4, (16, 12), 2), (3, 10, (8, 8, 8, 8), 5)])
def test_agrees_with_the_reference_sampler(sizes, aggregation, steps, output):
    obs_dim, D, hidden, members = sizes
    velocity, critic = nets(obs_dim, D, hidden, members, dtype=torch.float64, output=output)
    obs, noise = inputs(9, obs_dim, D, dtype=torch.float64)
    w = torch.tensor([0, 0.1, 1, 5, 0, 2, 3, 0.5, 0], dtype=torch.float64)
    out = drawn(GuidedSampler(velocity, critic, steps, aggregation), obs, noise, w)
    options = {"steps": steps, "aggregation": aggregation}
    guided = sample(velocity, critic, obs, noise, w, **options)
    unguided = sample(velocity, critic, obs, noise, 0.0, **options)
    members_q = critic(obs, guided.action)
    for name, want in {
        "action": guided.action,
        "q": guided.q,
        "action_unguided": unguided.action,
        "q_unguided": unguided.q,
        "q_std": members_q.std(dim=0, unbiased=False),
        "gradient_norm": guided.gradient_norm,
        "guidance_ratio": guided.guidance_ratio,
    }.items():
        torch.testing.assert_close(out[name], want, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("weight", [0.0, 1.0, 8.0])
def test_float32_is_within_the_tolerance_of_float64(weight):
    velocity, critic = nets(11, 10, (64, 64, 64))
    obs, noise = inputs(300, 11, 10)
    single = drawn(GuidedSampler(velocity, critic), obs, noise, torch.full((300,), weight))[
        "action"
    ]
    gaps = []

    def watched(o: Tensor, a: Tensor) -> Tensor:
        q = critic(o, a)
        gaps.append((q[0] - q[1]).detach().abs())
        return q

    velocity.double(), critic.double()
    double = sample(velocity, watched, obs.double(), noise.double(), weight).action
    keep = torch.stack(gaps).min(dim=0).values > 1e-5
    assert keep.double().mean() > 0.9, f"{int((~keep).sum())} of 300 samples are ties"
    assert (single - double).abs()[keep].max() < 1e-5 * (1 + weight)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 17])
def test_halves_are_bit_equal_at_zero_weight(rows):
    velocity, critic = nets(11, 10, (64, 64))
    w = torch.arange(rows) % 2 * 1.5  # every second row is guided
    out = drawn(GuidedSampler(velocity, critic), *inputs(rows, 11, 10), w)
    off = w == 0
    assert torch.equal(out["action"][off], out["action_unguided"][off])
    assert torch.equal(out["q"][off], out["q_unguided"][off])
    assert torch.all(out["gradient_norm"][off] == 0) and torch.all(out["guidance_ratio"][off] == 0)
    assert torch.all(out["gradient_norm"][~off] > 0)
    assert not torch.any((out["action"] == out["action_unguided"])[~off].all(dim=-1))


def test_members_that_agree_guide_as_one():
    """Without spread there is no slope of it: mean-1std is the mean, and nothing is NaN."""
    _, critic = nets(members=3, dtype=torch.float64)
    for p in critic.parameters():
        p.data.copy_(p.data[:1].expand_as(p))
    seen, action = (
        gradient_of(critic, "mean").observe(torch.ones(6, 5).double()),
        inputs(6)[1],
    )
    both = [gradient_of(critic, how) for how in ("mean", "mean-1std")]
    mean, lower = (c.gradient(seen, action.double(), c.transposed())[0] for c in both)
    torch.testing.assert_close(mean, lower)


def test_a_saturated_critic_has_a_finite_gradient():
    _, critic = nets(output="sigmoid")
    critic.mlp.layers[-1].bias.fill_(200.0)
    explicit = gradient_of(critic, "mean-1std")
    obs, action = inputs(8)
    seen = explicit.observe(obs)
    assert torch.all(explicit(seen, action) == 1)
    assert torch.all(explicit.gradient(seen, action, explicit.transposed())[0] == 0)


def test_an_infinite_gradient_does_not_reach_unguided_rows():
    velocity, critic = nets()
    critic.mlp.layers[-1].weight.fill_(3e38)
    out = drawn(GuidedSampler(velocity, critic), *inputs(2), torch.tensor([0.0, 1.0]))
    assert not out["gradient_norm"][1].isfinite(), "else this test shows nothing"
    assert out["action"][0].isfinite().all() and out["action_unguided"].isfinite().all()
    assert torch.equal(out["action"][0], out["action_unguided"][0])
    assert out["gradient_norm"][0] == 0 and out["guidance_ratio"][0] == 0


BOX = 0.1
MASK = (True, False, True, True)
CASES = {  # inputs of the module; the same for the reference; what `acted` is where it takes hold
    "support": ({"low": [-BOX] * 4, "high": [BOX] * 4}, Guards(support=Box((-BOX,), (BOX,))), 1),
    "disagreement": ({"disagreement": 0.05}, Guards(disagreement=0.05), 2),
    "ratio_cap": ({"ratio_cap": 0.1}, Guards(ratio_cap=0.1), 4),
    "mask": ({"guide": [MASK] * 10}, Guards(mask=MASK), 0),
    "window": ({"guide": [[2 <= k] * 4 for k in range(10)]}, Guards(skip_first=2), 0),
    "window at the end": ({"guide": [[6 <= k] * 4 for k in range(10)]}, Guards(last=4), 0),
}


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("name", CASES)
def test_each_guard_is_the_one_of_the_reference(name, output):
    given, guards, bit = CASES[name]
    velocity, critic = nets(members=3, dtype=torch.float64, output=output)
    obs, noise = inputs(40, dtype=torch.float64)
    w = torch.tensor([0.0, 1.0, 8.0, 30.0], dtype=torch.float64).repeat(10)
    module = GuidedSampler(velocity, critic)
    plain, out = drawn(module, obs, noise, w), drawn(module, obs, noise, w, **given)
    want = sample(velocity, critic, obs, noise, w, guards=guards)
    for field in ("action", "q", "gradient_norm", "guidance_ratio"):
        torch.testing.assert_close(out[field], getattr(want, field), atol=1e-9, rtol=1e-7)
    for field in ("action_unguided", "q_unguided"):
        assert torch.equal(out[field], plain[field]), "guards are for the guided half"
    changed = (out["action"] != plain["action"]).any(dim=1)
    assert changed.any() and not changed[w == 0].any()
    if bit:
        assert torch.all(out["acted"][changed] == bit), "and says in which rows it took hold"
        assert set(out["acted"].tolist()) == {0, bit} and not out["acted"][w == 0].any()


@pytest.mark.parametrize("name", ["support", "disagreement", "ratio_cap"])
def test_a_guard_that_is_on_and_takes_no_hold_changes_no_bit(name):
    far = {"support": {"low": [-1.1] * 4, "high": [1.1] * 4}}
    module = GuidedSampler(*nets())
    obs, noise = inputs(16)
    w = torch.linspace(0, 4, 16)
    plain = drawn(module, obs, noise, w)
    for field, value in drawn(module, obs, noise, w, **far.get(name, {name: 1e30})).items():
        assert torch.equal(value, plain[field]), field


def test_all_guards_act_in_the_order_of_the_reference():
    given = {k: v for inputs_, *_ in CASES.values() for k, v in inputs_.items()}
    given["guide"] = [[x and 2 <= k for x in MASK] for k in range(10)]
    given |= {"fixed": [True, False, False, False], "committed": [0.25, 0.0, 0.0, 0.0]}
    box = Box((-BOX,), (BOX,))
    guards = Guards(skip_first=2, disagreement=0.05, mask=MASK, support=box, ratio_cap=0.1)
    velocity, critic = nets(members=3, dtype=torch.float64)
    obs, noise = inputs(40, dtype=torch.float64)
    w = torch.full((40,), 8.0, dtype=torch.float64)
    out = drawn(GuidedSampler(velocity, critic), obs, noise, w, **given)
    held = torch.tensor([0.25], dtype=torch.float64)
    want = sample(velocity, critic, obs, noise, w, guards=guards, committed=held)
    torch.testing.assert_close(out["action"], want.action, atol=1e-9, rtol=1e-7)
    assert torch.all(out["action"][:, 0] == 0.25) and torch.all(
        out["action_unguided"][:, 0] == 0.25
    )


@pytest.mark.parametrize("weight", [0.0, 8.0])
def test_committed_numbers_are_held_and_the_others_follow(weight):
    velocity, critic = nets(dtype=torch.float64)
    obs, noise = inputs(20, dtype=torch.float64)
    w = torch.full((20,), weight, dtype=torch.float64)
    module = GuidedSampler(velocity, critic)
    plain = drawn(module, obs, noise, w)
    held = torch.tensor([0.5, -1.25], dtype=torch.float64)  # beyond the clip: it is kept too
    given = {"fixed": [True, True, False, False], "committed": [*held, 0, 0]}
    out = drawn(module, obs, noise, w, **given)
    want = sample(velocity, critic, obs, noise, w, committed=held)
    unguided = sample(velocity, critic, obs, noise, 0.0, committed=held)
    torch.testing.assert_close(out["action"], want.action, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(out["action_unguided"], unguided.action, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(out["q"], want.q)
    for half in ("action", "action_unguided"):
        assert torch.equal(out[half][:, :2], held.expand(20, 2)), "to the bit"
        assert not torch.equal(out[half][:, 2:], plain[half][:, 2:]), "the others know of it"


def test_refuses_a_time_table_of_another_length():
    with pytest.raises(ValueError, match="4 rows for 10 steps"):
        GuidedSampler(*nets(), times=torch.zeros(4, 16))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxscript", reason="onnxscript, which exports to ONNX, is not installed")
    velocity, critic = nets(11, 10, (96, 96))
    path = tmp_path_factory.mktemp("onnx") / "sampler.onnx"
    export_onnx(GuidedSampler(velocity, critic), path)
    return path, velocity, critic


def test_onnx_file_holds_the_weights_once_and_nothing_of_this_machine(exported):
    import onnx

    path, velocity, critic = exported
    graph = onnx.load(path).graph
    weights = sum(p.numel() for net in (velocity, critic) for p in net.parameters())
    stored = sum(math.prod(i.dims) for i in graph.initializer)
    assert stored < 1.1 * weights, "steps share their weights"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no external data"
    assert [i.name for i in graph.input] == list(INPUTS)
    assert [o.name for o in graph.output] == list(OUTPUTS)
    assert b".py" not in path.read_bytes(), "stack traces of the exporter"


# Operations of ONNX that ONNX Runtime has on CUDA for the types that the graph has them with, by
# its docs/OperatorKernels.md, and those on shapes, which it runs on the CPU before a capture.
ON_CUDA = """Add And ArgMin Cast Clip Concat Div Equal Expand Gather Gelu Gemm Greater
LayerNormalization Less LessOrEqual MatMul Max Min Mul Not Or ReduceL2 ReduceMax ReduceMean ReduceMin
ReduceSum Reshape Shape Sigmoid Slice Split Sqrt Squeeze Sub Transpose Unsqueeze Where"""


def test_the_graph_can_be_captured_on_cuda(exported):
    """No control flow, which a CUDA graph cannot have, and no node that is left to the CPU."""
    import onnx

    graph = onnx.load(exported[0]).graph
    assert not [n.name for n in graph.node for a in n.attribute if a.HasField("g")]
    assert {n.op_type for n in graph.node} <= set(ON_CUDA.split())


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_onnx_agrees_with_the_reference(exported, rows):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path, velocity, critic = exported
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    obs, noise = inputs(rows, 11, 10)
    w = torch.linspace(0, 4, rows)
    off = GuidedSampler(velocity, critic).unguarded()
    feed = dict(zip(INPUTS, (obs, noise, w, *off), strict=True))
    values = session.run(None, {k: v.numpy() for k, v in feed.items()})
    out = named(map(torch.from_numpy, values))
    want = sample(velocity, critic, obs, noise, w)
    for name in ("action", "q", "gradient_norm", "guidance_ratio"):
        np.testing.assert_allclose(out[name], getattr(want, name), atol=5e-5, err_msg=name)
    unguided = sample(velocity, critic, obs, noise, 0.0)
    np.testing.assert_allclose(out["action_unguided"], unguided.action, atol=1e-5)
    assert torch.equal(out["action"][0], out["action_unguided"][0]), "w = 0 in the first row"
