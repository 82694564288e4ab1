"""A run folder that somebody damaged, or made: it is gone on with as it was saved, or refused."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from qgf_make import contract, velocity_dict

from qgf_ros.errors import UsageError
from training.learn import checkpoint, loop
from training.learn.config import FitConfig
from training.learn.fit import fit_episodes
from training.pipeline.episodes import Episode

DEEP = "[" * 100_000
RNG = np.random.default_rng(0)
DATA = [
    Episode(
        f"e{k}", RNG.normal(size=(41, 5)), RNG.uniform(-1, 1, (40, 2)), RNG.normal(size=40),
        terminal=k % 3 > 0, success=[None, True, False][k % 3],
    )
    for k in range(12)
]  # fmt: skip
CONFIG = FitConfig(
    hidden=(8,), steps=60, batch=16, denoise_steps=2, warmup=5, checkpoint_every=7, average=0.9
)


def train(out):
    return fit_episodes(DATA[:9], DATA[9:], contract(velocity_dict()), out, CONFIG, {}).policy


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that was interrupted after 42 of 60 updates."""

    class Killed(Exception):
        pass

    real, folder = loop._save, tmp_path_factory.mktemp("base")

    def save(*a):
        real(*a)
        if a[3] >= 42:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", save)
        with pytest.raises(Killed):
            train(folder)
    return folder


@pytest.fixture
def run(base, tmp_path):
    return shutil.copytree(base, tmp_path / "run")


def put(run, tensors, facts, header=None):
    whole = {k: t.contiguous().clone() for k, t in tensors.items()}
    header = header or {"checkpoint": json.dumps(facts)}
    safetensors.torch.save_file(whole, run / checkpoint.FILE, header)


@pytest.mark.parametrize("header", ["[1]", "null", '"x"', "1", DEEP, '{"version": 1}', "{"])
def test_fault_150_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(run, header):
    put(run, checkpoint.load(run)[0], None, {"checkpoint": header})
    with pytest.raises(UsageError, match=r"cannot be read.*remove it"):
        train(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [("run", [1]), ("run", None), ("run", "x"), ("step", "9"), ("step", 0), ("step", -5), ("step", 61),
     ("step", 10**9), ("step", 1.5), ("step", True), ("step", None), ("step", [3]), ("best_step", "x"),
     ("best_step", 43), ("best_step", -1), ("best_error", "x"), ("best_error", None),
     ("best_error", float("nan")), ("best_error", -1.0)],
)  # fmt: skip
def test_fault_150_facts_of_a_checkpoint_that_cannot_be_are_refused(run, key, value):
    """One that says it is finished would be written as a policy that was never trained."""
    tensors, facts = checkpoint.load(run)
    put(run, tensors, facts | {key: value})
    with pytest.raises(UsageError, match=r"cannot be read.*remove it"):
        train(run)
    assert not (run / "policy").exists()


CHANGES = {
    "missing": lambda t: None,
    "shape": lambda t: torch.zeros(3),
    "type": lambda t: t.double(),
    "integer": lambda t: torch.zeros(t.shape, dtype=torch.int32),
    "not finite": lambda t: torch.full_like(t, float("nan")),
}


PARTS = ("learner.adam.0.exp_avg", "learner.averaged.", "best.target_critic.")
# Moments that are not finite give an update that is not, which is row 91.
TENSORS = [(p, how) for p in PARTS for how in CHANGES if "adam" not in p or how != "not finite"]


@pytest.mark.parametrize(("part", "how"), TENSORS)
def test_fault_150_tensors_of_a_checkpoint_are_those_of_such_a_run(run, part, how):
    tensors, facts = checkpoint.load(run)
    name = next(k for k in sorted(tensors) if k.startswith(part))
    changed = CHANGES[how](tensors.pop(name))
    put(run, tensors | ({} if changed is None else {name: changed}), facts)
    with pytest.raises(UsageError, match=r"cannot be read \(tensor"):
        train(run)


@pytest.mark.parametrize("count", [-1, 43, 2**62])
def test_fault_150_more_updates_than_there_were_are_refused(run, count):
    """They decide how fast the averaged weights follow."""
    tensors, facts = checkpoint.load(run)
    put(run, tensors | {"learner.steps": torch.tensor(count)}, facts)
    with pytest.raises(UsageError, match=r"cannot be read .*updates are counted"):
        train(run)


@pytest.mark.parametrize("part", ["learner", "best"])
def test_fault_150_a_tensor_that_no_run_has_is_refused(run, part):
    tensors, facts = checkpoint.load(run)
    put(run, tensors | {f"{part}.evil": torch.zeros(3)}, facts)
    with pytest.raises(UsageError, match="evil"):
        train(run)


WRITTEN = (checkpoint.FILE, checkpoint.LOCK, *checkpoint.WRITTEN, *checkpoint.FOLDERS)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("how", ["link", "dangling", "pipe"])
def test_fault_150_nothing_is_written_through_a_link_and_no_pipe_is_waited_for(
    run, tmp_path, name, how
):
    victim, path = tmp_path / "victim", run / name
    if name in checkpoint.FOLDERS:
        victim.mkdir()
    else:
        victim.write_bytes(b"precious")
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim if how == "link" else tmp_path / "nothing")
    with pytest.raises(UsageError, match="no run has written"):
        train(run)
    assert not (tmp_path / "nothing").exists()
    assert list(victim.iterdir()) == [] if victim.is_dir() else victim.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "text",
    [b"a,b\n1,2\n", b"step,seconds\n7,x\n", b"step,seconds\n7," + b"1" * 200_000, b"\xff\x00\n,,\n",
     "step,seconds\n\u00b2,3\n".encode(), b"step\n7,8,9\n", b"",
     b"step,seconds" + b",a" * 300 + b"\n7,8" + b",9" * 300 + b"\n"],
    ids=range(8),
)  # fmt: skip
def test_fault_150_a_log_that_is_none_of_a_run_is_begun_anew(run, text):
    (run / "metrics.csv").write_bytes(text)
    train(run)
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[0].startswith("step,") and rows[1].startswith("60,")
