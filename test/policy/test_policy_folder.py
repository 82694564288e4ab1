"""The policy folder: what was written comes back; whatever else was done to it is refused.

Where a test changes the content on purpose it signs the folder again (`resign`), so that the
refusal is for the content and not for the hash.
"""

import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml
from qgf_make import (
    SCALE,
    contract,
    description,
    edit,
    position_dict,
    resign,
    tensors,
    velocity_dict,
    write_tiny,
)

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.files import strict_yaml
from qgf_ros.policy.description import SCHEMA, Beta, Flow, Network
from qgf_ros.policy.folder import check_fits, load_policy, write_policy

FILES = ("policy.yaml", "velocity.safetensors", "critic.safetensors", "SHA256SUMS")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def refused(folder, *parts, robot=None):
    with pytest.raises(PolicyRefused) as caught:
        load_policy(folder, robot)
    for part in parts:
        assert str(part) in str(caught.value), str(caught.value)
    return str(caught.value)


def edit_tensors(folder, name, change):
    file = folder / name
    loaded = safetensors.numpy.load(file.read_bytes())
    change(loaded)
    file.write_bytes(safetensors.numpy.save(loaded))
    resign(folder)


def test_fault_088_round_trip(tmp_path):
    own = contract(position_dict())
    d = description(own, description="a test", provenance={"seed": 3})
    given = tensors(own, d)
    sha = write_policy(tmp_path / "p", d, given, {"sampler.onnx": b"onnx"})
    policy = load_policy(tmp_path / "p", own)
    assert policy.sha256 == sha and policy.description == d and policy.contract == own
    assert policy.onnx == b"onnx" and policy.name == "tiny"
    assert (policy.obs_dim, policy.action_dim, policy.horizon, policy.flat_dim) == (5, 2, 5, 10)
    for part, name in (
        (policy.velocity, "velocity.safetensors"),
        (policy.critic, "critic.safetensors"),
    ):
        assert part.keys() == given[name].keys()
        assert all(np.array_equal(part[k], given[name][k]) for k in part)


def test_fault_125_id_is_a_function_of_the_content(tmp_path):
    assert write_tiny(tmp_path / "a") == write_tiny(tmp_path / "b")
    assert write_tiny(tmp_path / "c", seed=1) != write_tiny(tmp_path / "a", seed=0)


def test_fault_088_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    write_tiny(tmp_path / "p")
    sha = write_tiny(tmp_path / "p", seed=1)
    assert load_policy(tmp_path / "p").sha256 == sha
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_fault_088_a_folder_that_is_no_policy_is_not_replaced(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a policy"):
        write_tiny(tmp_path / "p")
    assert (tmp_path / "p" / "thesis.tex").read_text() == "years of work"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_fault_088_weights_without_a_description_are_no_policy_and_stay(tmp_path):
    """Somebody's tensors, under names that ours could have."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "velocity.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"not a policy folder alone \(no policy.yaml\)"):
        write_tiny(tmp_path / "p")
    assert (tmp_path / "p" / "velocity.safetensors").read_bytes() == b"mine"


def test_fault_088_an_empty_folder_is_a_place_for_a_policy(tmp_path):
    (tmp_path / "p").mkdir()
    write_tiny(tmp_path / "p")
    load_policy(tmp_path / "p")


def test_fault_088_a_policy_folder_with_strangers_is_not_deleted(tmp_path):
    """Somebody keeps notes beside the policy: they must not go with it."""
    write_tiny(tmp_path / "p")
    (tmp_path / "p" / "notes.md").write_text("beta 0.05 worked best")
    try:
        write_tiny(tmp_path / "p", seed=1)
    except UsageError:
        pass
    assert (tmp_path / "p" / "notes.md").exists()


@pytest.mark.parametrize("failing", [1, 2])
def test_fault_088_interrupted_replacement_keeps_a_loadable_policy(tmp_path, monkeypatch, failing):
    """The process dies at one of the renames: what is at the path afterwards still loads."""
    folder = tmp_path / "p"
    old = write_tiny(folder)
    rename, calls = os.rename, []

    def dying(*args, **kw):
        calls.append(args)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return rename(*args, **kw)

    monkeypatch.setattr(os, "rename", dying)
    try:
        new = write_tiny(folder, seed=1)
    except KeyboardInterrupt:
        new = None
    assert load_policy(folder).sha256 in (old, new)


def test_fault_087_disk_full_keeps_the_old_policy(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    old = write_tiny(folder)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_tiny(folder, seed=1)
    assert load_policy(folder).sha256 == old
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


# Rows 36 to 39: files that are not what they were.


@pytest.mark.parametrize("name", FILES)
def test_fault_038_changed_byte_in_every_file_refused(folder, name):
    file = folder / name
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(list(name.encode()))
    for _ in range(150 * SCALE):
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        if name == "SHA256SUMS" and data[at] == 0x0A:
            continue  # has a test of its own below
        data[at] ^= 1 << bit
        file.write_bytes(data)
        refused(folder, folder)
        data[at] ^= 1 << bit
    file.write_bytes(data)
    load_policy(folder)


def test_fault_038_changed_line_end_of_the_manifest_refused(folder):
    file = folder / "SHA256SUMS"
    data = bytearray(file.read_bytes())
    accepted = []
    for at in [i for i, byte in enumerate(data) if byte == 0x0A]:
        for bit in range(8):
            data[at] ^= 1 << bit
            file.write_bytes(data)
            try:
                load_policy(folder)
                accepted.append((at, bytes([data[at]])))
            except PolicyRefused:
                pass
            data[at] ^= 1 << bit
    assert not accepted


@pytest.mark.parametrize("name", FILES)
def test_fault_037_truncation_refused(folder, name):
    file = folder / name
    data = file.read_bytes()
    last = (
        1 if name != "SHA256SUMS" else 2
    )  # the manifest's last line end has a test of its own below
    for length in {0, 1, len(data) // 2, len(data) - last, *range(0, len(data), 4096)}:
        file.write_bytes(data[:length])
        refused(folder)
    file.write_bytes(data + b"\0")
    refused(folder)


def test_fault_037_manifest_without_its_last_line_end_refused(folder):
    """One policy has one id: the same files under another hash would be another policy."""
    file = folder / "SHA256SUMS"
    file.write_bytes(file.read_bytes()[:-1])
    refused(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["missing", "fifo", "symlink", "dangling", "device"])
def test_fault_036_what_is_no_plain_file_refused(folder, tmp_path, name, kind):
    no_plain_file(folder, tmp_path, name, kind)


@pytest.mark.parametrize("name", FILES)
def test_fault_036_folder_instead_of_a_file_refused(folder, tmp_path, name):
    no_plain_file(folder, tmp_path, name, "folder")


def no_plain_file(folder, tmp_path, name, kind):
    file = folder / name
    copy = tmp_path / "elsewhere"
    shutil.copy(file, copy)
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)  # a plain open would wait for ever
    elif kind == "symlink":
        file.symlink_to(copy)
    elif kind == "dangling":
        file.symlink_to(tmp_path / "nothing")
    elif kind == "device":
        file.symlink_to("/dev/zero")
    if kind in ("fifo", "folder"):
        refused(folder, name, "regular file")  # said before anything is read from it
    else:
        refused(folder, name)


@pytest.mark.parametrize(
    "make",
    [lambda p: None, lambda p: p.write_text("x"), lambda p: os.mkfifo(p), lambda p: p.mkdir()],
)
def test_fault_036_path_that_is_no_policy_refused(tmp_path, make):
    make(tmp_path / "p")
    refused(tmp_path / "p", "p")


def test_fault_036_device_as_policy_refused():
    refused("/dev/zero", "/dev/zero")


def test_fault_039_manifest_missing_or_foreign_refused(folder, tmp_path):
    write_tiny(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / "SHA256SUMS", folder / "SHA256SUMS")
    refused(folder, "was changed")
    (folder / "SHA256SUMS").unlink()
    refused(folder, "SHA256SUMS")


@pytest.mark.parametrize(
    "make",
    [lambda p: p.write_text("x"), lambda p: p.mkdir(), lambda p: p.symlink_to("/etc/hostname")],
)
def test_fault_039_extra_entry_refused(folder, make):
    make(folder / "extra.bin")
    refused(folder, "extra.bin")


@pytest.mark.parametrize(
    "name", ["junk.safetensors", "policy.yaml~", ".hidden", "README", "sampler.onnx.data"]
)
def test_fault_039_a_signed_file_that_is_not_the_policys_is_not_even_read(folder, name):
    """It may be as large as a policy is allowed to be: a gigabyte, three times."""
    (folder / name).write_bytes(b"x")
    resign(folder)
    os.truncate(folder / name, 2**29)  # sparse: it costs nothing but to read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, name, "nothing else")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17


@pytest.mark.parametrize("change", [lambda lines: lines[::-1], lambda lines: lines + lines[-1:]])
def test_fault_038_a_manifest_in_another_order_or_with_a_line_twice_refused(folder, change):
    """Its hash is the policy's id: one policy, one id."""
    manifest = folder / "SHA256SUMS"
    manifest.write_text("".join(change(manifest.read_text().splitlines(keepends=True))))
    refused(folder, "SHA256SUMS is damaged")


def test_fault_039_manifest_that_reaches_outside_refused(folder, tmp_path):
    (tmp_path / "outside").write_text("x")
    manifest = folder / "SHA256SUMS"
    manifest.write_text("0" * 64 + "  ../outside\n" + manifest.read_text())
    refused(folder, "../outside")


def test_fault_050_checkpoint_replaced_on_disk_after_loading_has_no_effect(folder):
    policy = load_policy(folder)
    before = {k: v.copy() for k, v in (policy.velocity | policy.critic).items()}
    sha = policy.sha256
    for name in ("velocity.safetensors", "critic.safetensors"):
        with (folder / name).open("r+b") as file:  # in place: a mapped file would change under us
            size = file.seek(0, 2)
            file.seek(0)
            file.write(b"\xff" * size)
    assert policy.sha256 == sha
    assert all(np.array_equal(v, (policy.velocity | policy.critic)[k]) for k, v in before.items())
    refused(folder, "was changed")


# Rows 40 to 46: signed, and still wrong.


@pytest.mark.parametrize("version", [0, 3, 99, -1, "1", None, 1.0, "garbage", True])
def test_fault_040_schema_version_refused(folder, version):
    edit(folder, "schema", value=version)
    refused(folder, "schema")


def test_fault_040_newer_schema_with_newer_keys_says_that_it_is_newer(folder):
    file = folder / "policy.yaml"
    content = yaml.safe_load(file.read_text()) | {
        "schema": SCHEMA + 1,
        "encoder": {"file": "encoder.safetensors"},
    }
    file.write_text(yaml.safe_dump(content))
    resign(folder)
    refused(folder, "newer qgf_ros")


@pytest.mark.parametrize("flow", [
    {"denoise_steps": 4, "noise_at": 1.0, "clean_at": 0.0}, {"denoise_steps": 4, "noise_at": 0.0, "clean_at": 0.0},
    {"denoise_steps": 4, "noise_at": 0.0, "clean_at": -1.0}, {"denoise_steps": 0}, {"denoise_steps": 1001}, {},
])  # fmt: skip
def test_fault_123_flow_with_another_convention_refused(folder, flow):
    edit(folder, "flow", value=flow)
    refused(folder, "flow")


def test_fault_123_description_with_a_reversed_flow_cannot_even_be_made():
    with pytest.raises(ValueError, match="noise at 0"):
        Flow(10, noise_at=1.0, clean_at=0.0)


def variants():
    """The same robot with one thing different; (name, contract, what must be named on both sides)."""
    base = velocity_dict()

    def changed(*path, value):
        own = json.loads(json.dumps(base))
        at = own
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return contract(own)

    limits = {n: {"min": -2.0, "max": 2.0, "rate": 80.0} for n in "bc"}
    yield "order", changed("observations", 0, "names", value=["b", "a"]), ("observations",)
    yield "period", changed("time", "period", value=0.02), ("time", "0.05", "0.02")
    yield "horizon", changed("time", "horizon", value=6), ("time", "5", "6")
    yield (
        "topic",
        changed("observations", 0, "topic", value="joints_left"),
        ("joint_states", "joints_left"),
    )
    yield "units", changed("observations", 1, "units", value="mm"), ("observations", '"mm"')
    yield (
        "joint",
        changed("actions", 0, value=base["actions"][0] | {"names": ["b", "c"], "limits": limits}),
        ('"c"',),
    )
    yield (
        "limit",
        changed("actions", 0, "limits", "b", "max", value=1.25),
        ("actions", "1.25", "2.0"),
    )
    yield "age", changed("observations", 1, "max_age", value=0.75), ("0.75",)


@pytest.mark.parametrize(
    "robot,named",
    [pytest.param(c, n, id=i) for i, c, n in variants() if i not in ("limit", "units", "age")],
)
def test_fault_041_another_contract_refused_and_both_sides_named(pristine, robot, named):
    refused(pristine, "policy has", "robot has", *named, robot=robot)


@pytest.mark.parametrize(
    "robot,named",
    [pytest.param(c, n, id=i) for i, c, n in variants() if i in ("limit", "units", "age")],
)
def test_fault_041_difference_far_into_a_source_is_shown(pristine, robot, named):
    """Refused, and the text shows what differs, not only the first 160 characters of both sides."""
    refused(pristine, "policy has", "robot has", *named, robot=robot)


LISTS = [
    (["a", "b"], ["a", "c"], r"actions\.x\[1\]: policy has \"b\", robot has \"c\"$"),
    (["a"], ["a", "b"], r"actions\.x: policy has \[\"a\"\], robot has \[\"a\", \"b\"\]"),
    (["a"], "a", r"actions\.x: policy has \[\"a\"\], robot has \"a\""),
    ("a", ["a"], r"actions\.x: policy has \"a\", robot has \[\"a\"\]"),
    (None, ["a"], r"actions\.x: policy has null, robot has \[\"a\"\]"),
    (["a"], None, r"actions\.x: policy has \[\"a\"\], robot has null"),
]


@pytest.mark.parametrize(("own", "robot", "words"), LISTS)
def test_fault_041_lists_are_compared_by_place_or_shown_whole(own, robot, words):
    a, b = (Said({"x": value}) for value in (own, robot))
    with pytest.raises(PolicyRefused, match=words):
        check_fits(Path("p"), a, b)


@pytest.mark.parametrize("count", [8, 9, 30])
def test_fault_041_eight_differences_are_shown_and_the_others_counted(count):
    a, b = ({f"k{i}": side for i in range(count)} for side in (0, 1))
    with pytest.raises(PolicyRefused) as error:
        check_fits(Path("p"), Said(a), Said(b))
    said = str(error.value)
    assert said.count("policy has") == 8
    assert said.endswith(f"(and {count - 8} more)") == (count > 8)


class Said:
    """What a contract says, of which only the actions are looked at here."""

    def __init__(self, actions):
        self.actions = actions

    def for_robot(self):
        return {"time": {}, "observations": [], "actions": self.actions}


def test_fault_041_same_contract_accepted(pristine):
    assert load_policy(pristine, contract()).contract == contract()


@pytest.mark.parametrize(
    "key,size", [("obs_mean", 4), ("obs_mean", 6), ("action_center", 1), ("action_center", 3)]
)
def test_fault_041_normaliser_of_another_size_refused(folder, key, size):
    edit(folder, "normalizer", key, value=[1.0] * size)
    refused(folder, "normaliser")


@pytest.mark.parametrize(
    "key,size", [("obs_std", 1), ("obs_std", 6), ("action_half_range", 1), ("action_half_range", 3)]
)
def test_fault_041_normaliser_scale_of_another_size_refused(folder, key, size):
    edit(folder, "normalizer", key, value=[1.0] * size)
    refused(folder, "normaliser")


@pytest.mark.parametrize("size", [4, 6])
def test_fault_041_a_whole_normaliser_of_another_robot_is_refused_with_both_sizes(folder, size):
    """Its means and scales fit each other, and not the contract."""
    for key in ("obs_mean", "obs_std"):
        edit(folder, "normalizer", key, value=[1.0] * size)
    refused(folder, f"the normaliser has ({size}, 2) numbers", "the contract (5, 2)")


@pytest.mark.parametrize("key", ["obs_mean", "obs_std", "action_center", "action_half_range"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fault_042_normaliser_not_finite_refused(folder, key, bad):
    size = 5 if key.startswith("obs") else 2
    edit(folder, "normalizer", key, value=[bad] + [1.0] * (size - 1))
    refused(folder)


@pytest.mark.parametrize(
    "key,bad", [("obs_std", 0.0), ("obs_std", -1.0), ("action_half_range", -1.0)]
)
def test_fault_042_normaliser_scale_not_positive_refused(folder, key, bad):
    edit(folder, "normalizer", key, value=[bad] + [1.0] * (4 if key == "obs_std" else 1))
    refused(folder, "positive")


def test_fault_042_normaliser_key_missing_refused(folder):
    content = yaml.safe_load((folder / "policy.yaml").read_text())
    del content["normalizer"]["obs_std"]
    (folder / "policy.yaml").write_text(yaml.safe_dump(content))
    resign(folder)
    refused(folder, "obs_std")


@pytest.mark.parametrize("name", ["velocity.safetensors", "critic.safetensors"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fault_042_non_finite_weight_refused_in_every_tensor(pristine, tmp_path, name, bad):
    keys = safetensors.numpy.load((pristine / name).read_bytes())
    for key in keys:
        folder = Path(shutil.copytree(pristine, tmp_path / key))

        def poison(t, key=key):
            t[key].flat[-1] = bad

        edit_tensors(folder, name, poison)
        refused(folder, name, key, "finite")


def test_fault_041_tensor_of_another_shape_refused(pristine, tmp_path):
    def drop(t):
        del t["layers.1.bias"]

    def add(t):
        t["layers.9.bias"] = np.zeros(3, np.float32)

    def transpose(t):
        t["layers.0.weight"] = np.ascontiguousarray(t["layers.0.weight"].swapaxes(1, 2))

    def grow(t):
        t["layers.0.weight"] = np.concatenate([t["layers.0.weight"]] * 2, axis=1)

    def double(t):
        t["layers.0.weight"] = t["layers.0.weight"].astype(np.float64)

    def half(t):
        t["layers.0.weight"] = t["layers.0.weight"].astype(np.float16)

    def whole(t):
        t["layers.0.weight"] = t["layers.0.weight"].astype(np.int32)

    for change in (drop, add, transpose, grow, double, half, whole):
        for name in ("velocity.safetensors", "critic.safetensors"):
            folder = Path(shutil.copytree(pristine, tmp_path / change.__name__ / name))
            edit_tensors(folder, name, change)
            refused(folder, name, "layers.")


def test_fault_041_files_of_the_two_networks_exchanged_refused(folder):
    a, b = folder / "velocity.safetensors", folder / "critic.safetensors"
    x, y = a.read_bytes(), b.read_bytes()
    a.write_bytes(y)
    b.write_bytes(x)
    resign(folder)
    refused(folder, "velocity.safetensors")


class Malicious:
    """Unpickled, it leaves a canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def test_fault_043_the_pickle_of_this_test_is_alive(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["velocity.safetensors", "critic.safetensors", "policy.yaml"])
@pytest.mark.parametrize("kind", ["pickle", "torch_zip", "polyglot"])
def test_fault_043_pickle_under_another_name_is_never_unpickled(folder, tmp_path, name, kind):
    canary = tmp_path / "canary"
    payload = pickle.dumps(Malicious(canary))
    file = folder / name
    if kind == "pickle":
        file.write_bytes(payload)
    else:
        start = file.read_bytes() if kind == "polyglot" else b""
        file.write_bytes(start)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("archive/data.pkl", payload)
            archive.writestr("archive/version", "3\n")
    resign(folder)
    refused(folder, name)
    assert not canary.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_fault_043_yaml_that_calls_python_is_refused(folder, tmp_path, tag):
    file = folder / "policy.yaml"
    file.write_text(file.read_text() + f"\nevil: {tag} ['{tmp_path / 'canary'}']\n")
    resign(folder)
    refused(folder, "policy.yaml")
    assert not (tmp_path / "canary").exists()


def header(length, text=b""):
    return struct.pack("<Q", length) + text


def tensors_file(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ATTACKS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "length 0": header(0),
    "length 2^63": header(2**63, b"{}"),
    "length 2^64-1": header(2**64 - 1, b"{}"),
    "length beyond the file": header(1000, b"{}"),
    "100 MB of JSON": header(100_000_001, b"{" + b" " * 100_000_000),
    "not JSON": tensors_file(b"hello world"),
    "not UTF-8": tensors_file(b"\xff\xfe{}"),
    "JSON array": tensors_file(b"[]"),
    "deep JSON": tensors_file(b'{"a":' * 100_000),
    "overlap": tensors_file({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12),
    "same bytes twice": tensors_file({"a": ENTRY, "b": ENTRY}, b"\0" * 8),
    "hole": tensors_file({"a": ENTRY, "b": ENTRY | {"data_offsets": [16, 24]}}, b"\0" * 24),
    "beyond the end": tensors_file({"a": ENTRY | {"data_offsets": [0, 2**40]}}, b"\0" * 8),
    "backwards": tensors_file({"a": ENTRY | {"data_offsets": [8, 0]}}, b"\0" * 8),
    "negative": tensors_file({"a": ENTRY | {"data_offsets": [-8, 0]}}, b"\0" * 8),
    "shape overflow": tensors_file({"a": ENTRY | {"shape": [2**32, 2**32, 2**32]}}, b"\0" * 8),
    "shape of nothing": tensors_file({"a": ENTRY | {"shape": [2**62, 0], "data_offsets": [0, 0]}}),
    "unknown dtype": tensors_file({"a": ENTRY | {"dtype": "PICKLE"}}, b"\0" * 8),
    "bfloat16": tensors_file({"a": ENTRY | {"dtype": "BF16", "data_offsets": [0, 4]}}, b"\0" * 4),
    "float8": tensors_file({"a": ENTRY | {"dtype": "F8_E5M2", "data_offsets": [0, 2]}}, b"\0" * 2),
    "no offsets": tensors_file({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "rest": tensors_file({"a": ENTRY}, b"\0" * 99),
    "valid but foreign": tensors_file({"a": ENTRY}, b"\0" * 8),
    "no tensors": tensors_file(b"{}"),
    "named twice": tensors_file(
        b'{"a": %s, "a": %s}' % ((json.dumps(ENTRY).encode(),) * 2), b"\0" * 8
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_fault_044_malformed_safetensors_refused(folder, attack):
    (folder / "critic.safetensors").write_bytes(ATTACKS[attack])
    resign(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, "critic.safetensors")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"{grown:.0f} MB"


@pytest.mark.parametrize("path,value", [
    (("velocity", "hidden"), [10**6, 10**6]), (("velocity", "hidden"), [10**12]), (("critic", "hidden"), [2**63, 2**63]),
    (("velocity", "hidden"), [100_000] * 50), (("critic", "hidden"), [20_000, 20_000]),
])  # fmt: skip
def test_fault_046_absurd_size_refused_before_anything_is_allocated(
    folder, path, value, monkeypatch
):
    edit(folder, *path, value=value)
    monkeypatch.setattr(
        safetensors.numpy,
        "load",
        lambda _: pytest.fail("weights were parsed before the size was judged"),
    )
    refused_text = None
    if path[0] == "critic":  # the velocity is sound and comes first
        monkeypatch.undo()
    refused_text = refused(folder, "parameters", "at most")
    assert path[0] in refused_text


@pytest.mark.parametrize("path,value", [
    (("velocity", "hidden"), []), (("velocity", "hidden"), [0]), (("velocity", "hidden"), [-5]), (("critic", "members"), 0),
    (("critic", "members"), 11), (("critic", "members"), -1), (("velocity", "file"), "../velocity.safetensors"),
    (("velocity", "file"), "velocity.pt"), (("velocity", "file"), "other.safetensors"), (("velocity", "kind"), "transformer"),
    (("velocity", "file"), "policy.yaml"), (("beta", "min"), 0.0), (("beta", "min"), -1.0), (("beta", "min"), float("nan")),
    (("beta", "default"), 0.001), (("beta", "default"), float("nan")), (("beta", "default"), "0.1"),
    (("sanity", "q_low"), float("nan")), (("returns", "aggregation"), "max"), (("name",), None), (("contract",), {}),
    (("contract", "contract"), 2), (("normalizer",), []), (("velocity",), None), (("returns",), {}), (("flow", "denoise_steps"), True),
])  # fmt: skip
def test_fault_123_description_that_makes_no_sense_refused(folder, path, value):
    edit(folder, *path, value=value)
    refused(folder)


@pytest.mark.parametrize("path,value", [
    (("returns", "discount"), -0.5), (("returns", "discount"), 1.5), (("returns", "discount"), float("inf")),
    (("returns", "scale"), 0.0), (("returns", "scale"), -1.0), (("beta", "suggested"), [0.0]), (("beta", "suggested"), [-1.0]),
    (("sanity", "q_low"), 1e9), (("sanity", "gradient_norm"), -1.0), (("beta", "min"), 1e-300),
    (("sanity", "q_low"), float("-inf")), (("sanity", "gradient_norm"), float("inf")),
    (("contract", "actions", 0, "limits", "a", "rate"), 1e300),
    (("contract", "actions", 0, "topic"), "a" * 250),
])  # fmt: skip
def test_fault_123_numbers_without_a_meaning_refused(folder, path, value):
    """q_low above q_high and the like: every sample would silently run without its critic."""
    edit(folder, *path, value=value)
    refused(folder)


def test_fault_125_unknown_key_refused(folder):
    edit(folder, "beta", "maximum", value=1.0)
    refused(folder, "maximum")


@pytest.mark.parametrize("text", [b"", b"- 1", b"\xff\xfe\x00", b"schema: [", b"schema: 1"])
def test_fault_125_description_that_is_no_description_refused(folder, text):
    (folder / "policy.yaml").write_bytes(text)
    resign(folder)
    refused(folder, "policy.yaml")


@pytest.mark.parametrize("text", [
    b"[" * 3000,
    b"schema: " + b"9" * 400,
])  # fmt: skip
def test_fault_125_description_that_breaks_the_parser_refused(folder, text):
    (folder / "policy.yaml").write_bytes(text)
    resign(folder)
    refused(folder, "policy.yaml")


def test_fault_046_description_larger_than_any_configuration_refused(folder):
    file = folder / "policy.yaml"
    file.write_bytes(file.read_bytes() + b"\n#" + b" " * strict_yaml.MAX_BYTES)
    resign(folder)
    refused(folder, "policy.yaml")


def test_fault_123_beta_of_an_uninformative_critic_is_infinite(tmp_path):
    write_tiny(tmp_path / "p", beta=Beta(float("inf"), 1.0))
    assert load_policy(tmp_path / "p").description.beta.default == float("inf")


def test_ensemble_and_depth_are_free(tmp_path):
    own = contract()
    d = replace(description(own), critic=Network("critic.safetensors", (8, 16, 4), members=5))
    write_policy(tmp_path / "p", d, tensors(own, d))
    assert load_policy(tmp_path / "p").critic["layers.1.weight"].shape == (5, 8, 16)


def model_with_weights_at(location):
    """A sampler of the right shapes that adds the first number of a file to the noise."""
    from onnx import TensorProto, helper

    weights = TensorProto(
        name="W", data_type=TensorProto.FLOAT, dims=[4096], data_location=TensorProto.EXTERNAL
    )
    for key, text in (("location", location), ("offset", "0"), ("length", str(4 * 4096))):
        weights.external_data.add(key=key, value=text)
    float_of = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)  # noqa: E731
    actions = ("action", "action_unguided")
    rest = ("q", "q_unguided", "q_std", "gradient_norm", "guidance_ratio")
    # Looked up at an input: what hangs on constants alone is folded, and its weights never read.
    nodes = [
        helper.make_node("Cast", ["w"], ["at"], to=TensorProto.INT64),
        helper.make_node("Gather", ["W", "at"], ["w0"]),
        helper.make_node("ReduceSum", ["w0"], ["s"], keepdims=0),
    ]
    nodes += [helper.make_node("Add", ["noise", "s"], [o]) for o in actions]
    nodes += [helper.make_node("Add", ["w", "s"], [o]) for o in rest]
    graph = helper.make_graph(
        nodes, "g", [float_of("obs", ["B", 5]), float_of("noise", ["B", 10]), float_of("w", ["B"])],
        [float_of(o, ["B", 10]) for o in actions] + [float_of(o, ["B"]) for o in rest], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def answers_by_the_file(onnxruntime, model, file):
    """What ONNX Runtime answers, by what stands in the file; None where it does not read it."""
    answers = []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for number in (1.0, 2.0):
        file.write_bytes(np.full(4096, number, np.float32).tobytes())
        try:
            session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        except Exception:
            return None
        sizes = {"obs": (1, 5), "noise": (1, 10), "w": (1,)}
        asked = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        (action,) = session.run(["action"], asked)
        answers.append(float(action[0, 0]))
    return answers


@pytest.mark.parametrize("location", ["weights.bin", "../../weights.bin"])
def test_fault_045_sampler_with_weights_in_another_file_refused(tmp_path, monkeypatch, location):
    """ONNX may point to any file for its weights, and what nobody has hashed would drive the robot;
    ours must hold all of them. Up to 1.20 at least ONNX Runtime reads what lies above the working
    directory too, later ones what lies in it."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from qgf_ros.guidance.backends.onnx import OnnxSampler

    (tmp_path / "started" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "started" / "here")
    model = model_with_weights_at(location)
    read = answers_by_the_file(onnxruntime, model, Path(location))
    assert read == [1.0, 2.0] or (read is None and location.startswith("..")), (
        "the fault is one: the file decides what is answered"
    )
    d = description(contract())
    write_policy(tmp_path / "p", d, tensors(contract(), d), {"sampler.onnx": model})
    with pytest.raises(PolicyRefused, match=r"sampler.onnx: weights in another file"):
        OnnxSampler(load_policy(tmp_path / "p"), "cpu")


def test_fault_041_actions_relative_to_another_joint_are_refused(tmp_path):
    own = contract(position_dict())
    plain = description(own).normalizer
    measured = tuple(map(float, own.measured_positions))
    relative = plain | {"action_reference": measured}
    write_tiny(tmp_path / "old", own, normalizer=relative)
    with pytest.raises(
        PolicyRefused, match="need schema 2"
    ):  # an older node would take them as absolute
        load_policy(tmp_path / "old")
    write_tiny(tmp_path / "right", own, normalizer=relative, schema=2)
    assert load_policy(tmp_path / "right").normalizer.action_reference.tolist() == [0, 1]
    write_tiny(
        tmp_path / "wrong", own, normalizer=plain | {"action_reference": measured[::-1]}, schema=2
    )
    with pytest.raises(PolicyRefused, match="measured position of the same joint"):
        load_policy(tmp_path / "wrong")
