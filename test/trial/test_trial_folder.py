"""The files of a trial: killed at any moment, it goes on with nothing lost and nothing half done.

Pinned: a bag without a label, a label without a bag, an episode that counts and was not recorded.
"""

import math
import os
import time

import pytest
import yaml

from qgf_ros.errors import UsageError
from qgf_ros.trial import trial_folder as module
from qgf_ros.trial.record import Design, Episode, Record, load
from qgf_ros.trial.trial_folder import TrialFolder

DESIGN = Design("/qgf", "abc", (math.inf, 0.11), 9, 3)


class Killed(BaseException):
    pass


def judged(record, trial_folder, verdict="success", to=None):
    """The record with one more episode, whose bag was just closed."""
    number = len(record.episodes) + 1
    bag = trial_folder.begin(trial_folder.name(number))
    bag.mkdir()
    (bag / "data.mcap").write_bytes(b"messages")
    block, beta = record.next
    return record.with_episode(
        Episode.judged(
            verdict, int(to is not None), number=number, block=block, beta=beta, by="operator",
            seconds=1.0, holds=0, to=to, bag=bag.name,
        )
    )  # fmt: skip


def labels(folder):
    return yaml.safe_load((folder / "bags" / "labels.yaml").read_text())["episodes"]


def consistent(folder):
    """Every bag has its label and its place, and nothing else is there."""
    record = load(folder)
    wanted = {e.bag: e.label for e in record.episodes if e.outcome != "aborted"}
    assert labels(folder) == wanted
    assert {p.name for p in (folder / "bags").iterdir() if p.is_dir()} == set(wanted)
    assert not (folder / "unfinished").exists() or not list((folder / "unfinished").iterdir())


@pytest.mark.parametrize("moment", range(13))
def test_killed_at_any_moment_of_keeping_it_goes_on(tmp_path, moment, monkeypatch):
    """Each step on the disk is a moment; whatever was said before it counts, or nothing does, and
    no bag lies in its place without a label."""
    trial_folder = TrialFolder(tmp_path)
    record = judged(Record(DESIGN), trial_folder)
    trial_folder.keep(record)
    steps = 0

    def counted(act):
        def step(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps > moment:
                raise Killed
            return act(*args, **kwargs)

        return step

    second = judged(record, trial_folder, "failure", to=2.5)
    with monkeypatch.context() as patched:
        for owner, name in (
            (module, "replace_file"),
            (module.Path, "rename"),
            (os, "fsync"),
        ):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        patched.setattr(module.Path, "replace", counted(module.Path.replace))
        try:
            TrialFolder(tmp_path).keep(second)
            killed = False
        except Killed:
            killed = True
    assert killed == (moment < 12), f"{steps} steps"
    found = load(tmp_path)
    assert found in (record, second)
    assert {p.name for p in (tmp_path / "bags").iterdir() if p.is_dir()} <= set(labels(tmp_path))
    again = TrialFolder(tmp_path)
    again.resume(found)
    consistent(tmp_path)
    third = judged(found, again, "success")
    again.keep(third)
    consistent(tmp_path)


def test_labels_that_somebody_changed_stay(tmp_path):
    trial_folder = TrialFolder(tmp_path)
    record = judged(Record(DESIGN), trial_folder)
    trial_folder.keep(record)
    file = tmp_path / "bags" / "labels.yaml"
    file.write_text("version: 1\nepisodes: {episode_0001: exclude, other: success}\n")
    record = judged(record, trial_folder, "failure")
    trial_folder.keep(record)
    file.write_text(file.read_text().replace("failure", "exclude"))
    os.utime(file, (time.time() + 1, time.time() + 1))  # clocks of files may be coarse
    TrialFolder(tmp_path).resume(record)
    assert labels(tmp_path) == {
        "episode_0001": "exclude",
        "other": "success",
        "episode_0002": "exclude",
    }


def test_the_contracts_own_name_of_the_file_counts(tmp_path):
    trial_folder = TrialFolder(tmp_path, labels="said.yaml")
    trial_folder.keep(judged(Record(DESIGN), trial_folder))
    assert (tmp_path / "bags" / "said.yaml").is_file()


def test_without_recording_there_are_no_bags(tmp_path):
    trial_folder = TrialFolder(tmp_path, bags=False)
    assert trial_folder.name(1) == ""


def test_a_file_that_holds_no_labels_is_not_overwritten(tmp_path):
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / "labels.yaml").write_text("[1, 2]")
    trial_folder = TrialFolder(tmp_path)
    with pytest.raises(UsageError, match="is no file of labels"):
        trial_folder.keep(judged(Record(DESIGN), trial_folder))


def test_a_verdict_that_was_taken_back_is_finished_after_a_kill(tmp_path, monkeypatch):
    trial_folder = TrialFolder(tmp_path)
    record = judged(Record(DESIGN), trial_folder)
    trial_folder.keep(record)
    with monkeypatch.context() as patched:
        patched.setattr(trial_folder, "_settle", lambda *_: None)
        for verdict, left in (("failure", {"episode_0001": "failure"}), ("aborted", {})):
            record = record.with_last(verdict)
            trial_folder.keep(record)
            TrialFolder(tmp_path).resume(record)
            assert labels(tmp_path) == left
    consistent(tmp_path)
