"""What went wrong decides the exit code, also where a library has errors of its own."""

import sqlite3
from types import SimpleNamespace

import pytest

pytest.importorskip("pyarrow")

from full_disk import full_at
from qgf_bags import ARM, copy_bag, write
from qgf_make import ARM_FILE

from qgf_ros.bags import sqlite
from qgf_ros.bags.damage import Losses
from qgf_ros.errors import PolicyRefused, StorageError, exit_codes
from training.learn.config import provenance_of
from training.pipeline.writers.convert import convert


def test_sqlite_on_a_full_disk_is_a_full_disk(tmp_path):
    """A limit on the size of files stands for a full disk: sqlite says the same of both."""
    write(tmp_path / "bag", ARM, ticks=300)
    with pytest.raises(SystemExit) as ended, full_at(50_000), exit_codes():
        convert(tmp_path / "bag", ARM_FILE, tmp_path / "out", 0, "sqlite3")
    assert ended.value.code == 7


def test_fault_102_a_journal_without_room_is_no_damage(tmp_path, monkeypatch):
    """What the disk has no room for is not lost: it can be read elsewhere."""
    write(tmp_path / "bag", ARM)
    copy_bag(tmp_path / "bag", tmp_path / "copy")
    (file,) = (tmp_path / "copy").glob("*.db3")

    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite.sqlite3, "connect", full)
    with pytest.raises(StorageError, match="TMPDIR"):
        sqlite.apply_journal(file, file.name, Losses())


@pytest.mark.parametrize("made", [
    "by hand", {"config": "by hand"}, {"data": [1]}, {"split": 3}, {"split": {"rule": "x"}},
    {"config": {"seed": "0"}}, {"config": {"seed": None}},
])  # fmt: skip
def test_fault_040_a_provenance_that_is_none_is_refused(made):
    with pytest.raises(PolicyRefused, match="provenance.* in policy.yaml"):
        provenance_of(SimpleNamespace(provenance=made))


@pytest.mark.parametrize(
    "made", [{}, {"config": {"seed": 3}, "split": {"rule": "x"}, "data": None}]
)
def test_a_provenance_may_say_little(made):
    assert provenance_of(SimpleNamespace(provenance=made))["data"] == {}
