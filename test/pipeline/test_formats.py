"""One recording, five formats: MCAP, sqlite3, LeRobot 2.1 and 3.0, npz; the same tensors come back.

Pinned here too: conversions go on where they were interrupted, and never mix with something else.
"""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st
from qgf_bags import numbers
from qgf_make import SCALE, SECOND, START, contract, twist_dict

from qgf_ros.errors import DataRefused, UsageError

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from qgf_ros.bags.sources import contract_sources
from training.pipeline.readers.load import load_episodes
from training.pipeline.writers import convert as converting
from training.pipeline.writers.bag import BagWriter
from training.pipeline.writers.convert import convert
from training.pipeline.writers.lerobot import LeRobotWriter

BAGS = ("mcap", "sqlite3")
TABLES = ("lerobot-v2.1", "lerobot-v3.0", "npz")


# The property: whatever robot, rates, jitter, delays, drops and joint orders.


@st.composite
def robots(draw):
    """A contract as a dict."""
    count = draw(st.integers(1, 4))
    joints = draw(st.permutations([f"joint_{i}" for i in range(count)]))
    period = draw(st.one_of(st.integers(5, 100), st.floats(5, 100))) / 1000
    columns = draw(st.booleans())  # named by the contract, or by the writer

    def source(name, kind, **more):
        return {"name": name, "topic": f"topics/{name}", "type": kind, **more}

    def observed(name, kind, **more):
        delay = draw(st.floats(0, 1)) * period
        age = delay + draw(st.floats(1.5, 5)) * period
        turned = "encoding" in more
        how = draw(st.sampled_from(["hold", "nearest", "slerp" if turned else "linear"]))
        return source(name, kind, **more, delay=delay, max_age=age, resample=how)

    fields = draw(st.sampled_from([["position"], ["position", "velocity"], ["effort", "position"]]))
    observations = [observed("joints", "sensor_msgs/JointState", fields=fields, names=list(joints))]
    if draw(st.booleans()):
        fields = draw(st.permutations(["pose.position.x", "pose.orientation", "pose.position.z"]))
        observations.append(
            observed("tool", "geometry_msgs/PoseStamped", fields=list(fields), encoding="rot6d")
        )
    if draw(st.booleans()):
        observations.append(
            observed("touch", "std_msgs/Float64MultiArray", names=["left", "right"])
        )
    observations = draw(st.permutations(observations))

    driven = list(draw(st.permutations(joints)))[: draw(st.integers(1, count))]
    limits = {"min": -1e9, "max": 1e9, "rate": 1.0}
    kind = draw(st.sampled_from(["sensor_msgs/JointState", "std_msgs/Float64MultiArray"]))
    said = draw(st.sampled_from(["absolute", "delta_observed", "delta_last"]))
    for part in observations if said != "absolute" else ():  # the robot has the last message alone
        part.pop("resample", None)
    actions = [
        source("arm", kind, representation=said, names=driven, limits={n: limits for n in driven})
        | ({"fields": ["position"]} if "Joint" in kind else {})
    ]
    if draw(st.booleans()):
        fields = ["twist.linear.x", "twist.angular.z"]
        actions.append(
            source("base", "geometry_msgs/TwistStamped", fields=fields, frame="base_link", space="twist",
                   representation="velocity", limits={n: limits for n in fields})
        )  # fmt: skip
    reward = {"topic": "reward", "type": "std_msgs/Float64", "fields": ["data"]}
    success = {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]}
    failure = success | {"topic": "failure"}
    outcome = draw(
        st.sampled_from(
            [
                {"objective": "time_to_success", "assume_success": True},
                {"objective": "time_to_success", "success": success},
                {"objective": "reward", "reward": reward, "success": success},
                {"objective": "reward", "reward": reward},
                {"objective": "reward", "reward": reward, "failure": failure},
                {"objective": "time_to_success", "success": success, "failure": failure},
            ]
        )
    )
    if draw(st.booleans()):
        outcome = outcome | {"episode_start": {"topic": "start", "type": "std_msgs/Header"}}
    value = {
        "contract": 1, "robot": "random", "time": {"period": period, "horizon": draw(st.integers(1, 8))},
        "observations": list(observations), "actions": actions, "outcome": copy.deepcopy(outcome),
    }  # fmt: skip
    if columns:
        for part in (*value["observations"], *actions):
            part["column"] = f"data.{part['name']}"
        for name in ("reward", "success", "failure"):
            if name in outcome:
                value["outcome"][name]["column"] = name
    return value


@st.composite
def troubles(draw):
    """What is wrong with a recording. Times are in periods."""
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "ticks": draw(st.integers(4, 60)),
        "spans": draw(st.integers(1, 2)),
        "rates": [draw(st.floats(0.4, 3)) for _ in range(3)],
        "jitter": draw(st.floats(0, 0.45)),
        "latency": draw(st.floats(0, 0.9)),
        "loss": draw(st.sampled_from([0.0, 0.02, 0.3])),
        "hole": draw(st.booleans()),
        "ends": draw(st.sampled_from(["success", "failure", "nothing"])),
    }


def shuffled(value, rng):
    """The same robot, its sources and the joints of its JointStates in another order."""
    value = copy.deepcopy(value)
    rng.shuffle(value["observations"])
    for source in (*value["observations"], *value["actions"]):
        if source["type"] == "sensor_msgs/JointState":
            rng.shuffle(source["names"])
    return value


def record(path, value, trouble):
    """A bag of noise by the contract `value`, whose sources talk when they like."""
    own = contract(value)
    rng = np.random.default_rng(trouble["seed"])
    sources = contract_sources(own)
    period = own.time.period * SECOND
    span = trouble["ticks"] * period
    rows = []

    def say(name, at, values, late=0.0):
        receipt = round(at + late)
        stamp = round(at) if sources[name].stamp == "header" else receipt
        rows.append((receipt, name, stamp, values))

    for number in range(trouble["spans"]):
        begin = START + 2 * number * span
        if "episode_start" in sources:
            say("episode_start", begin - period, np.empty(0))
        for name, source in sources.items():
            if name in own.outcome.sources:
                continue
            action = name in (a.name for a in own.actions)
            rate = 1.0 if action else trouble["rates"][len(name) % 3]
            for at in np.arange(begin + rng.uniform(0, period), begin + span, period / rate):
                middle = abs(at - begin - span / 2) < 4 * period
                if rng.random() < trouble["loss"] or (trouble["hole"] and middle and not action):
                    continue
                at += rng.uniform(-1, 1) * trouble["jitter"] * period
                late = 0.0 if action else rng.uniform(0, trouble["latency"]) * period
                say(name, at, numbers(source, rng), late)
        if "reward" in sources:
            for at in np.arange(begin + period, begin + span, period):
                say("reward", at, rng.normal(size=1))
        end = begin + span * rng.uniform(0.5, 1)
        if "success" in sources and trouble["ends"] != "nothing":
            say("success", end, np.array([float(trouble["ends"] == "success")]))
        if "failure" in sources and trouble["ends"] == "failure":
            say("failure", end - rng.uniform(0, 2) * period, np.ones(1))
    with BagWriter(path, sources) as bag:
        for receipt, name, stamp, values in sorted(rows, key=lambda row: row[:2]):
            bag.write(name, stamp, receipt, values)


def assert_same(one, other, exact):
    """Episode by episode. float32 rounds to 2**-24; an orientation is made of four such numbers."""
    rtol, atol = (0, 0) if exact else (2**-23, 2**-20)
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert len(a) == len(b) and a.terminal == b.terminal and a.success == b.success
        # Of changes a table holds each rounded, and the last command is their sum.
        largest = max(np.abs(a.action).max(initial=0), np.abs(a.obs).max(initial=0))
        np.testing.assert_allclose(b.action, a.action, rtol, len(a) * 2**-22 * largest * (not exact))
        np.testing.assert_allclose(b.reward, a.reward, rtol, 0)
        np.testing.assert_allclose(b.obs, a.obs, rtol, atol)


@settings(
    max_examples=8 if SCALE == 1 else 15 * SCALE,  # of a second each
    deadline=None,
    derandomize=SCALE == 1,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes: it is files
    suppress_health_check=list(HealthCheck),
)
@given(robots(), troubles())
def test_an_episode_reads_back_the_same_from_every_format(value, trouble):
    rng = np.random.default_rng(trouble["seed"])
    own = contract(value)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        record(folder / "bag", shuffled(value, rng), trouble)
        try:
            episodes, _ = load_episodes(folder / "bag", own)
        except DataRefused:
            assume(False)
        note(f"{len(episodes)} episodes, {sum(map(len, episodes))} ticks")
        (folder / "own.yaml").write_text(json.dumps(value))
        (folder / "other.yaml").write_text(json.dumps(shuffled(value, rng)))
        for to in BAGS:
            convert(folder / "bag", folder / "other.yaml", folder / to, 0, to)
            assert_same(episodes, load_episodes(folder / to, own)[0], exact=True)
        for to in TABLES:
            convert(folder / "bag", folder / "other.yaml", folder / to, None, to)
            assert_same(episodes, load_episodes(folder / to, own)[0], exact=False)
        if own.outcome.assume_success and not all(e.terminal for e in episodes):
            with pytest.raises(UsageError, match="was cut"):
                convert(folder / "npz", folder / "own.yaml", folder / "back", None)
        else:
            convert(folder / "npz", folder / "own.yaml", folder / "back", None)
            assert_same(episodes, load_episodes(folder / "back", own)[0], exact=False)


# Conversions one by one.

TWIST = twist_dict()


def dataset(folder, count=3, value=TWIST):
    """A folder of bags, of 12, 13, ... ticks each, and the contract beside it."""
    own = contract(value)
    period = round(own.time.period * SECOND)
    rng = np.random.default_rng(5)
    for number in range(count):
        with BagWriter(folder / "bags" / f"bag_{number}", contract_sources(own)) as bag:
            for k in range(12 + number):
                for name, source in contract_sources(own).items():
                    if name in own.outcome.sources:
                        continue
                    at = START + k * period
                    bag.write(name, at, at, numbers(source, rng))
    (folder / "own.yaml").write_text(json.dumps(value))
    return folder / "bags", folder / "own.yaml", own


def content(folder):
    """Every file below a folder, but for what says when it was made."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


@pytest.mark.parametrize("to", TABLES)
def test_quaternions_are_written_as_the_message_has_them(tmp_path, to):
    """A table holds what the robot said, not what a policy makes of it."""
    data, own_file, own = dataset(tmp_path, 1)
    convert(data, own_file, tmp_path / "out", None, to)
    from training.pipeline.readers.load import find_reader

    reader = find_reader(tmp_path / "out")
    found = reader.survey(tmp_path / "out", reader.recordings(tmp_path / "out")[0])
    tool = found.signals["observation.tool"]
    assert tool.labels == own.observations[1].labels and "pose.orientation.w" in tool.labels
    assert found.signals["action.grip"].labels == ("finger.left",)
    assert found.rate == pytest.approx(20) and len(tool.stream) == 13
    assert set(found.signals) >= {"next.reward", "next.success", "observation.joints", "action.arm"}


# Two processes take seconds to begin, and are the same whatever they write.
@pytest.mark.parametrize("to", [*BAGS, *TABLES] if SCALE > 1 else [BAGS[0], TABLES[-1]])
def test_all_recordings_in_processes_are_those_of_one(tmp_path, to):
    data, own_file, own = dataset(tmp_path)
    one = convert(data, own_file, tmp_path / "one", None, to, workers=1)
    two = convert(data, own_file, tmp_path / "two", None, to, workers=2)
    assert one == two
    a, b = (load_episodes(tmp_path / n, own)[0] for n in ("one", "two"))
    assert [len(e) for e in a] == [12, 13, 14]
    assert_same(a, b, exact=True)


@pytest.mark.parametrize("to", [*BAGS, *TABLES])
def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, to):
    """What was whole is not made again, what was half is; the end is as if nothing had been."""
    data, own_file, own = dataset(tmp_path)
    whole = convert(data, own_file, tmp_path / "whole", None, to)
    work, made = converting._one, []

    def interrupted(*given):
        if len(made) == 2:
            (given[-2].parent / f".{given[-2].name}.part").mkdir()
            raise KeyboardInterrupt
        made.append(given[-1])
        return work(*given)

    monkeypatch.setattr(converting, "_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(data, own_file, tmp_path / "out", None, to)

    def counted(*given):
        made.append(given[-1])
        return work(*given)

    monkeypatch.setattr(converting, "_one", counted)
    assert convert(data, own_file, tmp_path / "out", None, to) == whole
    assert made == ["bag_0", "bag_1", "bag_2"]
    assert convert(data, own_file, tmp_path / "out", None, to) == whole and len(made) == 3
    a, b = (load_episodes(tmp_path / n, own)[0] for n in ("whole", "out"))
    assert_same(a, b, exact=True)
    assert set(content(tmp_path / "whole")) == set(content(tmp_path / "out"))


def test_a_dataset_that_is_not_whole_is_none(tmp_path, monkeypatch):
    data, own_file, own = dataset(tmp_path)
    monkeypatch.setattr(LeRobotWriter, "close", lambda self: (_ for _ in ()).throw(OSError("full")))  # fmt: skip
    with pytest.raises(OSError):
        convert(data, own_file, tmp_path / "out", None, "lerobot-v2.1")
    with pytest.raises(DataRefused, match="no dataset"):
        load_episodes(tmp_path / "out", own)
    monkeypatch.undo()
    assert convert(data, own_file, tmp_path / "out", None, "lerobot-v2.1")["episodes"] == 3
    assert len(load_episodes(tmp_path / "out", own)[0]) == 3


@pytest.mark.parametrize("change", ["format", "contract", "data", "recording"])
def test_conversion_of_something_else_refused(tmp_path, change):
    data, own_file, _ = dataset(tmp_path)
    convert(data, own_file, tmp_path / "out", None, "npz")
    before = content(tmp_path / "out")
    to, number = "npz", None
    if change == "format":
        to = "mcap"
    elif change == "contract":
        own_file.write_text(json.dumps(TWIST | {"robot": "another"}))
    elif change == "recording":
        number = 1
    else:
        (data / "bag_1" / "metadata.yaml").touch()
    with pytest.raises(UsageError, match="conversion of something else: .* differ"):
        convert(data, own_file, tmp_path / "out", number, to)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("to", [*BAGS, *TABLES])
@pytest.mark.parametrize("number", [None, 0])
def test_what_is_there_already_is_not_touched(tmp_path, to, number):
    data, own_file, _ = dataset(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        convert(data, own_file, tmp_path / "out", number, to)
    assert content(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_nothing_is_written_into_the_data(tmp_path):
    data, own_file, _ = dataset(tmp_path, 1)
    before = content(data)
    for out in (data, data / "out", data / "bag_0" / "deep"):
        with pytest.raises(UsageError, match="only read"):
            convert(data, own_file, out, None, "npz")
    assert content(data) == before


def test_recording_that_does_not_exist_refused(tmp_path):
    data, own_file, _ = dataset(tmp_path, 2)
    with pytest.raises(UsageError, match="recording 2 does not exist.* has 2"):
        convert(data, own_file, tmp_path / "out", 2, "npz")


def test_two_things_in_one_column_can_be_read_and_not_written(tmp_path):
    value = copy.deepcopy(TWIST)
    for source in value["observations"]:
        source["column"] = "state"
    data, own_file, own = dataset(tmp_path, 1, value)
    convert(data, own_file, tmp_path / "out", None, "npz")  # one column, a name for each number
    assert_same(load_episodes(data, own)[0], load_episodes(tmp_path / "out", own)[0], exact=False)
    value["observations"][2]["names"] = ["a"]
    value["actions"].pop()
    (tmp_path / "twice.yaml").write_text(json.dumps(value))
    with pytest.raises(UsageError, match="a of gripper/joint_states is in column 'state' already"):
        convert(data, tmp_path / "twice.yaml", tmp_path / "no", None, "npz")
    assert not (tmp_path / "no").exists()


def test_data_without_an_episode_refused(tmp_path):
    value = copy.deepcopy(TWIST)
    data, own_file, own = dataset(tmp_path, 1, value)
    for source in value["observations"]:
        source["delay"] = 9.0  # older than anything may be
    own_file.write_text(json.dumps(value))
    with pytest.raises(DataRefused, match="no usable episode.*tick without fresh data"):
        convert(data, own_file, tmp_path / "out", None, "npz")


def test_lerobot_3_0_goes_on_in_a_new_file_when_one_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("training.pipeline.writers.lerobot.FILE_BYTES", 2000)
    data, own_file, own = dataset(tmp_path)
    convert(data, own_file, tmp_path / "out", None, "lerobot-v3.0")
    assert len(list((tmp_path / "out/data/chunk-000").iterdir())) > 1
    assert_same(load_episodes(data, own)[0], load_episodes(tmp_path / "out", own)[0], exact=False)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_statistics_are_those_of_the_rows(tmp_path, version):
    import pyarrow.parquet as pq

    data, own_file, _ = dataset(tmp_path)
    convert(data, own_file, tmp_path / "out", None, f"lerobot-{version}")
    meta = tmp_path / "out" / "meta"
    files = sorted((tmp_path / "out" / "data").rglob("*.parquet"))
    rows = np.concatenate([np.array(pq.read_table(f)["action.arm"].to_pylist()) for f in files])
    ends = np.cumsum([13, 14])
    if version == "v2.1":
        lines = (meta / "episodes_stats.jsonl").read_text().splitlines()
        found = [json.loads(line)["stats"]["action.arm"] for line in lines]
        parts = np.split(rows, ends)
    else:
        table = pq.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
        found = [
            {k: r[f"stats/action.arm/{k}"] for k in ("min", "max", "mean", "std", "count")}
            for r in table
        ]
        found.append(json.loads((meta / "stats.json").read_text())["action.arm"])
        parts = [*np.split(rows, ends), rows]
        assert [(r["dataset_from_index"], r["dataset_to_index"], r["length"]) for r in table] == [
            (0, 13, 13), (13, 27, 14), (27, 42, 15)
        ]  # fmt: skip
    for stats, part in zip(found, parts, strict=True):
        for kind in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(
                stats[kind], getattr(part, kind)(axis=0), rtol=1e-6, atol=1e-9
            )
        assert stats["count"] == [len(part)]


@pytest.mark.parametrize("to", TABLES)
def test_fault_099_flipped_bytes_are_refused_or_harmless(tmp_path, to):
    """Pages and arrays carry checksums: no number comes back as another."""
    data, own_file, own = dataset(tmp_path, 1)
    convert(data, own_file, tmp_path / "out", None, to)
    good, _ = load_episodes(tmp_path / "out", own)
    pattern = "*.npz" if to == "npz" else "data/**/*.parquet"
    (file,) = (tmp_path / "out").glob(pattern)
    raw = file.read_bytes()
    rng = np.random.default_rng(11)
    refused = 0
    for at in rng.integers(0, len(raw), 150 * SCALE):
        broken = bytearray(raw)
        broken[at] ^= 1 << rng.integers(8)
        file.write_bytes(broken)
        try:
            assert_same(good, load_episodes(tmp_path / "out", own)[0], exact=True)
        except DataRefused:
            refused += 1
    assert refused > 50


def test_what_people_said_of_an_episode_is_in_the_table(tmp_path):
    """And only there: the labels stay beside the data that they are of."""
    value = copy.deepcopy(TWIST)
    success = {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]}
    value["outcome"] = {"objective": "time_to_success", "success": success}
    data, own_file, own = dataset(tmp_path, 3, value)
    labels = {"bag_0": "success", "bag_1": "failure", "bag_2": "unknown"}
    (data / "labels.yaml").write_text(json.dumps({"version": 1, "episodes": labels}))
    for to in TABLES:
        convert(data, own_file, tmp_path / to, None, to)
        episodes, _ = load_episodes(tmp_path / to, own)
        assert [e.success for e in episodes] == [True, False, None], to
        assert_same(load_episodes(data, own)[0], episodes, exact=False)
