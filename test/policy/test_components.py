"""Schema 3: a policy of components, some of them another package's, which it only names."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
import yaml
from qgf_make import contract, description, edit, policy_in_memory, tensors, write_tiny

from qgf_ros.errors import DeviceUnavailable, PolicyRefused
from qgf_ros.guidance.registry import backend_names, make_sampler
from qgf_ros.policy.description import Flow, Network, Plugin
from qgf_ros.policy.folder import load_policy, write_policy
from qgf_ros.policy.tensors import network_shapes
from qgf_ros.policy.vetting import Use, vetted_policy

PACKAGE = '''
import numpy as np

class Field:
    """Leads straight to the chunk in its file, plus the first feature."""
    def __init__(self, policy, component, tensors):
        if component.options.get("broken"):
            raise RuntimeError("the weights are of another model")
        self.goal = tensors["field.safetensors"]["goal"]
        self.noisy = component.options.get("noisy", False)
        self.calls = 0

    def __call__(self, obs, action, time):
        self.calls += 1
        shift = 0.01 * self.calls if self.noisy else 0.0
        return (self.goal + 0.1 * obs[0] + shift - action) / (1 - time)

def squares(policy, component, tensors):
    return lambda raw: np.square(raw[:component.options.get("gives", component.size)])

def ends(policy, component, tensors):
    import os
    os._exit(7)

class Backend:
    name, title = "mine", "my own"
    def refuses(self, device, precision):
        return "backend mine runs on the CPU" if device == "cuda" else ""
    def supports(self, policy):
        return "" if policy.description.velocity.kind == "mlp" else "mine knows networks alone"
    def make(self, policy, device, threads, precision):
        from qgf_ros.guidance.sampling import NumpySampler
        sampler = NumpySampler(policy)
        sampler.backend = "mine"
        return sampler
'''
ENTRIES = """
[qgf.velocity_fields]
straight = foreign_parts:Field
ends = foreign_parts:ends
missing = foreign_parts:NotThere

[qgf.encoders]
squares = foreign_parts:squares

[qgf.backends]
mine = foreign_parts:Backend
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package of somebody else's, installed: on the path with its entry points."""
    site = tmp_path / "site"
    info = site / "foreign_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "foreign_parts.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("foreign_parts", None)


ENCODERS = (Plugin("normalizer"), Plugin("squares", size=2))


def write(folder, velocity=None, encoders=ENCODERS, **changes):
    """A policy with a field of another package: its goal is 0.5 everywhere."""
    own = contract()
    flat = own.time.horizon * len(own.action_names)
    d = replace(
        description(own, schema=3, velocity=Network("velocity.safetensors", (8,)), **changes),
        velocity=velocity or Plugin("straight", ("field.safetensors",), ("foreign_parts",)),
        encoders=encoders,
    )
    seen = sum(e.size or len(own.observation_names) for e in encoders)
    rng = np.random.default_rng(0)
    shapes = network_shapes(d.critic, seen + flat, 1, norm_last=True)
    critic = {k: (0.1 * rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}
    weights = {d.critic.file: critic}
    if isinstance(d.velocity, Plugin) and d.velocity.files:
        weights[d.velocity.files[0]] = {"goal": np.full(flat, 0.5, np.float32)}
    write_policy(folder, d, weights)
    return d


def test_fault_040_it_is_written_and_loaded(tmp_path, installed):
    d = write(tmp_path / "p")
    content = yaml.safe_load((tmp_path / "p" / "policy.yaml").read_text())
    assert content["schema"] == 3 and not {"velocity", "critic", "encoders"} & set(content)
    parts = content["components"]
    assert {"kind", "files", "needs"} <= set(parts["velocity"]) and parts["velocity"][
        "kind"
    ] == "straight"
    assert parts["critic"]["kind"] == "mlp" and parts["critic"]["files"] == ["critic.safetensors"]
    assert [e["kind"] for e in parts["encoders"]] == ["normalizer", "squares"]
    policy = load_policy(tmp_path / "p")
    assert policy.description == d
    assert policy.obs_dim == len(policy.contract.observation_names) + 2
    assert "foreign_parts" not in sys.modules, "to load a policy runs no code"
    assert list(policy.others) == ["field.safetensors"] and policy.velocity == {}


def test_it_samples_with_what_is_installed_and_says_why_no_faster_one_does(tmp_path, installed):
    write(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    sampler = make_sampler(policy)
    assert sampler.backend == "numpy"
    assert "native sampler knows no velocity field of the kind straight" in sampler.note
    assert sampler.note.endswith("numpy takes over")
    raw = np.arange(1.0, policy.normalizer.obs_mean.size + 1)
    seen = policy.observed(raw)
    assert seen.encoded.tolist() == [*raw, 1.0, 4.0] and seen.raw is raw is seen.origin.obs
    noise = np.random.default_rng(0).standard_normal((2, policy.flat_dim)).astype(np.float32)
    drawn = sampler(seen.encoded, noise, 0.0)
    np.testing.assert_allclose(drawn.action, 0.6, atol=1e-6)
    with pytest.raises(PolicyRefused, match="of the kind straight.*use backend auto"):
        make_sampler(policy, "native")


def test_fault_121_the_child_runs_it_first(tmp_path, installed):
    write(tmp_path / "p")
    assert vetted_policy(tmp_path / "p", use=Use()).description.velocity.kind == "straight"
    assert "foreign_parts" not in sys.modules
    write(tmp_path / "q", Plugin("ends"))
    with pytest.raises(PolicyRefused, match="ended with status 7 and without an answer"):
        vetted_policy(tmp_path / "q", use=Use())


@pytest.mark.parametrize(
    "velocity, error, said",
    [
        (Plugin("straight", ("field.safetensors",), options={"broken": True}), PolicyRefused,
         "straight.*does not take it.*another model"),
        (Plugin("straight", ("field.safetensors",), options={"noisy": True}), PolicyRefused,
         "does not answer as"),
        (Plugin("missing"), DeviceUnavailable, "missing.*cannot be imported.*NotThere"),
    ],
    ids=["broken", "noisy", "missing"],
)  # fmt: skip
def test_fault_121_what_does_not_work_is_refused_by_name(
    tmp_path, installed, velocity, error, said
):
    write(tmp_path / "p", velocity)
    with pytest.raises(error, match=said):
        make_sampler(load_policy(tmp_path / "p"))


def test_fault_121_one_package_provides_a_kind(tmp_path, installed, monkeypatch):
    """Of two nobody knows which one the policy was made with."""
    write(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    second = tmp_path / "site2" / "others-1.0.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (second / "entry_points.txt").write_text("[qgf.velocity_fields]\nstraight = elsewhere:Field\n")
    monkeypatch.syspath_prepend(second.parent)
    with pytest.raises(DeviceUnavailable, match="elsewhere:Field.*one package must provide it"):
        make_sampler(policy)
    shutil.rmtree(second)
    shutil.rmtree(installed / "foreign_parts-1.0.dist-info")
    with pytest.raises(DeviceUnavailable, match="is provided by nothing"):
        make_sampler(policy)


def test_fault_121_an_encoder_that_gives_another_number_of_features_is_refused(tmp_path, installed):
    write(
        tmp_path / "p",
        encoders=(Plugin("normalizer"), Plugin("squares", size=3, options={"gives": 2})),
    )
    policy = load_policy(tmp_path / "p")
    with pytest.raises(ValueError, match=r"give \(7,\) numbers; needed: \(8,\)"):
        policy.encode(np.zeros(5))


@pytest.mark.parametrize("part, key", [("velocity", "velocity_fields"), ("encoders", "encoders")])
def test_fault_040_an_unknown_kind_is_refused_with_where_another_comes_from(
    tmp_path, installed, part, key
):
    if part == "velocity":
        write(tmp_path / "p", Plugin("elsewhere"))
    else:
        write(tmp_path / "p", encoders=(Plugin("elsewhere", size=2),))
    with pytest.raises(PolicyRefused) as caught:
        load_policy(tmp_path / "p")
    known = "mlp, straight, ends, missing" if part == "velocity" else "normalizer, squares"
    assert f"kind is 'elsewhere'; allowed: {known}" in str(caught.value)
    assert f"group qgf.{key}" in str(caught.value)


def test_fault_040_a_package_that_is_needed_and_not_there_is_named(tmp_path, installed):
    write(tmp_path / "p", Plugin("straight", ("field.safetensors",), ("no_such_model",)))
    with pytest.raises(PolicyRefused, match="kind straight needs the Python package no_such_model"):
        load_policy(tmp_path / "p")


HOSTILE = [
    (("components",), None, "components"),
    (("components", "velocity"), {}, "kind"),
    (("components", "velocity"), [], "mapping"),
    (("components", "velocity", "kind"), ["mlp"], "kind"),
    (("components", "velocity", "kind"), "os.system", "is no name"),
    (("components", "velocity", "files"), ["../x.safetensors"], r"files holds '../x.safetensors'"),
    (("components", "velocity", "files"), ["weights.pt"], r"files holds 'weights.pt'"),
    (("components", "velocity", "files"), ["a.safetensors"] * 9, "files"),
    (
        ("components", "velocity", "files"),
        ["gone.safetensors"],
        "field.safetensors', which no component",
    ),
    (("components", "velocity", "needs"), ["os.path"], "is no name"),
    (("components", "velocity", "more"), 1, "unknown key"),
    (("components", "encoders"), [], "0 encoders"),
    (("components", "encoders"), [{"kind": "normalizer"} for _ in range(17)], "17 encoders"),
    (("components", "encoders"), [{"kind": "squares", "size": -1}], "size"),
    (("components", "encoders"), [{"kind": "squares", "size": 10**7}], "size"),
    (("components", "critic", "kind"), "straight", "kind"),
    (("components", "critic", "files"), [], "0 files"),
    (("components", "critic", "needs"), ["numpy"], "1 needs"),
    (("velocity",), {"file": "velocity.safetensors", "hidden": [8]}, "unknown key 'velocity'"),
    (("schema",), 2, "unknown key 'components'"),
]


@pytest.mark.parametrize("path, value, said", HOSTILE, ids=lambda v: str(v)[:40])
def test_fault_040_components_that_say_nothing_sound_are_refused(
    tmp_path, installed, path, value, said
):
    write(tmp_path / "p")
    edit(tmp_path / "p", *path, value=value)
    with pytest.raises(PolicyRefused, match=said):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(
    "change",
    [{"encoders": ENCODERS}, {"velocity": Plugin("straight", ("field.safetensors",))}],
    ids=lambda change: next(iter(change)),
)
def test_fault_040_older_schemas_have_no_components_of_other_kinds(schema, change):
    """They would be written, and read as something else."""
    with pytest.raises(ValueError, match="need 3"):
        replace(description(contract()), schema=schema, **change)


def test_older_schemas_say_what_they_said(tmp_path):
    """A policy of two networks is written as before: older robots load it."""
    write_tiny(tmp_path / "p")
    content = yaml.safe_load((tmp_path / "p" / "policy.yaml").read_text())
    assert content["schema"] == 1 and "components" not in content and "encoders" not in content
    assert set(content["velocity"]) == {"file", "hidden", "members", "kind", "output"}
    own = contract()
    with pytest.raises(ValueError, match="components of other kinds need 3"):
        replace(description(own), velocity=Plugin("straight"))


def test_two_networks_are_the_same_policy_in_schema_3(tmp_path):
    own = contract()
    write_tiny(tmp_path / "old", flow=Flow(4))
    d = description(own, schema=3, flow=Flow(4))
    write_policy(tmp_path / "new", d, tensors(own, d))
    old, new = load_policy(tmp_path / "old"), load_policy(tmp_path / "new")
    assert replace(new.description, schema=1) == old.description
    noise = np.random.default_rng(0).standard_normal((2, old.flat_dim)).astype(np.float32)
    ours = [
        make_sampler(p, device="cpu")(np.zeros(p.obs_dim), noise, 1.0).action for p in (old, new)
    ]
    assert np.array_equal(*ours)


def test_a_backend_of_another_package_is_used_by_name_alone(tmp_path, installed):
    assert backend_names()[-1] == "mine"
    write_tiny(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    assert make_sampler(policy, "mine").backend == "mine"
    assert make_sampler(policy, device="cpu").backend == "native"
    with pytest.raises(Exception, match="runs on the CPU"):
        make_sampler(policy, "mine", "cuda")
    write(tmp_path / "q")
    with pytest.raises(PolicyRefused, match="mine knows networks alone; use backend auto"):
        make_sampler(load_policy(tmp_path / "q"), "mine")


def test_names_alone_bring_nothing_of_another_package_into_the_process(installed):
    """Entry points are looked up, not imported, until a sampler is made."""
    program = (
        "import sys, json; from qgf_ros.guidance.registry import backend_names; "
        "names = backend_names(); print(json.dumps([names, 'foreign_parts' in sys.modules]))"
    )
    path = f"{installed}:{os.environ.get('PYTHONPATH', '')}"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    names, loaded = json.loads(ran.stdout)
    assert "mine" in names and not loaded
    assert [e.name for e in entry_points(group="qgf.backends")] == ["mine"]


@pytest.mark.parametrize("schema", [2, 3])
def test_relative_actions_of_older_policies_begin_where_their_bags_say(schema):
    """In what the networks were told, float32: a chunk is replayed to the bit. From 3 on, as measured."""
    own = contract()
    size = len(own.observation_names)
    plain = policy_in_memory(own, schema=schema)
    normalizer = replace(
        plain.normalizer,
        obs_mean=np.full(size, 0.1),
        obs_std=np.full(size, 0.3),
        action_reference=np.zeros_like(plain.normalizer.action_reference),
    )
    policy, raw = replace(plain, normalizer=normalizer), np.linspace(-1, 1, size) / 3
    seen = policy.observed(raw)
    assert np.array_equal(seen.encoded, normalizer.normalize_obs(raw))
    told = normalizer.unnormalize_obs(seen.encoded)
    assert np.array_equal(seen.origin.obs, told if schema == 2 else raw) and (told != raw).any()
