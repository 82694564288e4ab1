"""Damaged MCAP files: what is whole is read and nothing else, what is lost is counted, and no file
takes more memory than it may."""

import dataclasses
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from qgf_make import SCALE, START

from qgf_ros.errors import DataRefused, QgfError

pytest.importorskip("rosbags")

import lz4.frame as lz4
from qgf_bags import (
    ARM,
    channel,
    chunk,
    count,
    custom,
    is_part_of,
    mcap,
    message,
    record,
    records,
    same,
    whole_messages,
    write,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from qgf_ros.bags import mcap as mcap_files
from qgf_ros.bags.sources import contract_sources
from training.pipeline.readers.load import load_episodes
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.bag import BagWriter

CHUNK = 0x06
FLOAT = "std_msgs/msg/Float64"


def read(tmp_path):
    return Rosbag2Reader().read(tmp_path, "bag", ARM)


@pytest.fixture
def bag(tmp_path):
    """(file, its bytes, what is in it) of a bag of several chunks."""
    write(tmp_path / "bag", ARM, ticks=300)
    file = tmp_path / "bag" / "bag.mcap"
    return file, file.read_bytes(), read(tmp_path)


def chunks_of(data):
    return [(begin, end) for opcode, begin, end in records(data) if opcode == CHUNK]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 0.999])
def test_fault_098_what_stands_before_a_cut_is_read_and_the_rest_counted(tmp_path, bag, share):
    file, data, whole = bag
    left = data[: int(len(data) * share)]
    file.write_bytes(left)
    got = read(tmp_path)
    assert count(got) == whole_messages(left) > 0 and is_part_of(got, whole)
    assert any(reason.startswith("file cut short: bag.mcap") for reason in got.rejected)
    lost = count(whole) - count(got)
    assert sum(got.rejected.values()) == max(lost, 1), "metadata.yaml says how many there were"


def test_fault_098_the_loss_reaches_the_report(tmp_path, bag):
    file, data, _ = bag
    file.write_bytes(data[: len(data) // 2])
    _, report = load_episodes(tmp_path / "bag", ARM)
    assert any(reason.startswith("message rejected: file cut short") for reason in report.dropped)


def test_fault_098_a_cut_before_the_first_whole_chunk_is_refused_and_says_why(tmp_path, bag):
    file, data, _ = bag
    file.write_bytes(data[:2000])
    with pytest.raises(DataRefused, match="no topic.*file cut short: bag.mcap"):
        read(tmp_path)


def test_fault_099_a_chunk_with_a_wrong_checksum_is_skipped_and_the_others_are_kept(tmp_path, bag):
    file, data, whole = bag
    for begin, end in chunks_of(data):
        damaged = bytearray(data)
        damaged[(begin + end) // 2] ^= 4
        file.write_bytes(damaged)
        got = read(tmp_path)
        held = sum(op == 0x05 for op, _, _ in records(data, begin + 49, end))
        assert got.rejected == {"chunk skipped: bag.mcap: wrong checksum": held}
        assert count(got) == count(whole) - held and is_part_of(got, whole)


@pytest.mark.parametrize("at", [0, 1, 4, 8, 25, 32, 37], ids=str)
def test_fault_099_reading_goes_on_behind_a_chunk_that_is_none_any_more(tmp_path, bag, at):
    """A bit of its opcode, its length, its decompressed size, its compression."""
    file, data, whole = bag
    begin, end = chunks_of(data)[1]
    damaged = bytearray(data)
    damaged[begin + at] ^= 1
    file.write_bytes(damaged)
    got = read(tmp_path)
    held = sum(op == 0x05 for op, _, _ in records(data, begin + 49, end))
    assert count(got) == count(whole) - held and is_part_of(got, whole)
    assert sum(got.rejected.values()) == held


def test_fault_099_no_flipped_bit_anywhere_is_silent(tmp_path, bag):
    file, data, whole = bag
    rng = np.random.default_rng(0)
    for _ in range(60 * SCALE):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            got = read(tmp_path)
        except QgfError:
            continue
        assert same(got, whole) or got.rejected
        assert is_part_of(got, whole)


def test_fault_099_bits_of_messages_outside_of_chunks_are_checked_by_the_checksum_of_the_file(
    tmp_path,
):
    inside = channel(1, "/x", FLOAT, "float64 data\n") + message(1, START, cdr(1.0))
    data = mcap(inside, end=False)
    tail = zlib.crc32(data).to_bytes(4, "little")
    end = record(0x0F, tail) + record(0x02, bytes(20)) + mcap()[:8]
    (tmp_path / "x.mcap").write_bytes(data + end)
    assert survey(tmp_path).rejected == {}
    damaged = bytearray(data)
    damaged[-3] ^= 1
    (tmp_path / "x.mcap").write_bytes(damaged + end)
    ((reason, _),) = survey(tmp_path).rejected.items()
    assert "wrong checksum" in reason


def test_fault_099_our_own_bags_carry_every_checksum(bag):
    _, data, _ = bag
    for begin, end in chunks_of(data):
        assert struct.unpack_from("<I", data, begin + 33)[0] == zlib.crc32(data[begin + 49 : end])
    (end,) = [begin for opcode, begin, _ in records(data) if opcode == 0x0F]
    assert struct.unpack_from("<I", data, end + 9)[0] == zlib.crc32(data[:end])
    (summary, _, checksum) = struct.unpack_from("<QQI", data, len(data) - 28)
    assert summary == end + 13 and checksum == zlib.crc32(data[summary : len(data) - 12])


def cdr(value):
    return bytes([0, 1, 0, 0]) + struct.pack("<d", value)


def survey(tmp_path):
    return Rosbag2Reader().survey(tmp_path / "x.mcap", ".")


GOOD = channel(1, "/x", FLOAT, "float64 data\n") + message(1, START, cdr(1.0))
NEXT = message(1, START + 1, cdr(2.0))
ZEROS = bytes(200 * 2**20)


def bombs():
    """Name -> (the part of a file that asks for too much, what is said of it)."""
    packed = zstd.compress(NEXT)
    return {
        "record longer than the file": (record(CHUNK, b"", 2**62), "cut short"),
        "zstd that becomes 25 000 times as much": (
            chunk(ZEROS, "zstd", zstd.compress(ZEROS)), "at most 1000 times",
        ),
        "lz4 that becomes more than it says": (
            chunk(NEXT, "lz4", lz4.compress(ZEROS), 1000), "more than the 1000 bytes",
        ),
        "zstd that becomes more than it says": (
            chunk(NEXT, "zstd", zstd.compress(ZEROS), 1000), "more than the 1000 bytes",
        ),
        "zstd that becomes less than it says": (
            chunk(NEXT, "zstd", packed, len(NEXT) + 1), "less than the",
        ),
        "says it becomes 2**62 bytes": (chunk(NEXT, "zstd", packed, 2**62), "at most 268435456"),
        "says it is larger than it is": (chunk(NEXT, "", None, len(NEXT) + 1), "contradict"),
        "no zstd at all": (chunk(NEXT, "zstd", b"no zstd at all"), "zstd: "),
        "an unknown compression": (chunk(NEXT, "rar", b"Rar!"), "'rar' is not known"),
        "a name of 4 GB": (
            record(CHUNK, bytes(28) + struct.pack("<I", 2**32 - 1) + b"x" * 40), "has no name",
        ),
        "a message longer than its chunk": (
            chunk(NEXT + record(0x05, bytes(22), 2**40)), "a message longer than its chunk",
        ),
        "a topic longer than its record": (
            chunk(record(0x04, struct.pack("<HHI", 2, 1, 2**31)) + NEXT), "ends early",
        ),
        "nothing but zeros": (chunk(bytes(2**20)), "a record longer than its chunk"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_fault_100_a_record_that_asks_for_too_much_is_skipped_and_counted(tmp_path, name):
    part, said = bombs()[name]
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(GOOD), part))
    got = survey(tmp_path)
    assert got.signals["/x"].stream.values[0, 0] == 1.0
    ((reason, _),) = got.rejected.items()
    assert "x.mcap" in reason and said in reason


def test_fault_100_one_wrong_size_does_not_stop_the_chunks_behind_it(tmp_path):
    wrong = chunk(NEXT, "zstd", zstd.compress(NEXT), 2**62)
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(GOOD), wrong, chunk(NEXT)))
    assert survey(tmp_path).signals["/x"].stream.values.tolist() == [[1.0], [2.0]]


def test_fault_100_what_a_file_becomes_in_all_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(mcap_files, "budget", lambda size: len(GOOD) + 10)
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(GOOD), chunk(NEXT, "zstd", zstd.compress(NEXT))))
    got = survey(tmp_path)
    assert len(got.signals["/x"].stream) == 1 and "too much" in "".join(got.rejected)


MEASURE = """
import re, sys
from pathlib import Path
from qgf_ros.bags.sources import contract_sources
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.bag import BagWriter
used = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = used()
for file in sorted(Path(sys.argv[1]).iterdir()):
    survey = Rosbag2Reader().survey(file, ".")
    print(file.name, survey.rejected)
print((used() - before) / 1024)
"""


def test_fault_100_memory_stays_below_400_mb(tmp_path):
    """The bombs above, those of files and messages, and the largest chunk that is read at all."""
    for number, (part, _) in enumerate(bombs().values()):
        (tmp_path / f"{number}.mcap").write_bytes(mcap(chunk(GOOD), part))
    (tmp_path / "message.mcap").write_bytes(
        mcap(chunk(GOOD + message(1, START, zstd.compress(ZEROS))))
    )
    (tmp_path / "file.mcap").write_bytes(zstd.compress(mcap(chunk(GOOD), record(0x99, ZEROS))))
    noise = np.random.default_rng(0).bytes(600_000) + bytes(190 * 2**20)
    big = GOOD + record(0x99, noise)
    (tmp_path / "large.mcap").write_bytes(mcap(chunk(big, "zstd", zstd.compress(big))))
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, growth = done.stdout.splitlines()
    assert "large.mcap {}" in said, "it is within all bounds, and read"
    assert float(growth) < 400


def test_fault_110_a_bag_that_is_being_recorded_is_read_up_to_its_last_whole_chunk(tmp_path, bag):
    file, data, whole = bag
    third, end = chunks_of(data)[2]
    (file.parent / "metadata.yaml").unlink()
    for cut in (third, third + 5, end - 1):
        file.write_bytes(data[:cut])
        got = read(tmp_path)
        assert count(got) == whole_messages(data[:third]) and is_part_of(got, whole)
        ((reason, _),) = got.rejected.items()
        assert "still being recorded" in reason


def test_fault_110_a_bag_whose_recorder_is_alive_is_read(tmp_path):
    source = next(o for o in ARM.observations if o.name == "joints")
    alone = dataclasses.replace(ARM, observations=(source,))
    sources = {n: s for n, s in contract_sources(ARM).items() if n != "obstacle"}
    with BagWriter(tmp_path / "bag", sources) as recorder:
        sizes = []
        for k in range(3000):
            at = START + k * 10**6
            recorder.write("joints", at, at, np.full(4, float(k)))
            if k % 1000 == 999:
                got = Rosbag2Reader().read(tmp_path, "bag", alone)
                sizes.append(len(got.streams["joints"]))
                assert np.array_equal(got.streams["joints"].values[:, 0], np.arange(sizes[-1]))
                assert "still being recorded" in "".join(got.rejected)
    assert 0 < sizes[0] < sizes[1] < sizes[2] < 3000
    got = Rosbag2Reader().read(tmp_path, "bag", alone)
    assert len(got.streams["joints"]) == 3000 and got.rejected == {}


@pytest.mark.parametrize("kind", ["", "zstd", "lz4"])
def test_chunks_of_every_compression_are_read(tmp_path, kind):
    packed = {"": GOOD, "zstd": zstd.compress(GOOD), "lz4": lz4.compress(GOOD)}[kind]
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(GOOD, kind, packed), chunk(NEXT)))
    got = survey(tmp_path)
    assert got.rejected == {} and got.signals["/x"].stream.values.tolist() == [[1.0], [2.0]]


def test_messages_of_a_file_are_in_the_order_of_receipt(tmp_path):
    late = channel(1, "/x", FLOAT, "float64 data\n") + message(1, START + 2, cdr(3.0))
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(late), chunk(message(1, START, cdr(1.0)) + NEXT)))
    assert survey(tmp_path).signals["/x"].stream.values[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_messages_of_a_channel_that_is_lost_are_counted(tmp_path):
    (tmp_path / "x.mcap").write_bytes(mcap(chunk(GOOD), chunk(message(7, START, cdr(1.0)))))
    assert survey(tmp_path).rejected == {"x.mcap: message of a channel that is lost": 1}


def test_a_channel_of_another_encoding_is_named(tmp_path):
    """JSON on a topic that the contract observes."""
    store = custom("test_msgs/msg/None", "uint8 x\n")
    text = store.generate_msgdef("sensor_msgs/msg/JointState", ros_version=2)[0]
    json = channel(1, "/joint_states", "sensor_msgs/msg/JointState", text, "json")
    (tmp_path / "bag.mcap").write_bytes(mcap(chunk(json + message(1, START, b"{}"))))
    with pytest.raises(DataRefused, match="no topic 'goal'.*'json', only 'cdr'"):
        Rosbag2Reader().read(tmp_path / "bag.mcap", ".", ARM)
