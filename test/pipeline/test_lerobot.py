"""LeRobot 2.0 to 3.0: columns by the dataset's own names, whatever their order; damage is refused by name."""

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from qgf_make import contract, twist_dict, velocity_dict

from qgf_ros.errors import DataRefused

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from qgf_lerobot import FPS, INFO, listed, table_contract, write, write_v3  # noqa: E402

from training.doctor.check_timing import rates  # noqa: E402
from training.doctor.dataset import survey_dataset  # noqa: E402
from training.draft.draft import drafted_from  # noqa: E402
from training.pipeline.readers.lerobot import LeRobotReader  # noqa: E402
from training.pipeline.readers.load import load_episodes  # noqa: E402

G1 = Path(__file__).resolve().parents[3] / "shared" / "data" / "g1_lerobot_v21"


@pytest.mark.parametrize("kept", [[80, 81], [0, 7], [999, 1000], [3, 1]])
@pytest.mark.parametrize("total", [2, 90])
def test_fault_144_episodes_are_those_that_are_listed(tmp_path, capsys, kept, total):
    write(tmp_path / "whole")
    write(tmp_path / "set", info={"total_episodes": total})
    plain, _ = load_episodes(tmp_path / "whole", table_contract("reward"))
    data = tmp_path / "set" / "data"
    for old, new in enumerate(sorted(kept)):
        to = data / f"chunk-{new // 1000:03d}" / f"episode_{new:06d}.parquet"
        to.parent.mkdir(exist_ok=True)
        (data / "chunk-000" / f"episode_{old:06d}.parquet").rename(to.with_suffix(".new"))
    for file in data.glob("*/*.new"):
        file.rename(file.with_suffix(".parquet"))
    listed(tmp_path / "set", sorted(kept))
    episodes, _ = load_episodes(tmp_path / "set", table_contract("reward"))
    assert [e.name for e in episodes] == [f"episode_{e:06d}" for e in sorted(kept)]
    assert all(np.array_equal(a.obs, b.obs) for a, b in zip(plain, episodes, strict=True))
    said = " ".join(capsys.readouterr().err.split())
    assert ("says 90 episodes" in said) == (total == 90)


@pytest.mark.parametrize("text", [
    "{", "[]", '{"episode": 1}', '{"episode_index": -1}', '{"episode_index": "1"}', '{"episode_index": true}',
    '{"episode_index": 0}\n{"episode_index": 0}', '{"episode_index": 99999999999999}', "[" * 100_000, "\x80",
])  # fmt: skip
def test_fault_144_damaged_list_is_refused_and_named(tmp_path, text):
    write(tmp_path / "set")
    (tmp_path / "set" / "meta" / "episodes.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataRefused, match="episodes.jsonl"):
        load_episodes(tmp_path / "set", table_contract("reward"))


def test_fault_144_a_listed_episode_without_its_file_is_named(tmp_path):
    write(tmp_path / "set")
    listed(tmp_path / "set", [0, 1, 2])
    with pytest.raises(DataRefused, match="episode_000002"):
        load_episodes(tmp_path / "set", table_contract("reward"))


def test_terminated_and_truncated_columns_tell_a_cut_from_an_end(tmp_path):
    """`next.done` says neither; with it alone nothing changes."""
    own = table_contract("reward").to_dict()
    del own["outcome"]["success"]

    features = INFO["features"] | {
        n: {"dtype": "bool", "shape": [1], "names": None} for n in ("next.done", "next.truncated")
    }
    write(tmp_path / "set", info={"features": features})
    for k, length in enumerate((30, 20)):
        (file,) = (tmp_path / "set").rglob(f"episode_{k:06d}.parquet")
        table = pq.read_table(file)
        last = np.arange(length) == length - 1
        table = table.append_column("next.done", pa.array(last))
        pq.write_table(table.append_column("next.truncated", pa.array(last & (k == 1))), file)
    episodes, _ = load_episodes(tmp_path / "set", contract(own))
    assert [(len(e), e.terminal) for e in episodes] == [(30, True), (20, False)]


def test_columns_are_picked_by_the_names_of_the_dataset(tmp_path):
    data = write(tmp_path / "set")
    episodes, report = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [30, 20] and report.ticks == 50
    for e, d in zip(episodes, data):
        a, b = d["observation.state"][:, 2], d["observation.state"][:, 1]
        assert np.array_equal(e.obs[:-1], np.stack([a, b, d["goal"]], 1).astype(float))
        assert np.array_equal(e.action, d["action"][:, ::-1].astype(float))
        assert e.terminal and e.success


def test_other_order_in_the_contract_gives_the_same_numbers_elsewhere(tmp_path):
    write(tmp_path / "set")
    straight, _ = load_episodes(tmp_path / "set", table_contract())
    swapped, _ = load_episodes(tmp_path / "set", table_contract(names=("b", "a")))
    assert np.array_equal(straight[0].obs[:, [1, 0, 2]], swapped[0].obs)


def test_reward_and_success_belong_to_their_row(tmp_path):
    write(tmp_path / "set")
    (won, cut), _ = load_episodes(tmp_path / "set", table_contract("reward"))
    assert won.terminal and won.success is True and not cut.terminal and cut.success is None
    assert np.array_equal(won.reward, np.arange(30)) and np.array_equal(cut.reward, np.arange(20))


def test_success_in_the_middle_ends_the_episode_there(tmp_path):
    def change(d):
        d["next.success"][9] = True

    write(tmp_path / "set", (30,), change=change)
    (episode,), _ = load_episodes(tmp_path / "set", table_contract("reward"))
    assert len(episode) == 10 and episode.terminal and np.array_equal(episode.reward, np.arange(10))


@pytest.mark.parametrize("column", ["observation.state", "goal", "action", "next.reward"])
def test_missing_column_is_named(tmp_path, column):
    write(tmp_path / "set", change=lambda d: d.pop(column))
    with pytest.raises(DataRefused, match=f"no column '{column}'"):
        load_episodes(tmp_path / "set", table_contract("reward"))


def test_missing_joint_is_named_with_those_that_are_there(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(DataRefused, match="observation.state.*has no z; it has c, b, a"):
        load_episodes(tmp_path / "set", table_contract(names=("a", "z")))


def test_column_of_another_width_refused(tmp_path):
    features = copy.deepcopy(INFO["features"])
    features["observation.state"]["names"] = None
    write(tmp_path / "set", info={"features": features})
    with pytest.raises(DataRefused, match="3 numbers, the contract names 2"):
        load_episodes(tmp_path / "set", table_contract())


def test_contract_without_a_column_refused(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(DataRefused, match="no column for 'joints'"):
        load_episodes(tmp_path / "set", contract())


@pytest.mark.parametrize("version", ["v1.6", "v4.0", "", None, 2.1])
def test_other_version_refused(tmp_path, version):
    write(tmp_path / "set", info={"codebase_version": version})
    with pytest.raises(DataRefused, match=r"v2\.0, v2\.1, v3\.0"):
        load_episodes(tmp_path / "set", table_contract())


def test_version_2_0_has_the_same_tables(tmp_path):
    write(tmp_path / "set", info={"codebase_version": "v2.0"})
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [30, 20]


@pytest.mark.parametrize(
    "data_path",
    [
        "../secret_{episode_index}.parquet",
        "/etc/{episode_index}.parquet",
        "data/../../x{episode_index}",
    ],
)
def test_fault_112_path_that_leaves_the_dataset_refused(tmp_path, data_path):
    write(tmp_path / "set", info={"data_path": data_path})
    with pytest.raises(DataRefused, match="outside"):
        load_episodes(tmp_path / "set", table_contract())


def test_fault_112_link_that_leaves_the_dataset_refused(tmp_path):
    write(tmp_path / "set")
    write(tmp_path / "other", lengths=(25,))
    inside = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    inside.unlink()
    inside.symlink_to(tmp_path / "other/data/chunk-000/episode_000000.parquet")
    with pytest.raises(DataRefused):
        load_episodes(tmp_path / "set", table_contract())


@pytest.mark.parametrize("text", ["", "{", '{"fps": 20}', "\x00", "[" * 100_000])
def test_damaged_info_refused(tmp_path, text):
    damaged_info(tmp_path, text)


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_info_that_is_no_mapping_refused(tmp_path, text):
    damaged_info(tmp_path, text)


def damaged_info(tmp_path, text):
    write(tmp_path / "set")
    (tmp_path / "set/meta/info.json").write_text(text)
    with pytest.raises(DataRefused, match="info.json"):
        load_episodes(tmp_path / "set", table_contract())


@pytest.mark.parametrize("info", [
    {"fps": 0}, {"fps": -20}, {"fps": "20"}, {"fps": None}, {"chunks_size": 0}, {"total_episodes": "2"},
    {"data_path": "data/{nothing}.parquet"}, {"data_path": "data/{"}, {"data_path": 3}, {"data_path": "{}"},
    {"data_path": "{episode_index:0999999999d}"}, {"data_path": "{episode_index.__class__}"}, {"data_path": "a\0"},
    {"total_episodes": 10**12}, {"fps": 1e300}, {"fps": True}, {"features": []},
], ids=lambda i: "-".join(map(str, *i.items())))  # fmt: skip
def test_info_that_makes_no_sense_refused(tmp_path, info):
    write(tmp_path / "set", info=info)
    with pytest.raises(DataRefused):
        load_episodes(tmp_path / "set", table_contract())


@pytest.mark.parametrize("damage", ["missing", "empty", "junk", "half"])
def test_damaged_table_refused_and_named(tmp_path, damage):
    write(tmp_path / "set")
    file = tmp_path / "set/data/chunk-000/episode_000001.parquet"
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(
            {
                "empty": b"",
                "junk": b"PAR1" + os.urandom(200) + b"PAR1",
                "half": data[: len(data) // 2],
            }[damage]
        )
    with pytest.raises(DataRefused, match="episode_000001"):
        load_episodes(tmp_path / "set", table_contract())


def test_names_grouped_by_kind_are_read(tmp_path):
    """The common form of public datasets: names: {"motors": [...]}."""
    features = copy.deepcopy(INFO["features"])
    features["observation.state"]["names"] = {"motors": ["c", "b", "a"]}
    features["action"]["names"] = {"motors": ["b", "a"]}
    data = write(tmp_path / "set", info={"features": features})
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert np.array_equal(episodes[0].obs[:-1, 0], data[0]["observation.state"][:, 2].astype(float))


def test_rows_of_different_length_refused(tmp_path):
    """Two rows of 2 and 4 numbers are not two rows of 3: nothing may slide from one into the other."""

    def change(d):
        rows = d["observation.state"].tolist()
        rows[3], rows[4] = rows[3][:2], rows[4] + [9.0]
        d["observation.state"] = pa.array(rows, pa.list_(pa.float32()))

    write(tmp_path / "set", change=change)
    with pytest.raises(DataRefused, match="observation.state"):
        load_episodes(tmp_path / "set", table_contract())


def test_fault_096_nulls_are_counted(tmp_path):
    """Of a row, and in a row; the rows around keep their place."""

    def change(d):
        rows = d["observation.state"].tolist()
        rows[3], rows[7][1] = None, None
        d["observation.state"] = pa.array(rows, pa.list_(pa.float32(), 3))

    data = write(tmp_path / "set", change=change)
    episodes, report = load_episodes(tmp_path / "set", table_contract())
    assert report.dropped["message not finite: joints"] == 4
    assert all(np.isfinite(e.obs).all() for e in episodes)
    assert episodes[0].obs[29, 0] == data[0]["observation.state"].to_pylist()[29][2]


def test_fault_096_nan_rows_are_counted(tmp_path):
    def change(d):
        d["observation.state"][5, 2] = np.nan

    write(tmp_path / "set", change=change)
    episodes, report = load_episodes(tmp_path / "set", table_contract())
    assert report.dropped["message not finite: joints"] == 2
    assert all(np.isfinite(e.obs).all() for e in episodes)


def test_fault_107_table_without_a_row_is_dropped(tmp_path):
    write(tmp_path / "set", lengths=(30, 0))
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [30]


def test_fault_107_table_of_one_row_is_one_step(tmp_path):
    write(tmp_path / "set", lengths=(1,))
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [1]


def test_fault_108_copied_episode_counts_once(tmp_path):
    write(tmp_path / "set", lengths=(30, 30))
    files = sorted((tmp_path / "set/data/chunk-000").iterdir())
    files[1].write_bytes(files[0].read_bytes())
    episodes, report = load_episodes(tmp_path / "set", table_contract())
    assert len(episodes) == 1 and report.dropped["duplicate episode"] == 1


@pytest.mark.skipif(not G1.is_dir(), reason=f"the recordings are not here: {G1}")
def test_80_real_recordings_of_a_humanoid():
    """Read raw beside our reader: 80 recordings, 29417 rows, every joint by its name."""
    info = json.loads((G1 / "meta" / "info.json").read_text())
    names = info["features"]["observation.state"]["names"][0]
    mine = sorted(names)  # an order of our own
    value = velocity_dict(period=1 / 30)
    value["observations"] = [{"name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState",
                              "fields": ["position"], "names": mine, "column": "observation.state"}]  # fmt: skip
    value["actions"] = [{"name": "arms", "topic": "commands", "type": "std_msgs/Float64MultiArray", "names": mine, "column": "action",
                         "limits": {n: {"min": -10.0, "max": 10.0, "rate": 10.0} for n in mine}}]  # fmt: skip
    own = contract(value)
    reader = LeRobotReader()
    recordings = reader.recordings(G1)
    assert len(recordings) == 80 == info["total_episodes"]
    episodes, report = load_episodes(G1, own)
    assert len(episodes) == 80 and report.ticks == 29417 == info["total_frames"]
    order = [names.index(n) for n in mine]
    for name, episode in list(zip(recordings, episodes))[::8]:
        raw = pq.read_table(G1 / name)
        state = np.array(raw["observation.state"].to_pylist())[:, order]
        action = np.array(raw["action"].to_pylist())[:, order]
        assert np.array_equal(episode.obs[:-1], state) and np.array_equal(episode.action, action)
        assert episode.terminal and episode.success and 221 <= len(episode) <= 583


# Version 3.0: many episodes per file.


@pytest.mark.parametrize("groups", [1, 3, 7])
@pytest.mark.parametrize("per_file", [1, 2, 4])
def test_version_3_0_gives_the_episodes_that_2_1_gives(tmp_path, per_file, groups):
    """Whatever shares a file, and wherever its row groups end."""
    write(tmp_path / "old", (30, 20, 25, 10))
    write_v3(tmp_path / "new", per_file=per_file, groups=groups)
    (old, _), (new, report) = (
        load_episodes(tmp_path / n, table_contract("reward")) for n in ("old", "new")
    )
    assert [e.name for e in new] == [e.name for e in old] and report.ticks == 85
    for a, b in zip(old, new):
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.action, b.action)
        assert np.array_equal(a.reward, b.reward) and a.success == b.success


def test_episodes_are_in_the_order_of_their_index_not_of_the_files(tmp_path):
    write_v3(tmp_path / "set", change=lambda rows: rows[::-1])
    names = LeRobotReader().recordings(tmp_path / "set")
    assert names == [f"episode_{i:06d}" for i in range(4)]
    assert [len(e) for e in load_episodes(tmp_path / "set", table_contract())[0]] == [
        30,
        20,
        25,
        10,
    ]


def file_before(rows):
    """lerobot #2401: the first episode of a file is said to be in the file before."""
    return [r | {"data/file_index": max(0, (r["episode_index"] - 1) // 2)} for r in rows]


def begun_again(rows):
    """lerobot #2057: the indices begin again with every file."""
    return [r | {"dataset_from_index": 7, "dataset_to_index": 3} for r in rows]


def without_length(rows):
    return [{k: v for k, v in r.items() if k != "length"} for r in rows]


@pytest.mark.parametrize("change", [file_before, begun_again, without_length])
def test_what_converters_of_lerobot_got_wrong_is_read(tmp_path, change):
    write_v3(tmp_path / "set", change=change)
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [30, 20, 25, 10]


def twice(rows):
    return [*rows, rows[0]]


def without_one(rows):
    return rows[:-1]


def longer(rows):
    return [*rows[:-1], rows[-1] | {"length": rows[-1]["length"] + 1}]


def backwards(rows):
    return [rows[0] | {"length": -1}, *rows[1:]]


def nowhere(rows):
    return [*rows[:-1], rows[-1] | {"data/file_index": 77}]


def test_fault_144_version_3_0_reads_what_is_listed_and_says_that_info_differs(tmp_path, capsys):
    write_v3(tmp_path / "set", change=without_one)
    episodes, _ = load_episodes(tmp_path / "set", table_contract())
    assert [len(e) for e in episodes] == [30, 20, 25]
    assert "says 4 episodes, meta/episodes lists 3" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change, text", [
    (twice, "there twice"), (longer, "has 10 rows of episode 3, meta/episodes says 11"), (backwards, "nonsense"), (nowhere, "file-077"),
])  # fmt: skip
def test_episodes_that_are_not_what_meta_says_refused(tmp_path, change, text):
    write_v3(tmp_path / "set", change=change)
    with pytest.raises(DataRefused, match=text):
        load_episodes(tmp_path / "set", table_contract())


@pytest.mark.parametrize("name", ["data/chunk-000/file-001.parquet", "meta/episodes/chunk-000/file-001.parquet"])  # fmt: skip
@pytest.mark.parametrize("damage", ["empty", "junk", "half"])
def test_damaged_file_of_version_3_0_refused_and_named(tmp_path, name, damage):
    write_v3(tmp_path / "set")
    file = tmp_path / "set" / name
    data = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "junk": b"PAR1" + os.urandom(200) + b"PAR1", "half": data[: len(data) // 2]}[damage]
    )  # fmt: skip
    with pytest.raises(DataRefused, match="file-001"):
        load_episodes(tmp_path / "set", table_contract())


def test_fault_112_version_3_0_stays_inside(tmp_path):
    write_v3(tmp_path / "set", info={"data_path": "../other/{chunk_index}-{file_index}.parquet"})
    with pytest.raises(DataRefused, match="outside"):
        load_episodes(tmp_path / "set", table_contract())


def test_fault_112_list_of_episodes_that_links_outside_refused(tmp_path):
    write_v3(tmp_path / "set")
    folder = tmp_path / "set/meta/episodes/chunk-000"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataRefused, match="outside.*cp -rL"):
        load_episodes(tmp_path / "set", table_contract())


def test_fault_112_a_hundred_thousand_files_and_newlines_keep_their_order(tmp_path):
    path = "data/a\nb/{episode_index:06d}.parquet"
    write(tmp_path / "set", info={"total_episodes": 100_000, "data_path": path})
    names = LeRobotReader().recordings(tmp_path / "set")
    assert (
        names == sorted(names) and len(names) == 100_000 and names[7] == "data/a\nb/000007.parquet"
    )
    info = INFO | {"data_path": path, "total_episodes": 1}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    (tmp_path / "set/data/a\nb").mkdir()
    shutil.move(tmp_path / "set/data/chunk-000/episode_000000.parquet", tmp_path / "set" / names[0])
    assert len(load_episodes(tmp_path / "set", table_contract())[0]) == 1


def test_only_what_the_contract_names_is_read(tmp_path):
    """A camera in the same file is neither decoded nor held: a lying size of it does not matter."""
    write(tmp_path / "set", (30,))
    file = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    image = pa.array([{"bytes": os.urandom(50_000), "path": ""}] * 30)
    pq.write_table(pq.read_table(file).append_column("observation.images.top", image), file)
    before = pa.total_allocated_bytes()
    reader = LeRobotReader()
    recording = reader.read(
        tmp_path / "set", reader.recordings(tmp_path / "set")[0], table_contract()
    )
    assert len(recording.streams["joints"]) == 30
    assert pa.total_allocated_bytes() - before < 100_000


def test_a_table_of_more_numbers_than_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """A constant column of 10^9 rows takes a few bytes on disk and 8 GB in memory."""
    monkeypatch.setattr("training.pipeline.readers.lerobot.MAX_NUMBERS", 89)
    write(tmp_path / "set", (30,))
    with pytest.raises(DataRefused, match="numbers in one row group"):
        load_episodes(tmp_path / "set", table_contract())


# Timestamps (lerobot #933, #1875, #2364): believed where they depart from index / fps.


def at_times(folder, seconds, **more):
    """One episode of 30 rows with timestamps."""
    write(folder, (30,), change=lambda d: d.update(timestamp=np.asarray(seconds(np.arange(30) / FPS))), **more)  # fmt: skip


def late_by(size, row=12):
    return lambda t: np.where(np.arange(len(t)) < row, t, t + size).astype(np.float32)


def test_float32_timestamps_are_the_grid(tmp_path):
    write(tmp_path / "plain", (30,))
    at_times(tmp_path / "set", lambda t: t.astype(np.float32) + 1000.0)
    (plain,), _ = load_episodes(tmp_path / "plain", table_contract())
    (timed,), report = load_episodes(tmp_path / "set", table_contract())
    assert np.array_equal(plain.obs, timed.obs) and not any(report.dropped.values())


def test_fault_105_lost_time_between_rows_is_a_gap(tmp_path):
    at_times(tmp_path / "set", late_by(2.0))
    pieces, report = load_episodes(tmp_path / "set", table_contract())
    assert len(pieces) == 2 and report.dropped["tick without fresh data"] > 30
    assert not pieces[0].terminal and pieces[1].terminal
    # A command holds for three periods, and no longer; nothing spans the gap.
    assert len(pieces[0]) <= 12 + 3 and len(pieces[1]) == 18
    assert pieces[0].reward.sum() == 0


def test_fault_105_rows_that_do_not_advance_are_dropped_and_counted(tmp_path):
    """The clock was set back in the middle: rows of then must not slide between those of now."""

    def seconds(t):
        t = t.copy()
        t[10:14] = t[3:7]
        return t

    at_times(tmp_path / "set", seconds)
    episodes, report = load_episodes(tmp_path / "set", table_contract())
    why = "message rejected: timestamp does not come after the row before"
    assert report.dropped[why] == 4 and sum(map(len, episodes)) >= 26


@pytest.mark.parametrize("seconds", [
    lambda t: np.where(np.arange(30) == 5, np.nan, t), lambda t: np.where(np.arange(30) == 5, np.inf, t),
    late_by(1e30), late_by(1e9), lambda t: (t + 1.7e9).astype(np.float32), lambda t: -t,
    lambda t: np.random.default_rng(0).random(len(t)).astype(np.float32),
], ids=["nan", "inf", "1e30", "1e9", "float32 of today", "backwards", "chance"])  # fmt: skip
def test_fault_105_timestamps_that_make_no_sense_refused(tmp_path, seconds):
    at_times(tmp_path / "set", seconds)
    with pytest.raises(DataRefused, match="episode_000000.*timestamps"):
        load_episodes(tmp_path / "set", table_contract())


# fps that disagrees with the timestamps: the measured rate counts, for all that is made of it.


@pytest.mark.parametrize("hertz", [60.0, 29.97, 19.8, 15.0, 10.0, 4.0, 0.5])
def test_rows_stand_where_their_timestamps_are(tmp_path, hertz):
    rows = np.arange(120)
    write(tmp_path / "set", (120,), change=lambda d: d.update(timestamp=(rows / hertz).astype(np.float32)))  # fmt: skip
    given = table_contract()
    reader = LeRobotReader()
    (name,) = reader.recordings(tmp_path / "set")
    stamp = reader.read(tmp_path / "set", name, given).streams["arm"].stamp
    assert np.allclose(stamp * 1e-9, rows / hertz, rtol=1e-5, atol=1e-4)
    assert np.ptp(np.diff(stamp)) <= 1, "evenly: the noise of float32 is none of the robot's"
    found = reader.survey(tmp_path / "set", name)
    assert found.rate == pytest.approx(hertz, rel=1e-5) and found.stated == FPS


def test_jitter_is_no_other_rate_and_a_gap_is_none(tmp_path):
    rng = np.random.default_rng(0)
    at_times(tmp_path / "jitter", lambda t: t + rng.uniform(-0.4, 0.4, len(t)) / FPS)
    at_times(tmp_path / "gap", late_by(2.0))
    reader = LeRobotReader()
    for kind in ("jitter", "gap"):
        (name,) = reader.recordings(tmp_path / kind)
        found = reader.survey(tmp_path / kind, name)
        assert found.rate == FPS and not found.stated


def test_a_gap_at_another_rate_is_a_gap(tmp_path):
    """Every second row was written, and two seconds are missing."""
    at_times(tmp_path / "set", lambda t: late_by(2.0)(2 * t))
    own = table_contract()
    slow = dataclasses.replace(own, time=dataclasses.replace(own.time, period=0.1))
    pieces, report = load_episodes(tmp_path / "set", slow)
    assert len(pieces) == 2 and report.dropped["tick without fresh data"] > 10
    assert not any("message" in why for why, n in report.dropped.items() if n)


@pytest.mark.parametrize("hertz, period", [(15.0, 1 / 15), (24.9, 0.04016), (60.0, 1 / 60)])
def test_a_draft_has_the_measured_rate_and_inspect_says_both(tmp_path, capsys, hertz, period):
    features = INFO["features"] | {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}

    def change(d):
        d["timestamp"] = (np.arange(len(d["goal"])) / hertz).astype(np.float32)

    write(tmp_path / "set", (90, 80), info={"features": features}, change=change)
    drafted = drafted_from(survey_dataset(tmp_path / "set"), None, 8)
    assert f"period: {period!r}" in drafted.text
    assert f"by the timestamps; the dataset says {FPS} fps" in drafted.text
    found = rates(survey_dataset(tmp_path / "set"))
    assert found.verdict == "bad" and f"says {FPS} fps" in found.found
    assert f"at {hertz:g} Hz" in found.found
    load_episodes(tmp_path / "set", table_contract())
    assert f"{FPS} fps, and the timestamps go at {hertz:g} Hz" in " ".join(
        capsys.readouterr().err.split()
    )


# Mixed robots.


def test_fault_109_episode_of_another_robot_refused_and_named(tmp_path):
    write(tmp_path / "set")
    file = tmp_path / "set/data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    other = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(80, np.float32)), 4)
    table = table.set_column(
        table.column_names.index("observation.state"), "observation.state", other
    )
    pq.write_table(table, file)
    with pytest.raises(DataRefused, match="episode_000001.*4 numbers and 3 names"):
        load_episodes(tmp_path / "set", table_contract())


def test_numbers_as_text_refused(tmp_path):
    write(tmp_path / "set", change=lambda d: d.update(goal=pa.array(["1.5"] * len(d["goal"]))))
    with pytest.raises(DataRefused, match="does not hold numbers but string"):
        load_episodes(tmp_path / "set", table_contract())


def test_name_that_is_there_twice_gets_numbers(tmp_path):
    features = copy.deepcopy(INFO["features"])
    features["observation.state"]["names"] = ["a", "b", "a"]
    write(tmp_path / "set", info={"features": features})
    with pytest.raises(DataRefused, match="has no a; it has a_0, b, a_1"):
        load_episodes(tmp_path / "set", table_contract())


def test_reward_that_the_objective_needs_must_be_there(tmp_path):
    """Without it every reward would be zero, and nobody would know."""
    write(tmp_path / "set")
    value = table_contract("reward").to_dict()
    value["outcome"]["reward"]["column"] = ""
    for name in ("next.reward",):  # what the writers call it is found without being named
        assert load_episodes(tmp_path / "set", contract(value))[0][0].reward[3] == 3, name
    shutil.rmtree(tmp_path / "set")
    write(tmp_path / "set", change=lambda d: d.pop("next.reward"))
    with pytest.raises(DataRefused, match="no column for 'reward'"):
        load_episodes(tmp_path / "set", contract(value))


def test_two_fields_of_joints_are_found_by_field_and_name(tmp_path):
    features = copy.deepcopy(INFO["features"])
    names = ["velocity.a", "position.b", "velocity.b", "position.a"]
    features["observation.state"] = {"dtype": "float32", "shape": [4], "names": names}
    wide = np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32)
    write(tmp_path / "set", (30,), info={"features": features}, change=lambda d: d.update({"observation.state": wide}))  # fmt: skip
    value = table_contract().to_dict()
    value["observations"][0]["fields"] = ["position", "velocity"]
    (episode,), _ = load_episodes(tmp_path / "set", contract(value))
    assert np.array_equal(episode.obs[:-1, :4], wide[:, [3, 1, 0, 2]].astype(float))


# Surveys.


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_survey_has_all_numbers_and_names_what_has_none(tmp_path, version):
    features = INFO["features"] | {
        "observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": ["h", "w", "c"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "task": {"dtype": "string", "shape": [1], "names": None},
    }

    def change(d):
        d["timestamp"] = (np.arange(len(d["goal"])) / FPS).astype(np.float32)
        d["task"] = pa.array(["pick"] * len(d["goal"]))

    if version == "v2.1":
        data = write(tmp_path / "set", info={"features": features}, change=change)
    else:
        data = write_v3(tmp_path / "set", info={"features": features})
    reader = LeRobotReader()
    found = reader.survey(tmp_path / "set", reader.recordings(tmp_path / "set")[1])
    assert found.rate == FPS and found.one_episode and found.rejected == {}
    assert set(found.signals) == {
        "observation.state",
        "goal",
        "action",
        "next.success",
        "next.reward",
    }
    assert found.signals["observation.state"].labels == ("c", "b", "a")
    assert found.signals["goal"].labels == ("0",) and found.signals["goal"].type == ""
    state = found.signals["observation.state"].stream
    assert np.array_equal(state.values, data[1]["observation.state"].astype(float))
    assert np.array_equal(np.diff(state.stamp), np.full(19, 50_000_000))
    assert found.others["observation.images.top"] == "video"
    assert ("task" in found.others) == (version == "v2.1") or found.others["task"] == "string"


def test_what_info_leaves_out_or_makes_up_is_said_and_an_end_is_read_all_the_same(tmp_path):
    def change(d):
        d["next.done"] = np.arange(len(d["goal"])) == len(d["goal"]) - 1
        d["extra"] = np.ones(len(d["goal"]), np.float32)

    features = INFO["features"] | {"invented": {"dtype": "bool", "shape": [1], "names": None}}
    write(tmp_path / "set", info={"features": features}, change=change)
    reader = LeRobotReader()
    found = reader.survey(tmp_path / "set", reader.recordings(tmp_path / "set")[0])
    assert found.signals["next.done"].stream.values[:, 0].tolist() == [0.0] * 29 + [1.0]
    assert "meta/info.json does not describe it" in found.unusable["extra"]
    assert "the table has no such column" in found.unusable["invented"]


def test_survey_says_how_far_the_clock_departs(tmp_path):
    features = INFO["features"] | {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    at_times(tmp_path / "set", late_by(2.0), info={"features": features})
    reader = LeRobotReader()
    found = reader.survey(tmp_path / "set", reader.recordings(tmp_path / "set")[0])
    assert found.rejected == {"timestamp departs from index / fps by more than half a period": 18}


def test_files_are_those_that_a_recording_is_read_from(tmp_path):
    write(tmp_path / "old")
    write_v3(tmp_path / "new")
    reader = LeRobotReader()
    old, new = (
        [str(f.relative_to(tmp_path / n)) for f in reader.files(tmp_path / n, reader.recordings(tmp_path / n)[-1])]
        for n in ("old", "new")
    )  # fmt: skip
    assert old == ["meta/info.json", "data/chunk-000/episode_000001.parquet"]
    assert new == ["meta/info.json", "meta/episodes/chunk-000/file-000.parquet",
                   "meta/episodes/chunk-000/file-001.parquet", "data/chunk-000/file-001.parquet"]  # fmt: skip


# Poses.

POSE = ["pose.position.x", *(f"pose.orientation.{c}" for c in "xyzw"), "pose.position.z"]


def pose_set(folder, names, change=None):
    """A table with a pose, twists and a gripper; returns its columns and its contract."""
    value = twist_dict()
    value["time"]["period"] = 1 / FPS
    for source, column in zip(
        value["observations"] + value["actions"], ("joints", "pose", "finger", "twist", "grip")
    ):
        source["column"] = column
    widths = {"joints": 2, "pose": len(names or POSE), "finger": 1, "twist": 3, "grip": 1}
    features = {c: {"dtype": "float64", "shape": [w], "names": None} for c, w in widths.items()}
    features["pose"]["names"] = names
    (data,) = write(
        folder, (30,), info={"features": features}, change=lambda d: replace(d, widths, change)
    )
    return data, value


def replace(data, widths, change):
    rng = np.random.default_rng(7)
    data.clear()
    data |= {c: rng.normal(size=(30, w)) for c, w in widths.items()}
    turn = data["pose"][:, 1:5]  # where the quaternion stands in either order
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    if change:
        change(data)


def rot6d_of(quaternions):
    from scipy.spatial.transform import Rotation

    m = Rotation.from_quat(quaternions).as_matrix()
    return np.concatenate([m[:, :, 0], m[:, :, 1]], 1)


@pytest.mark.parametrize("names", [None, POSE, [*reversed(POSE), "pose.position.y"]], ids=["none", "same", "other"])  # fmt: skip
def test_pose_of_a_table_by_name_or_by_the_contracts_order(tmp_path, names):
    data, value = pose_set(tmp_path / "set", names)
    (episode,), report = load_episodes(tmp_path / "set", contract(value))
    pose = data["pose"][:, [(names or POSE).index(n) for n in POSE]]
    assert len(episode) == 30 and report.dropped["message not finite: tool"] == 0
    assert np.array_equal(episode.obs[:-1, 2], pose[:, 0])
    assert np.allclose(episode.obs[:-1, 3:9], rot6d_of(pose[:, 1:5]), atol=1e-12)
    assert np.array_equal(episode.obs[:-1, 9], pose[:, 5])
    assert np.array_equal(episode.action, np.concatenate([data["twist"], data["grip"]], 1))


def test_pose_under_other_names_is_refused_and_says_which_are_needed(tmp_path):
    """x, y, z, w or w, x, y, z: whoever guesses is wrong for half of the data sets."""
    _, value = pose_set(tmp_path / "set", ["x", "qw", "qx", "qy", "qz", "z"])
    with pytest.raises(DataRefused, match=r"has no pose.position.x.*it has x, qw.*meta/info.json"):
        load_episodes(tmp_path / "set", contract(value))


def test_pose_without_its_orientation_refused(tmp_path):
    _, value = pose_set(tmp_path / "set", None, lambda d: d.update(pose=d["pose"][:, :3]))
    with pytest.raises(
        DataRefused, match=r"3 numbers, the contract names 6: pose.position.x, pose.o"
    ):
        load_episodes(tmp_path / "set", contract(value))


def test_fault_096_zero_quaternion_of_a_table_is_dropped_and_counted(tmp_path):
    def change(d):
        d["pose"][5, 1:5] = 0

    _, value = pose_set(tmp_path / "set", None, change)
    episodes, report = load_episodes(tmp_path / "set", contract(value))
    assert report.dropped["message not finite: tool"] == 1
    assert all(np.isfinite(e.obs).all() for e in episodes)


def test_a_table_of_poses_becomes_a_bag_and_the_same_episode(tmp_path):
    import yaml

    convert = pytest.importorskip("training.pipeline.writers.convert").convert
    _, value = pose_set(tmp_path / "set", POSE)
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(value))
    convert(tmp_path / "set", tmp_path / "contract.yaml", tmp_path / "bag", 0)
    (a,), _ = load_episodes(tmp_path / "set", contract(value))
    (b,), _ = load_episodes(tmp_path / "bag", contract(value))
    assert np.array_equal(a.obs[:-1], b.obs[: len(a)]) and np.array_equal(a.action, b.action)
