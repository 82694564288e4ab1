"""Every kind of critic output and aggregation, from a policy folder through ONNX to a sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from qgf_make import contract, description, resign, tensors, write_tiny

from qgf_ros.errors import PolicyRefused
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.description import Beta, Network, Returns
from qgf_ros.policy.folder import load_policy, write_policy
from training.export import parity as parity_module
from training.export.parity import networks, parity
from training.export.write import export
from training.learn.models import aggregate

COMBINATIONS = [("sigmoid", "min", 2), ("linear", "mean-1std", 3), ("sigmoid", "mean-0.5std", 5)]


def make(folder, output, aggregation, members):
    write_tiny(
        folder,
        critic=Network("critic.safetensors", (32, 32), members, output=output),
        returns=Returns("time_to_success", 0.99, 1.0, aggregation),
    )
    return folder


def errors(policy, made_of=None, rounds=1):
    """Of the exported and the native sampler, of that policy or another one; of few inputs: the
    exported one has passed with all of them."""
    made_of = made_of or policy
    samplers = OnnxSampler(made_of, "cpu"), NativeSampler(made_of)
    with pytest.MonkeyPatch.context() as few:
        few.setattr(parity_module, "ROUNDS", rounds)
        few.setattr(parity_module, "KINDS", ())
        return [found.largest_error for found in parity(policy, *samplers)]


@pytest.fixture(scope="module", params=COMBINATIONS, ids=str)
def exported(request, tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("policy") / "p", *request.param)
    return request.param, export(folder), load_policy(folder)


def test_the_exported_sampler_passes_parity(exported):
    _, result, policy = exported
    assert result.largest_error <= 1 and result.samples > 500
    assert result.native_error <= 1
    assert result.ties_left_out < 0.1 * result.samples
    assert policy.description.export == result


def test_parity_tells_other_aggregations_and_outputs_apart(exported):
    _, _, policy = exported
    d = policy.description
    other = "mean" if d.returns.aggregation != "mean" else "min"
    wrong = replace(d, returns=replace(d.returns, aggregation=other))
    assert min(errors(replace(policy, description=wrong), policy)) > 1
    flat = "linear" if d.critic.output == "sigmoid" else "sigmoid"
    wrong = replace(d, critic=replace(d.critic, output=flat))
    assert min(errors(replace(policy, description=wrong), policy)) > 1


def test_q_and_its_spread_are_those_of_the_members(exported):
    (output, aggregation, _), _, policy = exported
    rng = np.random.default_rng(3)
    obs = rng.standard_normal(policy.obs_dim).astype(np.float32)
    noise = rng.standard_normal((6, policy.flat_dim)).astype(np.float32)
    drawn = make_sampler(policy, device="cpu")(obs, noise, 2.0)
    _, critic = networks(policy, torch.float64)
    rows = torch.from_numpy(obs).double().expand(6, -1)
    q = critic(rows, torch.from_numpy(drawn.action).double())
    np.testing.assert_allclose(drawn.q, aggregate(q, aggregation), atol=2e-6)
    np.testing.assert_allclose(drawn.q_std, q.numpy().std(axis=0), atol=2e-6)
    if output == "sigmoid":
        assert ((0 < q) & (q < 1)).all()


def test_a_policy_from_before_these_settings_is_linear_with_min(tmp_path):
    write_tiny(tmp_path / "p")
    file = tmp_path / "p" / "policy.yaml"
    content = yaml.safe_load(file.read_text())
    del content["critic"]["output"], content["velocity"]["output"]
    del content["returns"]["aggregation"]
    file.write_text(yaml.safe_dump(content))
    resign(tmp_path / "p")
    d = load_policy(tmp_path / "p", contract()).description
    assert (d.critic.output, d.returns.aggregation) == ("linear", "min")


@pytest.mark.parametrize(
    "key, value, words",
    [
        (("critic", "output"), "tanh", "linear, sigmoid"),
        (("returns", "aggregation"), "mean-xstd", "mean-<k>std"),
    ],
)
def test_an_unknown_output_or_aggregation_is_refused(tmp_path, key, value, words):
    write_tiny(tmp_path / "p")
    file = tmp_path / "p" / "policy.yaml"
    content = yaml.safe_load(file.read_text())
    content[key[0]][key[1]] = value
    file.write_text(yaml.safe_dump(content))
    resign(tmp_path / "p")
    with pytest.raises(PolicyRefused, match=words):
        load_policy(tmp_path / "p")


def test_what_float32_cannot_decide_is_left_out_and_too_much_of_it_refused(tmp_path, monkeypatch):
    """A critic so steep that a last digit grows to a whole action: the reference does not agree
    with itself there, so the export cannot be held to it."""
    own = contract()
    d = description(
        own,
        critic=Network("critic.safetensors", (32, 32), 5),
        returns=Returns("reward", 0.99, 1.0, "mean-1std"),
        beta=Beta(0.05, 0.05, (0.05,)),
    )
    weights = tensors(own, d)
    weights["critic.safetensors"]["layers.2.weight"] *= 20_000
    write_policy(tmp_path / "p", d, weights)
    monkeypatch.setattr(parity_module, "LARGEST_SHARE", 1.0)
    result = export(tmp_path / "p")
    assert result.largest_error <= 1 and result.ties_left_out > 0
    policy = load_policy(tmp_path / "p")
    monkeypatch.setattr(parity_module, "UNDECIDED", float("inf"))
    assert min(errors(policy, rounds=6)) > 1, "else this test shows nothing"
    monkeypatch.undo()
    monkeypatch.setattr(parity_module, "LARGEST_SHARE", 0.0)
    assert errors(policy, rounds=6) == [float("inf")] * 2
