"""What a hostile policy folder can do to the process that loads it: nothing but be refused."""

import math
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from qgf_make import SCALE, edit, resign, write_tiny

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files import strict_yaml
from qgf_ros.files.share import share_folder
from qgf_ros.files.strict_yaml import clipped, parse_yaml, shown
from qgf_ros.guidance.backends.onnx_graph import check_graph
from qgf_ros.guidance.reference import check_answers
from qgf_ros.policy import vetting
from qgf_ros.policy.folder import load_policy
from qgf_ros.policy.vetting import Interrupted, vetted_policy

POLICIES = share_folder() / "config" / "policies"
MOST_NODES = strict_yaml.MAX_NODES if SCALE > 1 else 20_000  # of the real number takes 10 s
ALIASES = b"a: &a [1,1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghij"
)


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    "text",
    [
        ALIASES,
        b"a: &a 1\nb: 2",
        b"x: {<<: {a: 1}}",
        b"[" * 3000,
        b"[1," * 40 + b"1" + b"]" * 40,
        b"x: 0x" + b"f" * 100_000,
        b"x: 1" + b":20" * 100_000,
        b"? [a, b]\n: 1",
        b"? {a: b}\n: 1",
        b"x: !!python/object:os.system {}",
        b"x: !!map [1]",
        b"x: !!set 1",
        b"x: !!int {}",
        b"\xff\xfe\x00",
        b"a: 1\na: 2",
        b"[" + b"1," * (5 * MOST_NODES // 4) + b"]",
    ],
    ids=range(16),
)
def test_fault_119_yaml_that_would_take_the_interpreter_is_refused_in_few_words(text, monkeypatch):
    monkeypatch.setattr(strict_yaml, "MAX_NODES", MOST_NODES)
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "policy.yaml")
    assert len(str(caught.value)) < 600


def test_fault_119_forty_thousand_keys_are_looked_at_once_each(monkeypatch):
    """Not by a clock: each key is hashed, and never compared with all that came before."""
    text = b"".join(b"k%d: 1\n" % i for i in range(40_000))
    assert len(parse_yaml(text, "x")) == 40_000


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, "\udc80\x00\x1b[2J", 10**100_000, [[0]] * 10**6, {i: i for i in range(10**5)},
     b"x" * 10**6, float("nan"), None, True, object(), ("\ud800",) * 9],
    ids=range(11),
)  # fmt: skip
def test_fault_119_no_error_quotes_a_value_of_unknown_size(value):
    text = shown(value)
    assert len(text) < 1000 and text.isprintable()
    assert text.encode()
    if not isinstance(value, int):
        assert clipped(value if isinstance(value, str) else text).isprintable()


@pytest.mark.parametrize("key", ["name", "description"])
@pytest.mark.parametrize("text", ["a\udc80", "a\x1b[2J", "\ud800", "a\x00", "\u202e"])
def test_fault_122_text_that_cannot_be_sent_or_printed_is_refused_at_load(folder, key, text):
    file = folder / "policy.yaml"
    escaped = "".join(f"\\u{ord(c):04x}" for c in text)
    lines = [r for r in file.read_text().splitlines() if not r.startswith(f"{key}:")]
    file.write_text("\n".join([*lines, f'{key}: "{escaped}"', ""]))
    resign(folder)
    with pytest.raises(PolicyRefused) as caught:
        load_policy(folder)
    assert str(caught.value).isprintable()


def graph(*nodes, initializers=(), functions=(), domain=""):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(list(nodes), "g", [], [end], list(initializers))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid(domain, 20)], ir_version=10)
    model.functions.extend(functions)
    assert onnx
    return model.SerializeToString()


def hostile_graphs():
    from onnx import TensorProto, helper, numpy_helper

    node, number = helper.make_node, numpy_helper.from_array
    inner = helper.make_graph([], "b", [], [])
    far = TensorProto(name="x", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="../../../etc/passwd")
    wide = number(np.array([2**20, 2**20], np.int64), "s")
    absurd = TensorProto(name="x", data_type=1, dims=[2**31, 2**31])
    text = TensorProto(name="x", data_type=8, dims=[1], string_data=[b"x"])
    yield graph(node("Loop", ["n", ""], ["y"], body=inner))
    yield graph(node("Scan", ["n"], ["y"], body=inner, num_scan_inputs=1))
    yield graph(node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    yield graph(node("ConstantOfShape", ["s"], ["y"]), initializers=[wide])
    yield graph(node("Tile", ["s", "s"], ["y"]), initializers=[wide])
    yield graph(node("Expand", ["s", "s"], ["y"]), initializers=[wide])
    yield graph(node("Resize", ["s"], ["y"]))
    yield graph(node("Add", ["x", "x"], ["y"]), initializers=[far])
    yield graph(node("Add", ["x", "x"], ["y"]), initializers=[absurd])
    yield graph(node("Add", ["x", "x"], ["y"]), initializers=[text])
    yield graph(node("Add", ["x", "x"], ["y"], domain="evil"))
    yield graph(node("Constant", [], ["y"], value=number(np.ones(3, np.float32))))
    f = helper.make_function("d", "Add", ["x"], ["y"], [], [helper.make_opsetid("", 20)])
    yield graph(node("Add", ["x", "x"], ["y"]), functions=[f])


def test_fault_120_a_graph_that_export_does_not_write_is_not_opened():
    pytest.importorskip("onnx")
    refused = 0
    for model in hostile_graphs():
        with pytest.raises(PolicyRefused, match="qgf export"):
            check_graph(model, "sampler.onnx")
        refused += 1
    assert refused == 13


@pytest.mark.parametrize("name", ["planar_arm", "ur5e_cube"])
def test_fault_120_shipped_graphs_pass_and_damaged_ones_end_in_a_refusal(name):
    data = (POLICIES / name / "sampler.onnx").read_bytes()
    check_graph(data, name)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 4000, 40):
        try:
            check_graph(data[:at] + bytes([rng.integers(256)]) + data[at + 1 : 8000], name)
        except PolicyRefused:
            continue
        raise AssertionError("cut short and taken")


def test_a_sound_folder_is_the_same_policy_through_the_child(folder):
    ours, theirs = load_policy(folder), vetted_policy(folder)
    assert ours.sha256 == theirs.sha256 and ours.description == theirs.description
    assert all(np.array_equal(ours.critic[k], theirs.critic[k]) for k in ours.critic)


def test_fault_121_the_child_is_ended_by_a_wish_to_stop_and_by_the_clock(folder, monkeypatch):
    made = []
    real = subprocess.Popen

    def popen(*args, **kw):
        made.append(real(*args, **kw))
        return made[-1]

    monkeypatch.setattr(vetting.subprocess, "Popen", popen)
    monkeypatch.setattr(vetting, "BOOT", "import time; time.sleep(1000)")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        vetted_policy(folder, stopping=lambda: next(asked))
    with pytest.raises(PolicyRefused, match="not verified within"):
        vetted_policy(folder, wall=0.2)
    assert all(p.returncode == -9 for p in made) and len(made) == 2


@pytest.mark.parametrize("crash", ["import os; os.abort()", "x = [0]\nwhile True: x = x + x"])
def test_fault_121_a_child_that_crashes_is_a_refusal(folder, monkeypatch, crash):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
    monkeypatch.setattr(vetting, "BOOT", limit + crash)
    with pytest.raises(PolicyRefused, match="without an answer"):
        vetted_policy(folder)


def test_fault_121_no_process_to_be_had_is_a_refusal(folder, monkeypatch):
    def none(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(vetting.subprocess, "Popen", none)
    with pytest.raises(PolicyRefused, match="no process could be started"):
        vetted_policy(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("normalizer", "action_center"), [1.7e308, 0.0]),
        (("normalizer", "action_half_range"), [1.7e308, 1.0]),
        (("normalizer", "action_center"), [500.0, 0.0]),
        (("normalizer", "obs_std"), [1e-300] * 5),
        (("normalizer", "obs_mean"), [1e300] * 5),
        (("support",), {"low": [-1e200] * 10, "high": [1e200] * 10}),
    ],
    ids=range(6),
)
def test_fault_123_numbers_that_mean_nothing_are_refused_at_load(folder, path, value):
    edit(folder, *path, value=value)
    with pytest.raises(PolicyRefused):
        load_policy(folder)


def test_fault_124_a_sampler_that_is_not_the_policys_is_refused():
    ort = pytest.importorskip("qgf_ros.guidance.backends.onnx")
    policy = load_policy(POLICIES / "planar_arm")
    sampler = ort.OnnxSampler(policy, "cpu")
    check_answers(policy, sampler)

    for field in ("action", "action_unguided", "q", "q_unguided"):
        with pytest.raises(PolicyRefused, match="does not answer as the policy's weights do"):
            check_answers(policy, Changed(sampler, **{field: lambda value: -value}))
    with pytest.raises(
        PolicyRefused, match="Q differs"
    ):  # of members that all agree: never doubted
        check_answers(policy, Changed(sampler, q_std=lambda value: value * 0))


class Changed:
    """A sampler, with another answer in some fields; where `only` says so of its weight."""

    backend = "onnx"

    def __init__(self, sampler, only=lambda weight: True, **fields):
        self.sampler, self.only, self.fields = sampler, only, fields

    def __call__(self, obs, noise, weight):
        sample = self.sampler(obs, noise, weight)
        if not self.only(weight):
            return sample
        return replace(sample, **{k: f(getattr(sample, k)) for k, f in self.fields.items()})


@pytest.mark.parametrize("default", [None, math.inf])
def test_fault_124_guidance_that_is_wrong_at_another_beta_than_the_default_is_refused(default):
    """Beta is set live, and may be unguided at first."""
    ort = pytest.importorskip("qgf_ros.guidance.backends.onnx")
    policy = load_policy(POLICIES / "planar_arm")
    sampler = ort.OnnxSampler(policy, "cpu")
    if default is not None:
        beta = replace(policy.description.beta, default=default)
        policy = replace(policy, description=replace(policy.description, beta=beta))
    usual = 1 / policy.description.beta.default
    check_answers(policy, sampler)
    with pytest.raises(PolicyRefused, match="does not answer as"):
        check_answers(
            policy, Changed(sampler, lambda w: w > 1.01 * usual, action=lambda value: -value)
        )


def test_fault_125_whatever_is_done_to_a_folder_ends_in_a_refusal(folder, tmp_path):
    """Seeded: types, numbers, names and bytes of every file; never another exception."""
    rng, taken = np.random.default_rng(7), 0
    values = [None, True, -1, 2**70, 10**40, float("inf"), float("nan"), "", "x" * 30_000, "\x07",
              [], [[]], {}, {"a": 1}, ["a"] * 50, [None], {1: {2: 3}}, 0.0, "2001-01-01"]  # fmt: skip
    content = yaml.safe_load((folder / "policy.yaml").read_text())
    places = []

    def walk(at, path):
        for key in at if isinstance(at, dict) else range(len(at)):
            places.append((*path, key))
            if isinstance(at[key], (dict, list)) and at[key]:
                walk(at[key], (*path, key))

    walk(content, ())
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for number in range(40 * SCALE):
        if number % 4:
            edit(copy, *places[rng.integers(len(places))], value=values[rng.integers(len(values))])
        else:
            name = ("velocity.safetensors", "critic.safetensors", "policy.yaml")[number // 4 % 3]
            data = bytearray((copy / name).read_bytes())
            for at in rng.integers(0, 400, 3):
                data[at] = rng.integers(256)
            if number % 8 == 0 and name != "policy.yaml":
                data[:8] = struct.pack("<Q", int(rng.integers(2**62)))
            (copy / name).write_bytes(data)
            resign(copy)
        try:
            load_policy(copy)
            taken += 1
        except PolicyRefused as error:
            assert len(str(error)) < 3000 and str(error).encode()
        for file in folder.iterdir():
            shutil.copy(file, copy / file.name)
    assert taken < 60


def grown(how):
    """The shipped sampler with a part that answers the same, and asks for memory by what it is given."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string((POLICIES / "planar_arm" / "sampler.onnx").read_bytes())
    node, inner = helper.make_node, model.graph

    def constant(name, values, kind=np.int64):
        inner.initializer.append(numpy_helper.from_array(np.array(values, kind), name))

    constant("h_zero", [0.0], np.float32)
    constant("h_many", [2.0**36], np.float32)
    constant("h_one", [1])
    constant("h_axis", [0])
    whole = [
        node("ReduceMax", ["obs"], ["h_max"], keepdims=0),
        node("Max", ["h_max", "h_zero"], ["h_least"]),
        node("Mul", ["h_least", "h_many"], ["h_wide"]),
        node("Cast", ["h_wide"], ["h_size"], to=TensorProto.INT64),
    ]
    if how == "expand":
        whole += [
            node("Add", ["h_size", "h_one"], ["h_shape"]),
            node("Expand", ["h_zero", "h_shape"], ["h_big"]),
        ]
    elif how == "slice":
        constant("h_row", [0.0] * 4096, np.float32)
        whole += [node("Slice", ["h_row", "h_axis", "h_size"], ["h_0"])]
        whole += [node("Concat", [f"h_{k}"] * 60, [f"h_{k + 1}"], axis=0) for k in range(4)]
        whole += [node("Identity", ["h_4"], ["h_big"])]
    elif how == "arranged":  # in more steps, so that no name is one of an input
        whole += [
            node("Concat", ["h_size", "h_one"], ["h_both"], axis=0),
            node("Cast", ["h_both"], ["h_32"], to=TensorProto.INT32),
            node("Cast", ["h_32"], ["h_shape"], to=TensorProto.INT64),
            node("Expand", ["h_zero", "h_shape"], ["h_big"]),
        ]
    else:  # by the number of candidates
        whole = [
            node("Shape", ["noise"], ["h_b"], start=0, end=1),
            node("Concat", ["h_b"] * 7, ["h_shape"], axis=0),
            node("Expand", ["h_zero", "h_shape"], ["h_big"]),
        ]
    whole += [
        node("ReduceSum", ["h_big"], ["h_sum"], keepdims=0),
        node("Add", ["h_action", "h_sum"], ["action"]),
    ]
    for old in inner.node:
        for part in (old.input, old.output):
            part[:] = ["h_action" if n == "action" else n for n in part]
    inner.node.extend(whole)
    return model.SerializeToString()


@pytest.mark.parametrize("how", ["expand", "slice", "arranged"])
def test_fault_120_a_graph_whose_memory_an_observation_decides_is_not_opened(how):
    with pytest.raises(PolicyRefused, match="depend on what it is given"):
        check_graph(grown(how), "sampler.onnx")


def test_fault_120_a_graph_that_only_many_candidates_make_large_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    folder = Path(shutil.copytree(POLICIES / "planar_arm", tmp_path / "grown"))
    (folder / "sampler.onnx").write_bytes(grown("candidates"))
    resign(folder)
    with pytest.raises(PolicyRefused):
        vetted_policy(folder, use=vetting.Use("onnx", "cpu"))
    sound = vetted_policy(POLICIES / "planar_arm", use=vetting.Use("onnx", "cpu"))
    assert sound.graph_checked


def test_fault_120_a_name_that_is_made_twice_is_not_opened():
    from onnx import helper

    with pytest.raises(PolicyRefused, match="made twice"):
        check_graph(graph(*[helper.make_node("Neg", ["x"], ["y"])] * 2), "sampler.onnx")
