"""A policy that is written over another one, while somebody else is there too.

Pinned: an export that throws away what was trained, edited or laid there since it read the folder.
"""

import os
import shutil

import pytest
from qgf_make import contract, description, tensors, write_tiny

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.policy import manifest
from qgf_ros.policy.folder import load_policy, write_policy


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


def exported(folder, over):
    d = description(contract())
    return write_policy(folder, d, tensors(contract(), d), {"sampler.onnx": b"onnx"}, over)


def trained_anew(folder):
    write_tiny(folder, seed=1)


def edited(folder):
    with (folder / "policy.yaml").open("a") as file:
        file.write("# looked at\n")


def noted(folder):
    (folder / "notes.txt").write_text("mine")


def moved_away(folder):
    folder.rename(folder.with_name("elsewhere"))


def all_of(place):
    return {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}


CHANGES = [trained_anew, edited, noted]


@pytest.mark.parametrize("change", [*CHANGES, moved_away])
def test_fault_156_what_came_into_a_policys_place_meanwhile_stays(folder, change):
    over = load_policy(folder).sha256
    change(folder)
    before = all_of(folder.parent)
    with pytest.raises(UsageError):
        exported(folder, over)
    assert all_of(folder.parent) == before, "and nothing is left beside it"


@pytest.mark.parametrize("change", CHANGES)
def test_fault_156_also_in_the_last_moment(folder, monkeypatch, change):
    over, exchange, before = load_policy(folder).sha256, manifest._exchange, {}

    def late(a, b):
        monkeypatch.setattr(manifest, "_exchange", exchange)
        change(folder)
        before.update(all_of(folder))
        exchange(a, b)

    monkeypatch.setattr(manifest, "_exchange", late)
    with pytest.raises(UsageError):
        exported(folder, over)
    assert all_of(folder) == before and list(folder.parent.iterdir()) == [folder]


def test_fault_156_what_nobody_touched_is_replaced_through_a_link_too(folder, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "current"
    link.symlink_to(folder)
    shutil.copytree(folder, tmp_path / "copy")
    sha256 = exported(link, load_policy(link).sha256)
    assert load_policy(folder).sha256 == sha256 == exported(tmp_path / "copy", "")
    assert link.is_symlink() and list(link.parent.iterdir()) == [link]


def test_fault_181_a_folder_of_many_files_is_refused_after_its_first_names(folder, monkeypatch):
    """A million of them took the node that drives the robot two and a half seconds to list."""
    taken, scandir = [], os.scandir
    for number in range(500):
        (folder / f"file_{number}").touch()

    class Counted:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                taken.append(entry.name)
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    monkeypatch.setattr(os, "listdir", lambda *_: pytest.fail("all names were asked for"))
    with pytest.raises(PolicyRefused, match="more than 32 files"):
        manifest.verified_files(folder)
    assert len(taken) == 33
