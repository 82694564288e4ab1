"""Damaged sqlite3 bags: what is whole is read and nothing else, and the folder stays as it was."""

import shutil
import sqlite3

import numpy as np
import pytest

from qgf_ros.errors import DataRefused, QgfError

pytest.importorskip("rosbags")

from qgf_bags import ARM, copy_bag, count, fingerprint, is_part_of, same, write

from training.pipeline.readers.rosbag2 import Rosbag2Reader


def read(tmp_path):
    return Rosbag2Reader().read(tmp_path / "set", "bag", ARM)


@pytest.fixture
def bag(tmp_path):
    """(file, its bytes, what is in it) of a bag of some 25 pages."""
    write(tmp_path / "mcap", ARM, ticks=200)
    (tmp_path / "set").mkdir()
    copy_bag(tmp_path / "mcap", tmp_path / "set" / "bag")
    file = tmp_path / "set" / "bag" / "bag.db3"
    whole = read(tmp_path)
    assert whole.rejected == {} and same(whole, Rosbag2Reader().read(tmp_path, "mcap", ARM))
    return file, file.read_bytes(), whole


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_fault_102_rows_before_a_cut_are_read_and_the_rest_counted(tmp_path, bag, share):
    file, data, whole = bag
    with sqlite3.connect(file) as database:
        query = "SELECT data FROM messages WHERE length(data) > 50"  # joints: each is unique
        raw = [row[0] for row in database.execute(query)]
    database.close()
    cut = int(len(data) * share)
    last_page = cut // 4096 * 4096
    there = sum(data.rindex(message) < last_page for message in raw)  # an older copy may remain
    file.write_bytes(data[:cut])
    before = fingerprint(tmp_path)
    got = read(tmp_path)
    assert is_part_of(got, whole) and len(got.streams["joints"]) == there > 0
    assert any("cut short: bag.db3" in reason for reason in got.rejected)
    lost = count(whole) - count(got)
    assert sum(got.rejected.values()) == max(lost, 1), "metadata.yaml says how many there were"
    assert fingerprint(tmp_path) == before


def test_fault_102_half_a_page_is_not_read_as_zeros(tmp_path, bag):
    """sqlite fills a cut page with zeros, and a message that reaches into it would end in zeros."""
    file, data, whole = bag
    for cut in range(10 * 4096 + 1, 11 * 4096, 300):
        file.write_bytes(data[:cut])
        assert is_part_of(read(tmp_path), whole)


def test_fault_102_rows_behind_a_damaged_page_are_found(tmp_path, bag):
    file, data, whole = bag
    rng = np.random.default_rng(0)
    for page in range(8, 20, 4):
        damaged = bytearray(data)
        damaged[page * 4096 : (page + 1) * 4096] = rng.bytes(4096)
        file.write_bytes(damaged)
        got = read(tmp_path)
        assert is_part_of(got, whole) and 0.9 * count(whole) < count(got)
        assert sum(got.rejected.values()) == count(whole) - count(got)
        assert got.streams["joints"].receipt[-1] == whole.streams["joints"].receipt[-1]


def test_fault_102_noise_anywhere_is_no_traceback_and_takes_no_time(tmp_path, bag):
    file, data, _ = bag
    rng = np.random.default_rng(1)
    for _ in range(20):
        damaged = bytearray(data)
        at = int(rng.integers(len(data)))
        noise = rng.bytes(int(rng.integers(1, 5000)))
        damaged[at : at + len(noise)] = noise
        file.write_bytes(damaged)
        try:
            read(tmp_path)
        except QgfError as error:
            assert "bag" in str(error)


def test_fault_102_what_a_write_ahead_log_holds_is_read_and_the_log_stays(tmp_path, bag):
    """A recorder that was killed: half of the messages are in the log only."""
    file, _, whole = bag
    with sqlite3.connect(file, isolation_level=None) as database:
        rows = database.execute("SELECT * FROM messages").fetchall()
        database.execute("DELETE FROM messages WHERE id > 500")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("BEGIN")
        database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows[500:])
        database.execute("COMMIT")
        copy = tmp_path / "killed"
        shutil.copytree(tmp_path / "set", copy / "set")
        (copy / "set" / "bag" / "bag.db3-shm").unlink()
    database.close()
    assert (copy / "set" / "bag" / "bag.db3-wal").stat().st_size > 10_000
    before = fingerprint(copy)
    got = read(copy)
    assert got.rejected == {} and same(got, whole)
    assert fingerprint(copy) == before
    files = Rosbag2Reader().files(copy / "set", "bag")
    assert [f.name for f in files] == ["bag.db3", "bag.db3-wal", "metadata.yaml"]


def test_fault_102_a_transaction_that_was_not_finished_is_rolled_back_in_a_copy(tmp_path, bag):
    file, _, whole = bag
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("UPDATE messages SET data = zeroblob(200)")
    copy = tmp_path / "killed"
    shutil.copytree(tmp_path / "set", copy / "set")
    database.execute("ROLLBACK")
    database.close()
    assert (copy / "set" / "bag" / "bag.db3-journal").stat().st_size > 0
    before = fingerprint(copy)
    assert same(read(copy), whole) and fingerprint(copy) == before


def test_fault_102_a_journal_that_names_another_file_does_not_touch_it(tmp_path, bag):
    """sqlite deletes the super-journal that a journal names, wherever it is."""
    file, _, _ = bag
    victim = tmp_path / "victim"
    victim.write_bytes(b"no such journal\0")
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("UPDATE messages SET data = zeroblob(200)")
    copy = tmp_path / "evil"
    shutil.copytree(tmp_path / "set", copy / "set")
    database.execute("ROLLBACK")
    database.close()
    name = bytes(victim)
    with (copy / "set" / "bag" / "bag.db3-journal").open("ab") as journal:
        journal.write((2**30 // 4096 + 1).to_bytes(4, "big") + name)
        journal.write(len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big"))
        journal.write(bytes.fromhex("d9d505f920a163d7"))
    before = fingerprint(tmp_path)
    with pytest.raises(DataRefused, match="bag.db3-journal names another file"):
        read(copy)
    assert fingerprint(tmp_path) == before


def test_fault_102_a_locked_bag_is_read_without_waiting(tmp_path, bag):
    file, _, whole = bag
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    try:
        assert same(read(tmp_path), whole)
    finally:
        database.execute("ROLLBACK")
        database.close()


def test_fault_102_a_folder_that_may_not_be_written_to_is_read(tmp_path, bag):
    file, _, whole = bag
    file.chmod(0o400)
    file.parent.chmod(0o500)
    before = fingerprint(tmp_path)
    try:
        assert same(read(tmp_path), whole) and fingerprint(tmp_path) == before
    finally:
        file.parent.chmod(0o700)


def edit(file, *statements):
    with sqlite3.connect(file, isolation_level=None) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.mark.parametrize("statements", [
    ("ALTER TABLE messages RENAME TO other",
     f"CREATE VIEW messages AS {ENDLESS} i AS id, 1 AS topic_id, 1 AS timestamp, x'00' AS data FROM n"),
    ("ALTER TABLE messages ADD COLUMN more BLOB AS (zeroblob(1000000000))",),
    ("DROP TABLE topics",),
    ("ALTER TABLE messages RENAME COLUMN data TO other",),
], ids=["view", "generated column", "no topics", "no data"])  # fmt: skip
def test_fault_102_tables_that_are_not_a_bags_are_refused(tmp_path, bag, statements):
    file, _, _ = bag
    edit(file, *statements)
    with pytest.raises(DataRefused, match="bag.db3"):
        read(tmp_path)


def test_rows_that_hold_no_message_are_counted(tmp_path, bag):
    file, _, whole = bag
    edit(
        file,
        "UPDATE messages SET data = 'text' WHERE id = 7",
        "UPDATE messages SET timestamp = 'soon' WHERE id = 8",
        "UPDATE messages SET topic_id = 99 WHERE id = 9",
    )
    got = read(tmp_path)
    assert got.rejected == {
        "bag.db3: a row is no message": 2,
        "bag.db3: message of a topic that is lost": 1,
    }
    assert count(got) == count(whole) - 3


def test_a_name_that_means_something_in_a_uri_is_a_name(tmp_path, bag):
    file, _, whole = bag
    odd = tmp_path / "set" / "a?mode=rwc&b=%20#c"
    shutil.copytree(file.parent, odd)
    assert same(Rosbag2Reader().read(tmp_path / "set", odd.name, ARM), whole)


def test_a_bag_of_an_older_ros_without_definitions_is_read(tmp_path, bag):
    file, _, whole = bag
    edit(file, "DROP TABLE message_definitions", "DROP TABLE schema")
    assert same(read(tmp_path), whole)


def test_a_definition_that_is_not_the_one_it_was_recorded_with_is_not_used(tmp_path, bag):
    """sqlite has no checksums, but the definition has: other fields are other numbers."""
    file, _, _ = bag
    edit(
        file,
        "UPDATE message_definitions SET encoded_message_definition = "
        "replace(encoded_message_definition, 'float64[] velocity', 'float64[] velocitx')",
    )
    with pytest.raises(DataRefused, match="joint_states.*other hash"):
        read(tmp_path)


@pytest.mark.parametrize("same_text", [True, False])
def test_a_type_that_is_defined_twice_is_one_definition(tmp_path, bag, same_text):
    """The last one would be taken, whatever the messages are of."""
    file, _, whole = bag
    text = "encoded_message_definition" + ("" if same_text else " || 'float64 more\n'")
    edit(
        file,
        "INSERT INTO message_definitions (topic_type, encoding, encoded_message_definition, "
        f"type_description_hash) SELECT topic_type, encoding, {text}, type_description_hash "
        "FROM message_definitions WHERE topic_type = 'sensor_msgs/msg/JointState'",
    )
    if same_text:
        assert same(read(tmp_path), whole)
        return
    with pytest.raises(DataRefused, match="twice, differently"):
        read(tmp_path)
