"""Whoever writes is killed at every step of it (row 135), and several read one cache (row 140).

A child forks off, counts what it does to files, and ends itself by SIGKILL before the n-th of these
steps, for every n until it gets through. What is there afterwards is what was there before, or the
whole new thing, and the same command then does it.
"""

import contextlib
import io
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import yaml
from qgf_bags import write
from qgf_make import contract, description, tensors

from qgf_ros import cli
from qgf_ros.policy.folder import load_policy, write_policy
from qgf_ros.trial import record as trial_record

pytest.importorskip("torch")
pytest.importorskip("rosbags")

from training.pipeline.store import prepare

STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "ctypes.dlsym")


def in_child(work):
    """The child's end, as os.waitpid says it. It leaves nothing of this process's in disorder."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                work()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killing(step, folder):
    """This process ends by SIGKILL before its step number `step` in `folder`."""
    done, fsync, about = 0, os.fsync, str(folder)

    def count():
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, args):
        if event in STEPS and (event == "ctypes.dlsym" or about in str(args[0])):
            count()

    def counted(handle):
        count()
        fsync(handle)

    os.fsync = counted
    sys.addaudithook(hook)


def killed_before(step, work, folder):
    """Whether SIGKILL came before `work` was done: at the step number `step` in `folder`."""

    def child():
        killing(step, folder)
        work()

    status = in_child(child)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"it failed by itself: {os.WEXITSTATUS(status)}"
    return False


def everywhere(work, folder, check, every=1, most=300):
    """Kills at each step (`every`: at some), looks, and says how many steps there were."""
    for step in range(1, most, every):
        killed = killed_before(step, work, folder)
        check(killed)
        if not killed:
            return step - 1
    raise AssertionError(f"not done after {most} steps")


def verb(*arguments):
    return lambda: cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    for name, seed in (("a", 1), ("b", 2)):
        write(folder / "bags" / name, contract(), ticks=40, seed=seed)
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract().to_dict()))
    return folder


def test_fault_135_a_policy_is_the_old_one_or_the_new_one(tmp_path):
    own = contract()
    d = description(own)
    ids = {seed: write_policy(tmp_path / f"{seed}", d, tensors(own, d, seed)) for seed in (0, 1)}
    folder = tmp_path / "policies" / "tiny"
    write_policy(folder, d, tensors(own, d, 0))
    found = []

    def check(killed):
        found.append(load_policy(folder).sha256)

    steps = everywhere(lambda: write_policy(folder, d, tensors(own, d, 1)), folder.parent, check)
    assert steps >= 10 and set(found) == set(ids.values())
    assert found == sorted(found, key=[ids[0], ids[1]].index), "the new one from one step on"
    assert found[-1] == ids[1]


def test_fault_135_a_policy_that_was_not_there_is_whole_or_not_there(tmp_path):
    own = contract()
    d = description(own)
    folder = tmp_path / "policies" / "tiny"
    seen = []

    def check(killed):
        seen.append(folder.exists())
        if folder.exists():
            load_policy(folder)
            folder.rename(tmp_path / f"made {len(seen)}")

    everywhere(lambda: write_policy(folder, d, tensors(own, d)), folder.parent, check)
    assert seen[0] is False and seen[-1] is True


def test_fault_135_a_trials_count_is_the_old_one_or_the_new_one(tmp_path):
    design = trial_record.Design(
        node="/qgf", policy_sha256="0" * 64, betas=(0.1, float("inf")), episodes=3, seed=1
    )
    trial_record.Record(design).save(tmp_path)
    old = (tmp_path / trial_record.FILE).read_bytes()
    other = trial_record.Design(
        node="/qgf", policy_sha256="1" * 64, betas=(0.1, float("inf")), episodes=3, seed=1
    )
    found = []

    def check(killed):
        assert trial_record.load(tmp_path) is not None
        found.append((tmp_path / trial_record.FILE).read_bytes() == old)

    everywhere(lambda: trial_record.Record(other).save(tmp_path), tmp_path, check)
    assert found[0] is True and found[-1] is False and found == sorted(found, reverse=True)


def test_fault_135_labels_and_a_draft_are_whole_or_as_they_were(data, tmp_path):
    bags = tmp_path / "bags"
    shutil.copytree(data / "bags", bags)
    assert in_child(verb("data", "label", bags, "--set", "a=success")) == 0
    old = (bags / "labels.yaml").read_bytes()
    found = []

    def check(killed):
        text = (bags / "labels.yaml").read_bytes()
        yaml.safe_load(text)
        found.append(text == old)

    everywhere(
        verb("data", "label", bags, "--set", "b=failure"), bags / "labels.yaml", check, every=2
    )
    assert found[-1] is False
    out = tmp_path / "out" / "contract.yaml"
    out.parent.mkdir()
    sizes = set()

    def whole(killed):
        if out.exists():
            sizes.add(out.stat().st_size)
            out.unlink()

    work = verb("data", "init", data / "bags", "--out", out, "--workers", 1)
    everywhere(work, out.parent, whole, every=2)
    assert len(sizes) == 1 and min(sizes) > 200


def test_fault_135_prepared_data_is_whole_or_prepared_anew(data, tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    wanted = prepare(data / "bags", contract())[0]
    (tmp_path / "cache").rename(tmp_path / "before")

    def check(killed):
        got = prepare(data / "bags", contract())[0]
        assert np.array_equal(got.obs, wanted.obs) and np.array_equal(got.action, wanted.action)
        (tmp_path / "cache").rename(tmp_path / f"after {len(list(tmp_path.iterdir()))}")

    work = lambda: prepare(data / "bags", contract())  # noqa: E731
    assert everywhere(work, tmp_path / "cache", check, every=6) >= 20


def test_fault_140_processes_that_share_a_cache_get_the_same(data, tmp_path, monkeypatch):
    """All at once, one of them killed in the middle, and again where all is prepared already."""
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    ready, go = os.pipe()

    def reader(number):
        os.close(go)
        os.read(ready, 1)  # until all are there
        if number == 0:
            killing(8, tmp_path / "cache")
        got = prepare(data / "bags", contract())[0]
        np.savez(tmp_path / f"{number}.npz", obs=got.obs, action=got.action)

    def start(number):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                reader(number)
                code = 0
            finally:
                os._exit(code)
        return child

    children = [start(n) for n in range(4)]
    os.close(ready)
    os.close(go)
    ends = [os.waitpid(child, 0)[1] for child in children]
    assert ends[1:] == [0, 0, 0]
    assert os.WIFSIGNALED(ends[0]) or ends[0] == 0, "or another one had prepared it by then"
    wanted = prepare(data / "bags", contract())[0]
    for number in range(1, 4):
        got = np.load(tmp_path / f"{number}.npz")
        assert np.array_equal(got["obs"], wanted.obs)
        assert np.array_equal(got["action"], wanted.action)
