"""What a LeRobot table says of itself against its place: its episode, its length, where its rows stand."""

import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from qgf_lerobot import listed, table_contract, write, write_v3  # noqa: E402

from qgf_ros.errors import DataRefused  # noqa: E402
from training.pipeline.readers.load import load_episodes  # noqa: E402

OWN = table_contract("reward")
EPISODE = "data/chunk-000/episode_{:06d}.parquet"


def say(folder, episode, **columns):
    """Appends columns to the table of an episode, or to that file of version 3.0."""
    file = folder / (EPISODE.format(episode) if isinstance(episode, int) else episode)
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, file)


def refused(folder, *texts):
    with pytest.raises(DataRefused) as caught:
        load_episodes(folder, OWN)
    for text in texts:
        assert text in str(caught.value)


def test_fault_144_a_table_that_says_its_own_episode_is_read(tmp_path):
    write(tmp_path / "set")
    listed(tmp_path / "set", [0, 1], [30, 20])
    for episode, rows in ((0, 30), (1, 20)):
        say(tmp_path / "set", episode, episode_index=[episode] * rows, frame_index=np.arange(rows))
    episodes, report = load_episodes(tmp_path / "set", OWN)
    assert [len(e) for e in episodes] == [30, 20] and not report.lost


@pytest.mark.parametrize("said, text", [
    ([0] * 15 + [7] * 15, "0, 7"),  # two episodes are not one
    ([1] * 30, "1"),  # renamed
    ([0] * 29 + [None], "0, nan"),
    ([0.5] * 30, "0.5"),
])  # fmt: skip
def test_fault_144_a_table_of_another_episode_is_refused_and_named(tmp_path, said, text):
    write(tmp_path / "set")
    say(tmp_path / "set", 0, episode_index=said)
    refused(tmp_path / "set", EPISODE.format(0), f"episode_index {text}", "only 0 is allowed")


def test_fault_144_renamed_tables_are_refused(tmp_path):
    write(tmp_path / "set")
    for episode, rows in ((0, 30), (1, 20)):
        say(tmp_path / "set", episode, episode_index=[episode] * rows)
    names = [tmp_path / "set" / EPISODE.format(k) for k in (0, 1)]
    names[0].rename(tmp_path / "aside")
    names[1].rename(names[0])
    (tmp_path / "aside").rename(names[1])
    refused(tmp_path / "set", EPISODE.format(0), "episode_index 1", "only 0 is allowed")


@pytest.mark.parametrize("length", [1, 29, 31, 0])
def test_fault_144_a_table_of_another_length_than_listed_is_refused(tmp_path, length):
    write(tmp_path / "set")
    listed(tmp_path / "set", [0, 1], [length, 20])
    refused(tmp_path / "set", EPISODE.format(0), "30 rows", f"episodes.jsonl says {length}")


@pytest.mark.parametrize("length", [-1, 2.5, "30", True, None, [30]])
def test_fault_144_a_listed_length_that_is_none_is_damage(tmp_path, length):
    write(tmp_path / "set")
    listed(tmp_path / "set", [0, 1], [length, 20])
    refused(tmp_path / "set", "episodes.jsonl", "length")


def test_fault_144_two_episodes_in_one_place_are_refused(tmp_path):
    write(tmp_path / "set", info={"data_path": EPISODE.format(0)})
    refused(tmp_path / "set", "data_path", "{episode_index}")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("first", [0, 85])
def test_fault_105_without_timestamps_the_frame_index_is_the_time(tmp_path, version, first):
    """Rows of a third of a second that nobody recorded are no step from one to the next."""
    frames = first + np.concatenate([np.arange(15), np.arange(100, 115)])
    if version == "v2.1":
        write(tmp_path / "set", (30,))
        say(tmp_path / "set", 0, frame_index=frames)
    else:
        write_v3(tmp_path / "set", (30, 30), per_file=1)
        say(tmp_path / "set", "data/chunk-000/file-000.parquet", frame_index=frames)
    episodes, report = load_episodes(tmp_path / "set", OWN)
    assert [len(e) for e in episodes][:2] == [17, 15], (
        "the state is held for max_age" and report.noticed["cut at a gap"] == 1
    )


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("frames", [
    range(29, -1, -1), [0] * 30, [None] * 30, [*range(29), 10**15],
], ids=["backwards", "stands", "nulls", "far"])  # fmt: skip
def test_fault_105_a_frame_index_that_makes_no_sense_is_refused(tmp_path, version, frames):
    file = 0 if version == "v2.1" else "data/chunk-000/file-000.parquet"
    (write if version == "v2.1" else write_v3)(
        tmp_path / "set", (30, 30), **({} if version == "v2.1" else {"per_file": 1})
    )
    say(tmp_path / "set", file, frame_index=pa.array(frames, pa.int64()))
    refused(tmp_path / "set", ".parquet", "frame_index")


def test_fault_105_a_frame_that_is_there_twice_is_dropped_and_counted(tmp_path):
    write(tmp_path / "set", (30,))
    say(tmp_path / "set", 0, frame_index=[*range(20), 19, *range(21, 30)])
    _, report = load_episodes(tmp_path / "set", OWN)
    assert report.dropped["message rejected: frame_index does not come after the row before"] == 1


def test_fault_105_every_other_frame_is_half_the_rate(tmp_path, capsys):
    write(tmp_path / "set", (30,))
    say(tmp_path / "set", 0, frame_index=np.arange(0, 60, 2))
    (episode,), _ = load_episodes(tmp_path / "set", OWN)
    assert len(episode) == 59 or len(episode) == 60, "each of them held for two periods"
    assert "says 20 fps, and the frame_index values go at 10 Hz" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("key", ["fps", "total_episodes", "features"])
def test_a_key_of_info_that_is_there_twice_is_refused(tmp_path, key):
    write(tmp_path / "set")
    file = tmp_path / "set/meta/info.json"
    value = json.loads(file.read_text())[key]
    file.write_text(file.read_text()[:-1] + f', "{key}": {json.dumps(value)}}}')
    refused(tmp_path / "set", "info.json", key, "twice")


@pytest.mark.parametrize("size", [0, -1, "x", None, True, 2.5])
def test_a_chunks_size_that_makes_no_sense_is_named(tmp_path, size):
    write(tmp_path / "set", info={"chunks_size": size})
    refused(tmp_path / "set", "info.json", f"chunks_size is {size!r}")
