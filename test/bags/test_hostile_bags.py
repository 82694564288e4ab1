"""Bags made to take memory and time: bombs, definitions without end, topics without end."""

import os
import sqlite3
import struct
from contextlib import closing
from time import process_time

import lz4.frame
import numpy as np
import pytest
from backports.zstd import compress
from qgf_bags import ARM, MAGIC, channel, chunk, copy_bag, mcap, message, record, write
from qgf_make import START, contract, velocity_dict

pytest.importorskip("pyarrow")

from qgf_ros.bags import damage, files
from qgf_ros.bags import mcap as mcap_files
from qgf_ros.bags.damage import MAX_CHANNELS, Damage, Losses
from qgf_ros.bags.types import Channel, Definition, typestore
from qgf_ros.errors import DataRefused
from qgf_ros.replay.events import BagEvents
from training.doctor.bag_survey import MAX_LABELS
from training.pipeline.readers.rosbag2 import Rosbag2Reader

READER = Rosbag2Reader()
FLOAT = "std_msgs/msg/Float64"
GOOD = channel(1, "/good", FLOAT, "") + message(1, START, b"\0\1\0\0" + bytes(8))
SEPARATOR = "=" * 80 + "\n"
BOMB = b"\0\1\0\0" + (2**22).to_bytes(4, "little") + bytes(2**22)  # 4 Mi elements of one byte each


def survey(tmp_path, *parts):
    (tmp_path / "x.mcap").write_bytes(mcap(*parts))
    return READER.survey(tmp_path / "x.mcap", ".")


def own(topic, kind):
    """A contract that observes `x` of a topic, so that replay and training read it."""
    value = velocity_dict()
    value["observations"] = [
        {"name": "odd", "topic": topic, "type": kind, "stamp": "receipt", "fields": ["x"]}
    ]
    return contract(value)


def nobody_reads(tmp_path, topic, kind, why):
    """Inspect, train and replay say the same of a topic."""
    got = READER.survey(tmp_path / "x.mcap", ".")
    assert [r for r in got.rejected if why in r] and f"/{topic}" not in got.signals
    for read in (
        lambda: READER.read(tmp_path / "x.mcap", ".", own(topic, kind)),
        lambda: list(BagEvents(tmp_path / "x.mcap", ".", own(topic, kind))),
    ):
        with pytest.raises(DataRefused, match=why):
            read()


# 136: compression


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
@pytest.mark.parametrize("say", ["all of it", "less", "nothing"])
def test_fault_136_a_chunk_of_zeros_is_skipped_and_the_others_are_read(tmp_path, kind, say):
    """Whether it says what it becomes or lies, no more than that is ever held."""
    size = 300 * 2**20
    stored = {"zstd": compress, "lz4": lz4.frame.compress}[kind](bytes(size))
    size = {"all of it": size, "less": 2**20, "nothing": 0}[say]
    good = chunk(GOOD)
    got = survey(tmp_path, good, chunk(b"", kind, stored, size), chunk(GOOD))
    assert len(got.signals["/good"].stream) == 2 and sum(got.rejected.values()) == 1
    assert "chunk skipped" in next(iter(got.rejected))


def test_fault_136_messages_that_are_bombs_one_by_one_have_one_budget(tmp_path, monkeypatch):
    """rosbag2 may compress each message: each may be small enough, and all of them too much."""
    monkeypatch.setattr(damage, "budget", lambda size: 3 * 2**20 + size)
    packed = compress(b"\0\1\0\0" + (2**16).to_bytes(4, "little") + bytes(2**19))
    parts = [channel(2, "/odd", "odd_msgs/msg/Odd", "float64[] x\n")]
    parts += [message(2, START + k, packed) for k in range(200)]
    got = survey(tmp_path, chunk(GOOD), chunk(b"".join(parts)))
    assert "/good" in got.signals
    assert sum(c for r, c in got.rejected.items() if r.endswith("too much")) > 190


def test_fault_136_a_message_of_more_objects_than_memory_is_not_decoded(tmp_path):
    """A byte of zeros may be an object of a hundred bytes, and zeros cost nothing in a bag."""
    text = f"odd_msgs/One[] all\nfloat64 x\n{SEPARATOR}MSG: odd_msgs/One\nuint8 x\n"
    parts = channel(2, "/odd", "odd_msgs/msg/Odd", text)
    survey(
        tmp_path, chunk(GOOD), chunk(parts + message(2, START, BOMB + bytes(16))),
    )  # fmt: skip
    nobody_reads(tmp_path, "odd", "odd_msgs/Odd", "may become more than")


def test_fault_136_a_file_of_empty_frames_takes_no_time(tmp_path):
    """zstd frames that hold nothing, one behind the other."""
    begin = process_time()
    (tmp_path / "x.mcap.zstd").write_bytes(compress(b"") * 100_000 + compress(mcap(chunk(GOOD))))
    assert "/good" in READER.survey(tmp_path / "x.mcap.zstd", ".").signals
    assert process_time() - begin < 60  # copies of the rest for each frame would be minutes


# 137: definitions


def types(count, width=2, leaf="float64 x\n"):
    """Each type holds the one before `width` times."""
    parts = [
        "".join(f"odd_msgs/T{i - 1} f{k}\n" for k in range(width)) for i in range(count, 0, -1)
    ]
    named = [parts[0], *(f"MSG: odd_msgs/T{count - i}\n{p}" for i, p in enumerate(parts) if i)]
    return SEPARATOR.join([*named, f"MSG: odd_msgs/T0\n{leaf}"])


HOSTILE = {
    "itself": "odd_msgs/Odd x\n",
    "itself in a sequence": "float64 x\nodd_msgs/Odd[] y\n",
    "each other": f"odd_msgs/A x\n{SEPARATOR}MSG: odd_msgs/A\nodd_msgs/B x\n"
    f"{SEPARATOR}MSG: odd_msgs/B\nodd_msgs/A[] x\n",
    "a million fields": "\n".join(map("bool a{}".format, range(1_000_000))),
    "twenty thousand fields": "".join(f"bool a{i}\n" for i in range(20_000)),
    "arrays of arrays": f"odd_msgs/A[1000] x\n{SEPARATOR}MSG: odd_msgs/A\nodd_msgs/B[1000] x\n"
    f"{SEPARATOR}MSG: odd_msgs/B\nodd_msgs/C[1000] x\n{SEPARATOR}MSG: odd_msgs/C\nuint8 x\n",
    "arrays of nothing": f"odd_msgs/A[] x\n{SEPARATOR}MSG: odd_msgs/A\nuint8[0] x\n",
    "arrays of less": "float64[-1] x\n",
    "texts": "string[20000] x\n",
    "twice each": types(15),
    "a long chain": types(900, 1),
    "twice nothing": types(40, 2, "uint8[0] x\n"),
    "defaults": "float64[] x [" + "0," * 60_000 + "0]\n",
    "many types": "float64 x\n"
    + "".join(f"{SEPARATOR}MSG: odd_msgs/T{i}\nuint8 x\n" for i in range(2400)),
}
IDL = {
    "shifts": "const long A = 1 << 100000000000; struct Odd { double x; };",
    "parentheses": "const long A = " + "(" * 12 + "1" + ")" * 12 + "; struct Odd { double x; };",
    "pairs": "const long A = " + "*".join(["((1))"] * 200) + "; struct Odd { double x; };",
    "many pairs": "".join(f"const long A{i} = (1); " for i in range(2000))
    + "struct Odd { double x; };",
    "texts": '@verbatim (text="a" ' + '"a" ' * 20_000 + ") struct Odd { double x; };",
    "sequences": "struct Odd { " + "sequence<" * 400 + "double" + ">" * 400 + " x; };",
    "fields": "struct Odd { " + "".join(f"double a{i}; " for i in range(12_000)) + "};",
    "comments": "/* " * 50_000 + "struct Odd { double x; };",
}
IDL_HEAD = f"{SEPARATOR}IDL: odd_msgs/msg/Odd\nmodule odd_msgs {{ module msg {{ "


@pytest.mark.parametrize("what", HOSTILE)
def test_fault_137_a_definition_without_end_is_counted_and_not_compiled(tmp_path, what):
    begin = process_time()
    parts = channel(2, "/odd", "odd_msgs/msg/Odd", HOSTILE[what]) + message(2, START, bytes(200))
    got = survey(tmp_path, chunk(GOOD), chunk(parts))
    assert list(got.signals) == ["/good"]
    assert sum(got.rejected.values()) == 1 and got.unusable["/odd"] in got.rejected
    nobody_reads(tmp_path, "odd", "odd_msgs/Odd", "definition of")
    assert process_time() - begin < 30  # each of these took that long, or for ever


@pytest.mark.parametrize("what", IDL)
def test_fault_137_idl_without_end_is_not_parsed(what):
    begin = process_time()
    definition = Definition("ros2idl", f"{IDL_HEAD}{IDL[what]} }}; }};\n")
    with pytest.raises(Damage, match="definition of"):
        typestore(Channel("/odd", "odd_msgs/msg/Odd", "cdr", definition), Losses())
    assert process_time() - begin < 30


@pytest.mark.parametrize("text", [
    'struct Odd { @verbatim (language="comment", text="((( of (1 << 40) \\" {{{ ") double x; };',
    "struct Odd { sequence<double, 7> x; string<22> y; };",
    "typedef double double__3[3]; struct Odd { double__3 x; };",
])  # fmt: skip
def test_idl_as_ros_writes_it_is_still_read(text):
    definition = Definition("ros2idl", f"{IDL_HEAD}{text} }}; }};\n")
    assert typestore(Channel("/odd", "odd_msgs/msg/Odd", "cdr", definition), Losses())


@pytest.mark.parametrize("length", [2**31, 2**32 - 1, 2**63])
def test_fault_137_an_array_that_no_message_can_fill_is_not_made(tmp_path, length):
    parts = channel(2, "/odd", "odd_msgs/msg/Odd", f"float64[{length}] x\n")
    got = survey(tmp_path, chunk(GOOD), chunk(parts + message(2, START, BOMB)))
    assert list(got.signals) == ["/good"] and sum(got.rejected.values()) == 1


# 138: topics


def test_fault_138_a_bag_of_more_topics_than_a_robot_has_is_refused(tmp_path):
    parts = [channel(n, f"/t{n}", FLOAT, "") for n in range(MAX_CHANNELS + 2)]
    got = survey(tmp_path, chunk(GOOD), *[chunk(p) for p in parts[2:]], chunk(GOOD))
    assert [r for r in got.rejected if f"more than {MAX_CHANNELS} topics" in r]
    with pytest.raises(DataRefused, match=f"more than {MAX_CHANNELS} topics.*ros2 bag convert"):
        READER.read(tmp_path / "x.mcap", ".", own("odd", "odd_msgs/Odd"))
    with pytest.raises(DataRefused, match=f"more than {MAX_CHANNELS} topics"):
        list(BagEvents(tmp_path / "x.mcap", ".", own("odd", "odd_msgs/Odd")))


def test_fault_138_sqlite_topics_are_not_left_out_without_a_word(tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.db3")) as database:
        database.execute("CREATE TABLE topics (id INTEGER, name, type, serialization_format)")
        database.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id, timestamp, data)"
        )
        database.executemany(
            "INSERT INTO topics VALUES (?, ?, 'std_msgs/msg/Float64', 'cdr')",
            ((n, f"/t{n}") for n in range(MAX_CHANNELS + 1)),
        )
        database.commit()
    got = READER.survey(tmp_path / "x.db3", ".")
    assert [r for r in got.rejected if f"more than {MAX_CHANNELS} topics" in r]


def test_fault_138_every_topic_a_type_of_its_own_has_one_budget(tmp_path):
    """Code is made for each type, and takes longer than reading its messages."""
    parts = [
        channel(n, f"/t{n}", f"odd_msgs/msg/T{n}", "float64 x\n")
        + message(n, START, b"\0\1\0\0" + bytes(8))
        for n in range(1000)
    ]
    got = survey(tmp_path, chunk(b"".join(parts)))
    assert 500 < len(got.signals) < 700
    assert sum(c for r, c in got.rejected.items() if r) == 1000 - len(got.signals)


def test_fault_138_numbers_beyond_what_is_surveyed_are_counted(tmp_path):
    width, topics = 500, MAX_LABELS // 500 + 3
    text = "".join(f"float64 x{i}\n" for i in range(width))
    raw = b"\0\1\0\0" + np.arange(width, dtype="<f8").tobytes()
    parts = [
        channel(n, f"/t{n:02}", "odd_msgs/msg/Odd", text) + message(n, START, raw)
        for n in range(topics)
    ]
    got = survey(tmp_path, chunk(b"".join(parts)))
    assert sum(len(s.labels) for s in got.signals.values()) <= MAX_LABELS
    assert got.rejected == {f"only the first {MAX_LABELS} different numbers are surveyed": 3}


def test_fault_138_a_hundred_thousand_declarations_of_few_topics_are_read(tmp_path):
    parts = b"".join(channel(1 + n % 3, f"/t{n % 3}", FLOAT, "") for n in range(100_000))
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(parts + GOOD)))
    seen = []
    bag = files.open_bag(tmp_path, "x.mcap")
    for _ in files.read_messages(bag, lambda c: seen.append(c.topic), losses := Losses()):
        pass
    assert seen == ["/t0", "/t1", "/t2"] and not losses


# 137: what is kept of a definition or a name, and 102: tables that are none


def not_compressible(size):
    return np.random.default_rng(0).bytes(size // 1000).hex().encode() + b"a" * size


@pytest.mark.parametrize("what", ["topic", "type", "encoding"])
def test_fault_137_a_name_of_megabytes_is_neither_kept_nor_quoted(tmp_path, what):
    name = not_compressible(2**22).decode()
    value = {"topic": "/odd", "type": FLOAT, "encoding": "cdr"} | {what: name}
    odd = channel(2, value["topic"], value["type"], "", value["encoding"])
    got = survey(tmp_path, chunk(GOOD), chunk(odd + message(2, START, bytes(12))))
    assert list(got.signals) == ["/good"] and max(map(len, got.others), default=0) < 100
    assert {"x.mcap: message of a channel that is lost": 1}.items() <= got.rejected.items()
    assert any("too long a name" in reason for reason in got.rejected)
    with pytest.raises(DataRefused) as caught:
        READER.read(tmp_path / "x.mcap", ".", own("no", "odd_msgs/Odd"))
    assert len(str(caught.value)) < 1000


def test_fault_137_all_definitions_of_a_file_have_one_budget(tmp_path, monkeypatch):
    """Each may be small enough to be read, and all of them more than memory."""
    monkeypatch.setattr(damage, "MAX_DEFINITIONS", 10_000)
    texts = [channel(k, f"/t{k}", f"odd_msgs/msg/Odd{k}", "float64 x\n" + "#" * 3000) for k in range(2, 9)]
    got = survey(tmp_path, chunk(GOOD), *map(chunk, texts), chunk(GOOD))
    assert len(got.signals["/good"].stream) == 1
    assert any("message definitions" in reason for reason in got.rejected)
    (tmp_path / "x.mcap").unlink()
    with closing(bag_tables(tmp_path)) as database, database:
        database.execute("CREATE TABLE message_definitions (topic_type, encoding, encoded_message_definition)")
        rows = [(f"odd_msgs/msg/Odd{k}", "ros2msg", "#" * 3000) for k in range(9)]
        database.executemany("INSERT INTO message_definitions VALUES (?, ?, ?)", rows)
    got = READER.survey(tmp_path / "x.db3", ".")
    assert not got.signals and any("message definitions" in reason for reason in got.rejected)


def bag_tables(tmp_path, topics="id INTEGER PRIMARY KEY", messages="id INTEGER PRIMARY KEY"):
    database = sqlite3.connect(tmp_path / "x.db3")
    database.execute(f"CREATE TABLE topics ({topics}, name, type, serialization_format)")
    database.execute(f"CREATE TABLE messages ({messages}, topic_id, timestamp, data)")
    return database


def fill(database, numbers=(1, 2, 3), topic=1):
    raw = b"\0\1\0\0" + bytes(8)
    rows = [(number, topic, START + k, raw) for k, number in enumerate(numbers)]
    database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows)


@pytest.mark.parametrize("number", [None, "abc", "1) OR (1", 9e999, 1.5, b"\0\xff", 1])
def test_fault_102_a_topic_of_no_number_is_counted_and_the_others_are_read(tmp_path, number):
    with closing(bag_tables(tmp_path, "id")) as database, database:
        database.execute("INSERT INTO topics VALUES (1, '/good', ?, 'cdr')", (FLOAT,))
        database.execute("INSERT INTO topics VALUES (?, '/odd', ?, 'cdr')", (number, FLOAT))
        fill(database)
    got = READER.survey(tmp_path / "x.db3", ".")
    assert [len(s.stream) for s in got.signals.values()] == [3] and sum(got.rejected.values()) == 1


@pytest.mark.parametrize("topic", [None, "x", 77, b"\1", 1.5])
def test_fault_102_a_row_of_a_topic_that_is_not_there_is_counted(tmp_path, topic):
    with closing(bag_tables(tmp_path)) as database, database:
        database.execute("INSERT INTO topics VALUES (1, '/good', ?, 'cdr')", (FLOAT,))
        fill(database)
        fill(database, (4, 5), topic)
    got = READER.survey(tmp_path / "x.db3", ".")
    assert len(got.signals["/good"].stream) == 3
    assert got.rejected == {"x.db3: message of a topic that is lost": 2}


@pytest.mark.parametrize("numbers", [("a", "b"), (None, None), (b"a", b"b"), (0.5, 1.5), (7, 7)])
def test_fault_102_a_column_that_hides_the_rows_numbers_loses_none_without_a_word(tmp_path, numbers):
    with closing(bag_tables(tmp_path, messages="rowid")) as database, database:
        database.execute("INSERT INTO topics VALUES (1, '/good', ?, 'cdr')", (FLOAT,))
        fill(database, numbers)
    got = READER.survey(tmp_path / "x.db3", ".")
    assert not got.signals and any("'rowid'" in reason for reason in got.rejected)


def test_fault_102_definitions_that_are_a_view_without_end_are_not_asked(tmp_path):
    with closing(bag_tables(tmp_path)) as database, database:
        database.execute(
            "CREATE VIEW message_definitions AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
            "FROM c) SELECT x topic_type, x encoding, x encoded_message_definition FROM c WHERE x < 0"
        )
    got = READER.survey(tmp_path / "x.db3", ".")
    assert any("no plain table" in reason for reason in got.rejected)


def test_fault_137_sqlite_names_of_megabytes_are_neither_kept_nor_quoted(tmp_path):
    with closing(bag_tables(tmp_path)) as database, database:
        database.execute("INSERT INTO topics VALUES (1, '/good', ?, 'cdr')", (FLOAT,))
        database.execute("INSERT INTO topics VALUES (2, ?, ?, 'cdr')", ("n" * 2**22, FLOAT))
        database.execute("INSERT INTO topics VALUES (3, '/odd', ?, 'cdr')", ("n" * 2**22,))
        fill(database)
        fill(database, (4, 5), 2)
    got = READER.survey(tmp_path / "x.db3", ".")
    assert list(got.signals) == ["/good"] and not got.others
    assert sum(got.rejected.values()) == 4 and max(map(len, got.rejected)) <= 200


# 152: numbers that lead out of the file


BEYOND = [2**40, 2**63 - 10, 2**63, 2**64 - 9, 2**64 - 1]


def indexed(*parts, chunks=(), messages=0):
    """A file with an index: of chunks that begin there, and with so many messages."""
    data = mcap(*parts, end=False) + record(0x0F, bytes(4))
    index = b"".join(record(0x08, struct.pack("<QQQ", 0, 0, at) + bytes(32)) for at in chunks)
    index += record(0x0B, struct.pack("<Q", messages) + bytes(34))
    return data + index + record(0x02, struct.pack("<QQI", len(data), 0, 0)) + MAGIC


@pytest.mark.parametrize("far", BEYOND)
@pytest.mark.parametrize("what", ["record", "chunk", "index behind damage"])
def test_fault_152_lengths_and_indexes_that_lead_out_of_the_file_end_there(tmp_path, what, far):
    """Not even where the file's index says that a chunk begins out there."""
    damaged = bytearray(chunk(GOOD))
    damaged[-1] ^= 1
    behind = {
        "record": record(0x80, bytes(20), far),
        "chunk": record(0x06, bytes(20), far),
        "index behind damage": bytes(damaged) + record(0x07, bytes(22), far),
    }[what]
    (tmp_path / "x.mcap").write_bytes(
        indexed(chunk(GOOD), behind, chunks=[far, 2**64 - 1], messages=far)
    )
    got = READER.survey(tmp_path / "x.mcap", ".")
    assert len(got.signals["/good"].stream) == 1 and got.rejected


# 153: files that change while they are read


@pytest.fixture(params=["mcap", "sqlite3"])
def opened(tmp_path, request):
    """A bag that was opened, and how to read it: messages, and what was lost."""
    write(tmp_path / "whole", ARM, ticks=10)
    copy_bag(tmp_path / "whole", tmp_path / "bag", request.param)
    bag, losses = files.open_bag(tmp_path / "bag", "."), Losses()

    def read(change, after):
        count = 0
        for count, _ in enumerate(files.read_messages(bag, lambda c: lambda *_: None, losses), 1):
            if count == after:
                change(bag.files[0])
        return count, losses

    return bag.files[0], read


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def shorter(file):
    os.truncate(file, 60)


@pytest.mark.parametrize("change", [pipe, shorter])
@pytest.mark.parametrize("after", [0, 3])
def test_fault_153_a_bag_that_changes_behind_the_check_is_read_or_counted(opened, change, after):
    """A pipe in its place would be waited for without end."""
    file, read = opened
    if not after:
        change(file)
    count, losses = read(change, after)
    assert losses if not after else count >= after


def test_fault_153_a_file_that_shrinks_under_its_checksum_is_not_read_for_ever(tmp_path):
    """Messages outside of chunks are checked by the checksum of the whole file, at its end."""
    parts = mcap(GOOD, end=False)
    tail = record(0x0F, struct.pack("<I", 1)) + record(0x02, bytes(20)) + MAGIC
    file = tmp_path / "x.mcap"
    file.write_bytes(parts + tail)
    found = mcap_files._File(file.open("rb"), len(parts + tail), "x", lambda c: None, Losses())
    list(found._data([]))
    found._unchecked = True
    body = found._bytes(len(parts), 13)
    found._bytes = lambda at, count: body if at == len(parts) else b""
    found._check_data(len(parts))
    assert "wrong checksum" in str(found._losses)
