"""One recording, five formats: MCAP, sqlite3, LeRobot 2.1 and 3.0, npz; the same tensors come back.

Pinned here too: conversions go on where they were interrupted, and never mix with something else.
"""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from qgf_make import SCALE, SECOND, START, contract

from qgf_ros.errors import DataRefused, UsageError

pytest.importorskip("rosbags")
pytest.importorskip("pyarrow")

from training.data.convert import convert
from training.data.load import load_episodes
from training.data.rosbag2 import BagWriter, contract_sources

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
        return source(name, kind, **more, delay=delay, max_age=age)

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
    actions = [
        source("arm", kind, names=driven, limits={n: limits for n in driven})
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
    outcome = draw(
        st.sampled_from(
            [
                {"objective": "time_to_success", "assume_success": True},
                {"objective": "time_to_success", "success": success},
                {"objective": "reward", "reward": reward, "success": success},
                {"objective": "reward", "reward": reward},
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
        for name in ("reward", "success"):
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
                say(name, at, rng.normal(size=len(source.labels)), late)
        if "reward" in sources:
            for at in np.arange(begin + period, begin + span, period):
                say("reward", at, rng.normal(size=1))
        if "success" in sources and trouble["ends"] != "nothing":
            end = begin + span * rng.uniform(0.5, 1)
            say("success", end, np.array([float(trouble["ends"] == "success")]))
    with BagWriter(path, sources) as bag:
        for receipt, name, stamp, values in sorted(rows, key=lambda row: row[:2]):
            bag.write(name, stamp, receipt, values)


def assert_same(one, other, exact):
    """Episode by episode. float32 rounds to 2**-24; an orientation is made of four such numbers."""
    rtol, atol = (0, 0) if exact else (2**-23, 2**-20)
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert len(a) == len(b) and a.terminal == b.terminal and a.success == b.success
        np.testing.assert_allclose(b.action, a.action, rtol, 0)
        np.testing.assert_allclose(b.reward, a.reward, rtol, 0)
        np.testing.assert_allclose(b.obs, a.obs, rtol, atol)


@settings(
    max_examples=15 * SCALE,
    deadline=None,
    derandomize=SCALE == 1,
    print_blob=True,
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
        (folder / "own.yaml").write_text(yaml.safe_dump(value))
        (folder / "other.yaml").write_text(yaml.safe_dump(shuffled(value, rng)))
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
