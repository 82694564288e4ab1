"""What is drafted fits its own recording, in every format and with whatever names: it is filled in,
inspected with, and trained on. Or it says what is missing, and what to do."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from qgf_drafts import filled_in, inspected, trained
from qgf_make import SCALE, SECOND, START, contract, twist_dict, velocity_dict

from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.contract import Contract

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")
pytest.importorskip("torch")

import pyarrow as pa
import pyarrow.parquet as pq

from qgf_ros.bags.sources import contract_sources
from training.draft.draft import draft
from training.pipeline.writers.bag import BagWriter
from training.pipeline.writers.convert import convert

T = SECOND // 20
ROWS, EPISODES = 90, 3  # together long enough to tell what a command means


def motion(rows, columns, seed=0):
    noise = np.random.default_rng(seed).normal(size=(rows + 40, columns))
    window = np.hanning(20)
    smooth = np.stack([np.convolve(n, window, "valid") for n in noise.T], 1)[:rows]
    return smooth / np.abs(smooth).max(axis=0)


def bags(folder, own):
    """Bags by a contract; a joint is two ticks behind its command, everything else moves on its own."""
    names = {n: k for k, n in enumerate(dict.fromkeys(n for a in own.actions for n in a.labels_of_joints))}  # fmt: skip
    for number in range(EPISODES):
        path = motion(ROWS + 2, max(len(names), 1), number)
        speed = np.gradient(path, 1 / 20, axis=0)
        others = {o.name: motion(ROWS, len(o.labels), 9 + k) for k, o in enumerate(own.observations)}  # fmt: skip
        with BagWriter(folder / f"run_{number}", contract_sources(own)) as writer:
            for k in range(ROWS):
                at = START + k * T
                for o in own.observations:
                    values = others[o.name][k].copy()
                    for i, label in enumerate(o.labels):
                        field, _, name = label.partition(".")
                        if name in names and field in ("position", "velocity"):
                            values[i] = {"position": path, "velocity": speed}[field][k, names[name]]
                        if label.endswith("orientation.w"):  # of length 1
                            values[i - 3 : i + 1] = 0.5
                    writer.write(o.name, at, at + T // 10, values)
                for a in own.actions:
                    told = path if a.representation == "absolute" else speed
                    joints = [names[n] for n in a.labels_of_joints]
                    values = told[k + 2, joints] if joints else path[k + 2, : len(a.labels)]
                    writer.write(a.name, at, at + T // 10, values)
    return folder


def arm_by_positions():
    value = velocity_dict()
    value["actions"][0] |= {"type": "sensor_msgs/JointState", "fields": ["position"], "representation": "absolute"}  # fmt: skip
    return value


def tool_by_twists():
    value = copy.deepcopy(twist_dict())
    value["actions"][0]["topic"] = "servo/delta_twist_cmds"
    value["actions"][1]["topic"] = "gripper_controller/commands"
    return value


ROBOTS = {"positions": arm_by_positions, "velocities": velocity_dict, "twists": tool_by_twists}
REPRESENTATION = {"positions": "absolute", "velocities": "velocity", "twists": "velocity"}


def fits(data, out, representation, steps=True):
    """Draft, fill in, inspect, train."""
    made = draft(data, out / "c.yaml", period=None)
    assert made.loads or made.to_fill_in, made.text
    text = filled_in(made.text, representation)
    (out / "c.yaml").write_text(text)
    found = inspected(data, out / "c.yaml")
    assert found["contract"].verdict != "bad", (found["contract"], text)
    assert "cannot be used" not in found["contract"].found, text
    assert found["limits"].verdict == "ok", (found["limits"], text)
    if steps:
        assert trained(data, out / "c.yaml", out / "run").lost == 0, text
    return made, Contract.load(out / "c.yaml")


# Each robot and each format is trained on once, but for sqlite3: a bag's tensors are those of MCAP, to the
# bit, and a table's those of the bag (test_formats).
TRAINED = {
    ("positions", "mcap"),
    ("positions", "lerobot-v3.0"),
    ("velocities", "npz"),
    ("twists", "lerobot-v2.1"),
}
FORMATS = ("mcap", "sqlite3", "lerobot-v2.1", "lerobot-v3.0", "npz")


@pytest.mark.parametrize("robot, to", [
    *(("positions", to) for to in FORMATS), ("velocities", "mcap"), ("velocities", "npz"),
    ("twists", "mcap"), ("twists", "lerobot-v2.1"),
])  # fmt: skip
def test_draft_of_every_format_fits_its_own_recording(tmp_path, robot, to):
    value = ROBOTS[robot]()
    own = contract(value)
    data = bags(tmp_path / "bags", own)
    if to != "mcap":
        (tmp_path / "own.yaml").write_text(json.dumps(value))
        convert(data, tmp_path / "own.yaml", tmp_path / "data", None, to)
        data = tmp_path / "data"
    _, found = fits(data, tmp_path, REPRESENTATION[robot], steps=(robot, to) in TRAINED)
    assert sum(len(a.labels) for a in found.actions) == sum(len(a.labels) for a in own.actions)
    assert found.time.period == pytest.approx(0.05)


def hdf5(folder, layout):
    """The layouts that are read; positions that lag behind their commands by two rows."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    paths = [motion(ROWS + 3, 2, k) for k in range(EPISODES)]
    if layout == "aloha":
        for k, q in enumerate(paths):
            with h5py.File(folder / f"episode_{k}.hdf5", "w", track_order=True) as file:
                file["observations/qpos"], file["action"] = q[:ROWS], q[2 : ROWS + 2]
                file["observations/images/top"] = np.zeros((ROWS, 50), "u1")
                file.attrs["sim"], file.attrs["fps"] = False, 20.0
        return folder
    name = "low_dim.hdf5" if layout == "robomimic" else "main_data.hdf5"
    with h5py.File(folder / name, "w") as file:
        if layout == "robomimic":
            file.create_group("data").attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
        for k, q in enumerate(paths):
            end = np.eye(1, ROWS, ROWS - 1)[0]
            if layout == "robomimic":
                part = file["data"].create_group(f"demo_{k}")
                part["obs/joint_pos"], part["next_obs/joint_pos"] = q[:ROWS], q[1 : ROWS + 1]
                part["dones"] = end
            else:
                part = file.create_group(f"episode_{k}")
                part["observations/pos"] = q[: ROWS + 1]
                part["terminations"], part["truncations"] = end > 0, end > 1
            part["actions"], part["rewards"] = q[2 : ROWS + 2], end
    return folder / name if layout == "robomimic" else folder


@pytest.mark.parametrize("layout", ["robomimic", "aloha", "minari"])
def test_draft_of_every_hdf5_fits_its_own_recording(tmp_path, layout):
    # Minari says no rate: nothing is known of what its actions do.
    representation = "velocity" if layout == "minari" else "absolute"
    _, found = fits(hdf5(tmp_path / "data", layout), tmp_path, representation)
    assert len(found.action_names) == 2


def test_table_without_a_rate_is_asked_about_and_fits_when_filled_in(tmp_path):
    paths = [motion(ROWS + 2, 2, k) for k in range(EPISODES)]
    state, action = (np.concatenate([q[k : ROWS + k] for q in paths]) for k in (0, 2))
    ends = np.arange(1, len(state) + 1) % ROWS == 0
    np.savez(tmp_path / "play.npz", observations=state, actions=action, terminals=ends)
    made, _ = fits(tmp_path / "play.npz", tmp_path, "velocity")
    assert not made.loads


# Names as they come.

WORDS = st.one_of(
    st.sampled_from(["joint_0", "0", "1", "a", "a", "x.pos", "x.vel", "yes", "1e3", "null", "", " ",
                     "FILL_IN", "a: b", "#x", "d'e\"f", "été", "action", "state", "[c]", "a\nb"]),
    st.text(max_size=6),
)  # fmt: skip
NAMES = st.one_of(
    st.none(),
    st.lists(WORDS, min_size=1, max_size=4),  # fewer, as many, or more than there are numbers
    st.lists(st.lists(WORDS, min_size=1, max_size=2), min_size=1, max_size=2),
    st.dictionaries(WORDS, st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=2),
    st.dictionaries(WORDS, st.integers(0, 2), min_size=1, max_size=3),
)
WAYS = ("FILL_IN", "does not load yet")  # what a draft says that cannot be used as it is


def table(folder, measured, commanded, width, seed):
    """LeRobot 2.1, by names as somebody wrote them."""
    shape = {"dtype": "float32", "shape": [width]}
    features = {"observation.state": shape | {"names": measured}, "action": shape | {"names": commanded}}  # fmt: skip
    info = {"codebase_version": "v2.1", "fps": 20, "chunks_size": 1000, "total_episodes": 2,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "features": features}  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "data/chunk-000").mkdir(parents=True)
    for k in range(2):
        path = motion(ROWS + 2, width, seed + k)
        data = {"observation.state": path[:ROWS], "action": path[2:]}
        columns = {n: pa.FixedSizeListArray.from_arrays(pa.array(v.astype(np.float32).ravel()), width) for n, v in data.items()}  # fmt: skip
        columns["timestamp"] = pa.array((np.arange(ROWS) / 20).astype(np.float32))
        pq.write_table(pa.table(columns), folder / f"data/chunk-000/episode_{k:06d}.parquet")
    return folder


PROPERTY = dict(
    deadline=None, derandomize=SCALE == 1, suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # to shrink takes minutes: it is files
)  # fmt: skip


def loads_and_fits_or_says_why(data, out, width):
    try:
        made = draft(data, out / "c.yaml")
    except (DataRefused, UsageError) as refused:
        assert len(str(refused)) > 20, "refused without a word"
        return None
    if made.loads:
        assert "FILL_IN" not in made.text.replace("# FILL IN", "")
        text = made.text
    else:
        assert made.to_fill_in and any(way in made.text for way in WAYS), made.text
        text = filled_in(made.text, "absolute")
    (out / "c.yaml").write_text(text)
    try:
        own = Contract.load(out / "c.yaml")
    except (
        UsageError
    ) as error:  # still open: a person is told what, in words of what they must write
        assert not made.loads, (error, text)
        assert any("absolute" in line or "cannot be read" in line or "load yet" in line for line in made.to_fill_in), made.to_fill_in  # fmt: skip
        return None
    assert len(own.action_names) == width, text  # no commanded number is lost
    found = inspected(data, out / "c.yaml")
    assert found["contract"].verdict != "bad", (found["contract"], text)
    assert "cannot be used" not in found["contract"].found, (found["contract"], text)
    return own


@settings(max_examples=12 * SCALE, **PROPERTY)
@given(measured=NAMES, commanded=NAMES, same=st.booleans(), width=st.integers(1, 3), seed=st.integers(0, 99))  # fmt: skip
@example(measured=["state"], commanded=["action"], same=False, width=3, seed=0)
@example(measured=["a", "b"], commanded=["a", "b", "c"], same=False, width=3, seed=0)
@example(measured=["a", "a", "b"], commanded=None, same=True, width=3, seed=1)
@example(measured=["0", "1"], commanded=None, same=True, width=2, seed=2)
@example(measured=[["a", "b"], ["c"]], commanded=None, same=True, width=3, seed=3)
def test_draft_of_a_table_of_any_names_fits_or_says_what_to_do(measured, commanded, same, width, seed):  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        names = measured if same else commanded
        data = table(Path(folder) / "set", measured, names, width, seed)
        loads_and_fits_or_says_why(data, Path(folder), width)


@settings(max_examples=8 * SCALE, **PROPERTY)
@given(names=st.lists(WORDS, min_size=1, max_size=3), others=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
@example(names=["a", "a"], others=False, seed=0)
@example(names=["0", "1"], others=False, seed=0)
@example(names=["pan", "lift"], others=True, seed=0)
def test_draft_of_a_bag_of_any_names_fits_or_says_what_to_do(names, others, seed):
    """others: commands go by other names than what is measured."""
    from qgf_bags import custom
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = custom("test_msgs/msg/Unused", "float64 x\n")
    make = {k: store.types[k] for k in ("sensor_msgs/msg/JointState", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")}  # fmt: skip
    joint_state, header, time = make.values()
    path, none = motion(2 * ROWS + 2, len(names), seed), np.empty(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "bag"
        with Writer(data, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            to = {t: writer.add_connection(f"/{t}", "sensor_msgs/msg/JointState", typestore=store) for t in ("joint_states", "joint_commands")}  # fmt: skip
            for k in range(2 * ROWS):
                at = START + k * T
                stamp = header(time(at // SECOND, at % SECOND), "")
                for topic, row in (("joint_states", k), ("joint_commands", k + 2)):
                    said = [f"{n}_leader" if others and "c" in topic else n for n in names]
                    msg = joint_state(stamp, said, path[row], none, none)
                    raw = store.serialize_cdr(msg, "sensor_msgs/msg/JointState")
                    writer.write(to[topic], at, raw)
        loads_and_fits_or_says_why(data, Path(folder), len(names))
