"""What a policy's description may say, number by number: each bound from both sides, without a folder."""

import math
from dataclasses import replace

import pytest
from qgf_make import contract, description

from qgf_ros.policy import description as policy
from qgf_ros.policy.description import Beta, Export, Flow, Network, Returns, Sanity, Support
from qgf_ros.policy.plausible import check_plain

NETWORK = {"file": "a.safetensors", "hidden": (8,), "members": 1}
RETURNS = {"objective": "time_to_success", "discount": 0.99, "scale": 1.0}
EXPORT = {"largest_error": 0.5, "samples": 1, "ties_left_out": 0, "onnxruntime": "1"}
MOST = policy.MAX_LAYERS

GOOD = [
    (Network, NETWORK),
    (Network, NETWORK | {"hidden": (1,) * MOST, "members": 10}),
    (Flow, {"denoise_steps": 1}),
    (Flow, {"denoise_steps": 1000}),
    (Returns, RETURNS | {"discount": 1.0, "aggregation": "mean-0.5std"}),
    (Beta, {"default": math.inf, "min": 0.1, "suggested": (0.1,)}),
    (Beta, {"default": policy.LEAST_BETA, "min": policy.LEAST_BETA}),
    (Sanity, {"q_low": 0.0, "q_high": 1.0, "gradient_norm": 1.0}),
    (Support, {"low": (0.0, 1.0), "high": (0.0, 2.0)}),
    (Export, EXPORT | {"largest_error": 0.0, "native_error": None, "half_error": 0.1}),
]
BAD = [
    (Network, NETWORK | {"hidden": (1,) * (MOST + 1)}, "hidden has"),
    (Network, NETWORK | {"hidden": (8, 0)}, "hidden has"),
    (Network, NETWORK | {"members": 0}, "hidden has"),
    (Network, NETWORK | {"members": 11}, "hidden has"),
    (Network, NETWORK | {"file": "b/a.safetensors"}, "file is"),
    (Network, NETWORK | {"file": "a.pickle"}, "file is"),
    (Flow, {"denoise_steps": 0}, "denoise_steps"),
    (Flow, {"denoise_steps": 1001}, "denoise_steps"),
    (Flow, {"denoise_steps": 9, "noise_at": 1.0, "clean_at": 0.0}, "flow time"),
    (Returns, RETURNS | {"aggregation": "max"}, "unknown aggregation"),
    (Returns, RETURNS | {"discount": 0.0}, "discount"),
    (Returns, RETURNS | {"discount": 1.01}, "discount"),
    (Returns, RETURNS | {"scale": 0.0}, "discount"),
    (Returns, RETURNS | {"scale": math.inf}, "discount"),
    (Beta, {"default": 1.0, "min": 0.0}, "beta min"),
    (Beta, {"default": math.inf, "min": math.inf}, "beta min"),
    (Beta, {"default": 0.1, "min": 0.2}, "beta min"),
    (Beta, {"default": 1.0, "min": 0.2, "suggested": (0.5, 0.1)}, "beta min"),
    (Sanity, {"q_low": 1.0, "q_high": 1.0, "gradient_norm": 1.0}, "no range"),
    (Sanity, {"q_low": 0.0, "q_high": 1.0, "gradient_norm": 0.0}, "no range"),
    (Support, {"low": (0.0,), "high": (1.0, 2.0)}, "a range needs both"),
    (Support, {"low": (-math.inf,), "high": (1.0,)}, "a range needs both"),
    (Support, {"low": (2.0,), "high": (1.0,)}, "a range needs both"),
    (Export, EXPORT | {"largest_error": -0.1}, "export"),
    (Export, EXPORT | {"half_error": math.inf}, "export"),
    (Export, EXPORT | {"samples": 0}, "export"),
    (Export, EXPORT | {"ties_left_out": -1}, "export"),
]


@pytest.mark.parametrize("kind, given", GOOD)
def test_fault_123_what_can_be_meant_is_taken(kind, given):
    kind(**given)


@pytest.mark.parametrize("kind, given, words", BAD)
def test_fault_123_what_cannot_be_meant_is_refused(kind, given, words):
    with pytest.raises(ValueError, match=words):
        kind(**given)


def test_fault_123_how_an_ensemble_is_read():
    read = policy.parse_aggregation
    assert [read("min"), read("mean"), read("mean-1.5std")] == [
        ("min", 0.0), ("mean", 0.0), ("mean", 1.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"name": "  "}, "name is empty"),
        ({"velocity": replace(Network(**NETWORK), output="sigmoid")}, "velocity has output"),
        ({"velocity": replace(Network(**NETWORK), members=2)}, "velocity has output"),
    ],
)
def test_fault_123_a_flow_is_one_network_and_has_a_name(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(description(contract()), **changes)


@pytest.mark.parametrize(
    "value, words",
    [
        ({1.5: 0}, "keys are text"),
        ({True: 0}, "keys are text"),
        ({"a\x00": 0}, "a key of"),
        ({"name": "two\nlines"}, "name"),
        ([["deep", "\x1b[2J"]], "policy.yaml"),
        ({"n": 2**128}, "whole numbers"),
        ({"n": b"bytes"}, "is a bytes"),
        ({"n": {1, 2}}, "is a set"),
    ],
)
def test_fault_122_only_what_json_has_and_can_be_printed(value, words):
    with pytest.raises(ValueError, match=words):
        check_plain(value)


def test_fault_122_what_json_has_is_taken():
    check_plain({"a": [None, 1.5, True, 2**128 - 1, {7: "x"}], "description": "two\nlines"})
    check_plain({"provenance": {"log": ["two\nlines"]}})
    check_plain("two\nlines", lines=True)
