"""A disk that is full, and folders that may only be read, as every verb meets them.

The disk is full in earnest: the kernel ends each file at a size (RLIMIT_FSIZE), and each verb is
tried with one size after the other, so that every one of its files is the one that is cut short.
What is there afterwards is what was there before, or the whole new thing.
"""

import contextlib
import ctypes
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_at
from qgf_bags import fingerprint, write
from qgf_make import contract, description, tensors

from qgf_ros import cli
from qgf_ros.files.share import share_folder
from qgf_ros.policy.folder import load_policy, write_policy
from qgf_ros.spaces.contract import Contract
from qgf_ros.trial import record as trial_record
from qgf_ros.trial.trial_folder import TrialFolder

pytest.importorskip("torch")
pytest.importorskip("rosbags")


def qgf(*arguments):
    """The exit code of a verb. What it prints goes to no file, whose size would be limited too."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        try:
            return cli.main([str(a) for a in arguments])
        except SystemExit as end:
            assert "Traceback" not in said.getvalue()
            return end.code


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of two bags and its contract."""
    folder = tmp_path_factory.mktemp("disk")
    own = contract()
    for name, seed in (("a", 1), ("b", 2)):
        write(folder / "bags" / name, own, ticks=40, seed=seed)
    import yaml

    (folder / "contract.yaml").write_text(yaml.safe_dump(own.to_dict()))
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk_policy") / "tiny"
    own = contract()
    d = description(own)
    write_policy(folder, d, tensors(own, d))
    return folder


def test_fault_134_an_export_that_finds_no_room_leaves_the_policy_as_it_was(tmp_path, monkeypatch):
    from training.export import parity
    from training.export import write as export

    # Tracing the graph takes half a minute; the shipped policy has it.
    monkeypatch.setattr(export, "_onnx", lambda policy: policy.onnx)
    monkeypatch.setattr(parity, "ROUNDS", 1)
    folder = tmp_path / "arm"
    shutil.copytree(share_folder() / "config" / "policies" / "planar_arm", folder)
    before = fingerprint(folder)
    with full_at(3000):
        assert qgf("export", folder) == 7
    assert fingerprint(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["arm"], "nothing half is left"
    load_policy(folder)


@pytest.mark.parametrize("size", (0, 100))
def test_fault_134_a_draft_that_finds_no_room_is_not_there(data, tmp_path, size):
    out = tmp_path / "contract.yaml"
    with full_at(size):
        code = qgf("data", "init", data / "bags", "--out", out, "--workers", 1)
    assert code == 7 and not out.exists()


@pytest.mark.parametrize("to, size", [("npz", 0), ("npz", 1000), ("lerobot-v2.1", 1000)])
def test_fault_134_a_conversion_that_finds_no_room_leaves_nothing_that_looks_whole(data, tmp_path, to, size):  # fmt: skip
    out = tmp_path / "table"
    command = ("data", "convert", data / "bags", "--contract", data / "contract.yaml", "--out", out, "--to", to, "--workers", 1)  # fmt: skip
    with full_at(size):
        assert qgf(*command) == 7
    assert qgf(*command) == 0, "and with room again the same command does it"


def test_fault_134_a_training_that_finds_no_room_leaves_no_policy(data, tmp_path):
    out = tmp_path / "run"
    command = ("train", data / "bags", "--contract", data / "contract.yaml", "--out", out,
               "--steps", 4, "--batch", 16, "--hidden", 8, 8, "--workers", 1)  # fmt: skip
    with full_at(3000):
        assert qgf(*command) == 7
    assert not (out / "policy").exists()


@pytest.mark.parametrize("size", (0, 100))
def test_fault_134_a_label_that_finds_no_room_keeps_the_old_ones(data, tmp_path, size):
    bags = tmp_path / "bags"
    shutil.copytree(data / "bags", bags)
    assert qgf("data", "label", bags, "--set", "a=success") == 0
    before = (bags / "labels.yaml").read_bytes()
    with full_at(size):
        assert qgf("data", "label", bags, "--set", "b=failure") == 7
    assert (bags / "labels.yaml").read_bytes() == before


def design():
    return trial_record.Design(
        node="/qgf", policy_sha256="0" * 64, betas=(0.1, float("inf")), episodes=3, seed=1
    )  # fmt: skip


@pytest.mark.parametrize("size", (0, 50))
def test_fault_134_a_trial_that_finds_no_room_keeps_what_it_counted(tmp_path, size):
    trial_folder = TrialFolder(tmp_path / "trial")
    trial_folder.folder.mkdir()
    one = trial_record.Record(design())
    one.save(trial_folder.folder)
    before = (trial_folder.folder / trial_record.FILE).read_bytes()
    with full_at(size), pytest.raises(Exception) as info:
        one.save(trial_folder.folder)
    assert info.value.code == 7
    assert (trial_folder.folder / trial_record.FILE).read_bytes() == before
    assert [p.name for p in trial_folder.folder.iterdir()] == [trial_record.FILE]


# Row 139: what may only be read is read, and nothing is written beside it.


@pytest.fixture
def held_to_modes():
    """Root may write whatever a mode says (CAP_DAC_OVERRIDE); without that capability it may not."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h: version 3, this process
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, for 32 capabilities each
    assert libc.capget(header, before) == 0
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def read_only(data, policy):
    """Dataset, contract and policy in folders that nobody may write to."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "trial"
        shutil.copytree(data, root)
        shutil.copytree(policy, root / "policy")
        for path in (*root.rglob("*"), root, root.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)
        own = Path(scratch) / "own"
        root.parent.chmod(0o755)
        own.mkdir()
        own.chmod(0o777)
        yield root, own
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


def test_fault_139_a_dataset_that_may_only_be_read_is_used_where_it_lies(read_only, held_to_modes, monkeypatch):  # fmt: skip
    root, own = read_only
    monkeypatch.setenv("QGF_CACHE", str(own / "cache"))
    before = fingerprint(root / "bags")
    given = ("--contract", root / "contract.yaml")
    assert qgf("data", "inspect", root / "bags", *given, "--out", own / "page", "--workers", 1) in (
        0,
        3,
    )
    assert qgf("data", "init", root / "bags", "--out", own / "draft.yaml", "--workers", 1) == 0
    assert (
        qgf(
            "data",
            "convert",
            root / "bags",
            *given,
            "--out",
            own / "table",
            "--to",
            "npz",
            "--workers",
            1,
        )
        == 0
    )
    assert fingerprint(root / "bags") == before


def test_fault_139_a_cache_that_cannot_be_written_is_said_or_done_without(read_only, held_to_modes, monkeypatch):  # fmt: skip
    root, own = read_only
    monkeypatch.setenv("QGF_CACHE", str(root / "cache"))
    code = qgf("data", "convert", root / "bags", "--contract", root / "contract.yaml",
               "--out", own / "table", "--to", "npz", "--workers", 1)  # fmt: skip
    assert code in (0, 7), "no traceback"


@pytest.mark.parametrize("verb", ["init", "label", "convert"])
def test_fault_139_what_cannot_be_written_is_an_error_of_the_disk(read_only, held_to_modes, verb):
    root, _ = read_only
    given = ("--contract", root / "contract.yaml")
    command = {
        "init": ("data", "init", root / "bags", "--out", root / "draft.yaml", "--workers", 1),
        "label": ("data", "label", root / "bags", "--set", "a=success"),
        "convert": (
            "data",
            "convert",
            root / "bags",
            *given,
            "--out",
            root / "t",
            "--to",
            "npz",
            "--workers",
            1,
        ),
    }[verb]
    assert qgf(*command) == 7


def test_fault_139_a_policy_that_may_only_be_read_loads(read_only, held_to_modes):
    root, _ = read_only
    assert load_policy(root / "policy").contract == Contract.load(root / "contract.yaml")
    assert np.isfinite(load_policy(root / "policy").velocity["time_embedding"]).all()
