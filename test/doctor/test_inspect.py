"""The data doctor: what is wrong with a dataset is found, named with its place, and no more than that."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import browser, chromium
from qgf_make import ARM_FILE, SECOND, START, velocity_dict

from qgf_ros.errors import DataLost, DataRefused

pytest.importorskip("rosbags")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("jinja2")
import pyarrow.parquet as pq  # noqa: E402

from qgf_ros.bags.sources import contract_sources  # noqa: E402
from qgf_ros.console import plain  # noqa: E402
from qgf_ros.spaces.contract import Contract  # noqa: E402
from training.doctor.checks import ASKED, checks  # noqa: E402
from training.doctor.contract import Aligned  # noqa: E402
from training.doctor.dataset import Dataset  # noqa: E402
from training.doctor.examine import document, examine  # noqa: E402
from training.doctor.roles import pairs, role  # noqa: E402
from training.doctor.sample import Extremes, Sample  # noqa: E402
from training.doctor.summary import rows_kept, summarise  # noqa: E402
from training.doctor.verbs import DataInspect  # noqa: E402
from training.judge.pages.doctor_page import write_page  # noqa: E402
from training.pipeline.streams import Signal, Stream, Survey  # noqa: E402
from training.pipeline.writers.bag import BagWriter  # noqa: E402

G1 = Path(__file__).resolve().parents[3] / "shared" / "data" / "g1_lerobot_v21"
RATE = 50
JOINTS = ("shoulder", "elbow", "wrist")
LATENCY = SECOND // 500


def motion(rows, seed=0, columns=3):
    """Smooth random motion about as large as joints move [rad]."""
    noise = np.random.default_rng(seed).normal(size=(rows + 200, columns))
    window = np.hanning(60)[:, None]
    smooth = np.stack([np.convolve(n, window[:, 0], "valid") for n in noise.T], 1)[:rows]
    return smooth / np.abs(smooth).max(axis=0)


def stream(values, rate=RATE, start=START, latency=LATENCY):
    stamp = start + np.round(np.arange(len(values)) * SECOND / rate).astype(np.int64)
    return Stream(stamp, stamp + latency, np.asarray(values, float))


def signals(state, command, names=JOINTS, unnamed=False):
    """A robot's two topics: (N, joints) measured and commanded positions."""
    told = tuple(f"data.{i}" if unnamed else f"position.{n}" for i, n in enumerate(names))
    kind = "std_msgs/Float64MultiArray" if unnamed else "sensor_msgs/JointState"
    return [
        Signal("/joint_states", "sensor_msgs/JointState", tuple(f"position.{n}" for n in names), stream(state)),
        Signal("/arm_controller/commands", kind, told, stream(command)),
    ]  # fmt: skip


def arm(seed=0, rows=600, lead=5, **changes):
    """A survey whose states follow the commands by `lead` rows."""
    path = motion(rows + lead, seed)
    return of(f"r{seed}", signals(path[:rows], path[lead:], **changes))


def of(name, found, **changes):
    return Survey(name, {s.topic: s for s in found}, **changes)


def changed(survey, topic="/joint_states", **streams):
    """The survey with other stamp, receipt or values of one signal."""
    s = survey.signals[topic]
    parts = {k: getattr(s.stream, k).copy() for k in ("stamp", "receipt", "values")} | streams
    new = Signal(s.topic, s.type, s.labels, Stream(**parts))
    return Survey(survey.name, survey.signals | {topic: new}, one_episode=survey.one_episode)


def dataset(*surveys):
    data = Dataset(Path("data"), "test", period=1 / RATE)
    matched = pairs(surveys[0], 1 / RATE)
    for s in surveys:
        data.add(summarise(s, matched, 1 / RATE))
    return data


def verdicts(*surveys):
    return {c.name: c for c in checks(dataset(*surveys))}


def test_a_healthy_recording_has_nothing_bad():
    found = verdicts(arm(0), arm(1))
    assert {n for n, c in found.items() if c.verdict == "bad"} == set()
    for name in ("rates", "gaps", "stamps", "clocks", "finite", "constant", "outliers", "units", "lead", "offset", "layout", "duplicates"):  # fmt: skip
        assert found[name].verdict == "ok", found[name]


# Commands and states.


@pytest.mark.parametrize("unnamed", [False, True], ids=["names", "array"])
def test_lead_is_the_delay_that_was_put_in(unnamed):
    data = dataset(*(arm(seed, lead=7, unnamed=unnamed) for seed in range(3)))
    content = document(data, checks(data))
    assert set(content["command_lead_ms"]) == set(JOINTS)
    assert all(abs(v - 7 / RATE * 1e3) < 2 for v in content["command_lead_ms"].values())
    assert {c["matched_by"] for c in content["commands"]} == {"correlation" if unnamed else "name"}


def test_array_in_another_order_is_matched_by_its_motion():
    path = motion(605)
    state, command = signals(path[:600], path[5:][:, [2, 0, 1]], unnamed=True)
    found = pairs(of("r", [state, command]), 1 / RATE)
    assert [p.name for p in found] == ["wrist", "shoulder", "elbow"]


def test_two_joints_that_move_alike_are_not_told_apart():
    path = motion(605)
    path[:, 1] = path[:, 0]
    state, command = signals(path[:600], path[5:], unnamed=True)
    assert {p.name for p in pairs(of("r", [state, command]), 1 / RATE)} == {"wrist"}


def test_state_that_comes_before_its_command_is_bad():
    path = motion(610)
    assert verdicts(of("r", signals(path[10:], path[:600])))["lead"].verdict == "bad"


def test_calibration_offset_of_17_degrees_is_found():
    path = motion(600)
    path[:250] = path[250]  # at rest
    state = path + np.array([0.0, np.deg2rad(17), 0.0])
    found = verdicts(of("r", signals(state, path)))["offset"]
    assert found.verdict == "warn" and len(found.where) == 1
    assert found.where[0].startswith("elbow: rests -0.297")


@pytest.mark.parametrize(
    "topic, kind, expected",
    [
        ("/servo/delta_twist_cmds", "geometry_msgs/TwistStamped", "command"),
        ("/goal_joint_states", "sensor_msgs/JointState", "command"),
        ("/goal", "geometry_msgs/PointStamped", "state"),
        ("/joint_states", "sensor_msgs/JointState", "state"),
        ("/arm_controller/joint_trajectory", "trajectory_msgs/JointTrajectory", "command"),
        ("/forces", "std_msgs/Float64MultiArray", "state"),
        ("/success", "std_msgs/Bool", "outcome"),
        ("action", "", "command"),
        ("observation.state", "", "state"),
        ("observation.goal", "", "state"),
        ("next.reward", "", "outcome"),
        ("frame_index", "", "index"),
    ],
)
def test_what_a_signal_is_for(topic, kind, expected):
    assert role(topic, kind) == expected


# Time.


def test_fault_105_gap_is_found_with_its_place():
    survey = arm()
    late = survey.signals["/joint_states"].stream
    wait = np.where(np.arange(600) >= 300, SECOND, 0)
    found = verdicts(changed(survey, stamp=late.stamp + wait, receipt=late.receipt + wait))["gaps"]
    assert found.verdict == "warn" and "1 gaps" in found.found
    assert found.where == ("/joint_states: 1.02 s at 5.98 s in r0",)


def test_silence_between_two_episodes_of_a_bag_is_no_gap():
    survey = arm()
    late = survey.signals["/joint_states"].stream
    wait = np.where(np.arange(600) >= 300, SECOND, 0)
    begin = np.array([START, int(late.stamp[300]) + SECOND - 1])
    header = Signal("/episode_start", "std_msgs/Header", ("stamp.sec",), Stream(begin, begin, np.zeros((2, 1))))  # fmt: skip
    both = changed(survey, stamp=late.stamp + wait, receipt=late.receipt + wait)
    data = dataset(of("r", [*both.signals.values(), header]))
    assert data.episodes == 2
    assert next(c for c in checks(data) if c.name == "gaps").verdict == "ok"


def test_fault_105_backward_and_repeated_stamps_are_counted():
    survey = arm()
    stamp = survey.signals["/joint_states"].stream.stamp.copy()
    stamp[100], stamp[200] = stamp[90], stamp[199]
    found = verdicts(changed(survey, stamp=stamp))["stamps"]
    assert found.verdict == "warn"
    assert found.where == (
        "/joint_states: 1 stamps go back",
        "/joint_states: 1 stamps are repeated",
    )


@pytest.mark.parametrize("offset", [-2.0, 3.0])
def test_stamps_of_another_clock_are_bad(offset):
    survey = arm()
    receipt = survey.signals["/joint_states"].stream.receipt + int(offset * SECOND)
    found = verdicts(changed(survey, receipt=receipt))["clocks"]
    assert found.verdict == "bad" and "/joint_states" in found.where[0]


def test_clock_that_runs_faster_is_bad():
    survey = arm()
    s = survey.signals["/joint_states"].stream
    found = verdicts(changed(survey, receipt=s.receipt + (s.stamp - START) // 50))["clocks"]
    assert found.verdict == "bad" and "part by +0.2" in found.where[0]


def test_fault_016_unset_stamps_are_named():
    survey = arm()
    late = survey.signals["/joint_states"].stream
    found = verdicts(changed(survey, stamp=late.receipt))["clocks"]
    assert found.verdict == "warn" and "/joint_states" in found.found


# Numbers.


def test_fault_096_nan_is_counted():
    survey = arm()
    values = survey.signals["/joint_states"].stream.values.copy()
    values[[3, 9], 1] = np.nan, np.inf
    assert verdicts(changed(survey, values=values))["finite"].where == (
        "/joint_states position.elbow: 2",
    )


def test_fault_094_constant_number_is_named():
    survey = arm()
    values = survey.signals["/joint_states"].stream.values.copy()
    values[:, 2] = 0.4
    found = verdicts(changed(survey, values=values))["constant"]
    assert found.where == ("/joint_states position.wrist",)


def test_fault_095_outlier_is_named_with_episode_and_time():
    survey = arm(1)
    values = survey.signals["/joint_states"].stream.values.copy()
    values[450, 0] = 1e6
    found = verdicts(arm(0), changed(survey, values=values))["outliers"]
    assert found.verdict == "bad" and len(found.where) == 1
    assert found.where[0].startswith("/joint_states position.shoulder: 1e+06 at 9.000 s in r1")


def test_joint_at_its_limit_is_saturated():
    survey = arm()
    values = np.minimum(survey.signals["/joint_states"].stream.values, [0.2, 9, 9])
    (place,) = verdicts(changed(survey, values=values))["saturated"].where
    assert place.startswith("/joint_states position.shoulder") and "maximum" in place


@pytest.mark.parametrize(
    "scale, verdict, words",
    [([1, 1, 1], "ok", "fit"), ([57.3] * 3, "warn", "degrees"), ([57.3, 57.3, 1], "warn", "mixed")],
)
def test_degrees_are_suspected(scale, verdict, words):
    survey = arm()
    values = survey.signals["/joint_states"].stream.values * 3 * np.array(scale)
    found = verdicts(changed(survey, values=values))["units"]
    assert found.verdict == verdict and words in found.found + "".join(found.where)


def test_millimetres_are_suspected():
    values = motion(600) * 400 + 500
    labels = ("pose.position.x", "pose.position.y", "pose.position.z")
    tool = Signal("/tool", "geometry_msgs/PoseStamped", labels, stream(values))
    found = verdicts(of("r", [*arm().signals.values(), tool]))["units"]
    assert found.verdict == "warn" and "millimetres" in found.where[0]


# Recordings together.


def test_fault_108_copies_are_found():
    copy = arm(0)
    other = Survey("copy", copy.signals)
    found = verdicts(copy, arm(1), other)["duplicates"]
    assert found.verdict == "warn" and found.where == ("r0 = copy",)


def test_fault_109_other_joints_under_the_same_topic_are_bad():
    found = verdicts(arm(0), arm(1, names=("x", "y", "z")))["layout"]
    assert found.verdict == "bad" and "r1" in found.where[0]


def test_other_order_of_joints_is_the_same_robot():
    one, two = arm(0), arm(1)
    s = two.signals["/joint_states"]
    turned = Signal(s.topic, s.type, s.labels[::-1], stream(s.stream.values[:, ::-1]))
    data = dataset(one, of("r1", [turned, two.signals["/arm_controller/commands"]]))
    assert {c.name: c for c in checks(data)}["layout"].verdict == "ok"
    kept = data.signals["/joint_states"]
    expected = np.sort(
        np.concatenate([one.signals["/joint_states"].stream.values, s.stream.values]), 0
    )
    assert np.array_equal(np.sort(kept.values.rows, 0), expected)


def test_fault_107_short_episode_is_named():
    rows = [Survey(f"r{k}", arm(k, 300 if k else 20).signals, one_episode=True, rate=RATE) for k in range(5)]  # fmt: skip
    found = verdicts(*rows)["lengths"]
    assert found.verdict == "warn" and found.where == ("r0: 20 rows",)


@pytest.mark.parametrize("success, done, expected", [
    ([0, 0, 1], None, "success"), ([0, 0, 0], [0, 0, 1], "failure"), ([0, 0, 0], None, "unknown"),
    (None, [0, 0, 1], "unknown"), (None, None, "unknown"),
])  # fmt: skip
def test_outcome_of_a_table(success, done, expected):
    said = {"next.success": success, "next.done": done}
    columns = [Signal(k, "", ("0",), stream(np.array(v)[:, None])) for k, v in said.items() if v]
    data = dataset(Survey("r", {s.topic: s for s in columns} | arm().signals, one_episode=True, rate=RATE))  # fmt: skip
    assert data.outcomes == {"success": 0, "failure": 0, "unknown": 0} | {expected: 1}


def test_labels_count_before_the_topics(tmp_path):
    lerobot(tmp_path / "set")
    said = {"episode_000000": "success", "episode_000001": "failure", "episode_000002": "exclude"}
    (tmp_path / "set/labels.yaml").write_text(yaml.safe_dump({"version": 1, "episodes": said}))
    content = inspect(tmp_path / "set", tmp_path / "out")
    assert content["outcomes"] == {"success": 1, "failure": 1, "unknown": 1}


def test_outcomes_of_a_bag_belong_to_its_episodes():
    begin = np.array([START, START + 4 * SECOND, START + 8 * SECOND])
    told = begin[[0, 1]] + 3 * SECOND
    header = Signal("/episode_start", "std_msgs/Header", ("stamp.sec",), Stream(begin, begin, np.zeros((3, 1))))  # fmt: skip
    success = Signal("/success", "std_msgs/Bool", ("data",), Stream(told, told, np.array([[1.0], [0.0]])))  # fmt: skip
    data = dataset(of("r", [*arm().signals.values(), header, success]))
    assert data.outcomes == {"success": 1, "failure": 1, "unknown": 1}


# Bounded.


def test_a_sample_of_parts_is_the_sample_of_the_whole():
    rng = np.random.default_rng(0)
    parts = [Sample(rng.normal(size=(50, 2)), rng.random(50)) for _ in range(40)]
    whole = Sample(np.concatenate([p.rows for p in parts]), np.concatenate([p.keys for p in parts]))
    expected = whole.rows[np.sort(np.argsort(whole.keys)[:100])]
    for order in (parts, parts[::-1]):
        merged = Sample(np.empty((0, 2)), np.empty(0))
        for part in order:
            merged = merged.merge(part, 100)
        assert np.array_equal(np.sort(merged.rows, 0), np.sort(expected, 0))


def test_extremes_of_parts_are_the_extremes_of_the_whole():
    values = np.random.default_rng(0).normal(size=(400, 2))
    values[::7, 0] = np.nan
    times = np.arange(400.0)
    merged = None
    for k in range(0, 400, 40):
        part = Extremes.of(values[k : k + 40], times[k : k + 40])
        merged = part if merged is None else merged.merge(part)
    for i in range(2):
        ordered = np.sort(values[np.isfinite(values[:, i]), i])
        assert np.array_equal(np.sort(merged.values[:, i]), np.r_[ordered[:3], ordered[-3:]])
    assert np.array_equal(values[merged.times[:, 1].astype(int), 1], merged.values[:, 1])


def test_what_is_kept_does_not_grow_with_the_dataset():
    data = dataset(*(arm(seed, rows=400) for seed in range(30)))
    kept = data.signals["/joint_states"]
    assert kept.messages == 12000 and len(kept.values.rows) == rows_kept(3) == 4096
    assert len(kept.extremes.values) == 2 * Extremes.FEW
    assert all(not r.signals for r in data.recordings)


# From files.


def lerobot(folder, lengths=(60,) * 4, late=0.0, change=None):
    """A LeRobot v2.1 dataset; `late` [s] is added to the timestamps from the 20th row on."""
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": list(JOINTS)},
        "action": {"dtype": "float32", "shape": [3], "names": list(JOINTS)},
    }
    info = {"codebase_version": "v2.1", "fps": RATE, "chunks_size": 1000, "total_episodes": len(lengths),
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "features": features}  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    for k, rows in enumerate(lengths):
        path = motion(rows + 3, k)
        data = {"observation.state": path[:rows], "action": path[3:]}
        if change:
            change(data)
        columns = {n: pa.FixedSizeListArray.from_arrays(pa.array(v.astype(np.float32).ravel()), 3) for n, v in data.items()}  # fmt: skip
        times = np.arange(rows) / RATE + np.where(np.arange(rows) >= 20, late, 0)
        columns["timestamp"] = pa.array(times.astype(np.float32))
        file = folder / f"data/chunk-000/episode_{k:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)


def inspect(data, out, **options):
    return DataInspect(data=data, out=out, workers=1, **options).run()


def test_document_and_page_of_a_table(tmp_path):
    lerobot(tmp_path / "set")
    content = inspect(tmp_path / "set", tmp_path / "out")
    assert content["episodes"] == 4 and content["rate_hz"] == RATE
    assert content["outcomes"] == {"success": 0, "failure": 0, "unknown": 4}
    assert content == json.loads((tmp_path / "out/inspect.json").read_text())
    page = (tmp_path / "out/inspect.html").read_text()
    assert "no failures are recorded" in page
    assert [k for k, _ in drawn(page)] == ["recordings", "intervals", "leads", "ranges", "ranges"]


def drawn(page):
    """(kind, title) of every figure that the page's script is told of, each with its own place."""
    told = json.loads(
        re.search(r'<script type="application/json" id="document">(.*?)</script>', page)[1]
    )
    for number, _ in enumerate(told["figures"]):
        assert page.count(f'id="figure-{number}"') == page.count(f'data-panel="f{number}"') == 1
    return [(f["kind"], f["title"]) for f in told["figures"]]


@pytest.mark.skipif(chromium() is None, reason="no Chromium")
def test_every_figure_is_drawn_and_names_stay_text(tmp_path):
    names = [
        "<script>document.title = 'taken'</script>",
        "<img src=x onerror=alert(1)>",
        "$\\frac{$",
    ]
    path = motion(200)
    data = dataset(of("r", signals(path, path, names=names)))
    write_page(tmp_path / "page.html", plain(document(data, checks(data))))
    count = len(drawn((tmp_path / "page.html").read_text()))
    with browser() as page:
        page.open((tmp_path / "page.html").as_uri(), height=4000)
        page.wait_for(
            f"document.querySelectorAll('.plot .main-svg .xtick').length && "
            f"[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg')).length === {count}"
        )
        assert not page.errors and all(url.startswith(("file:", "data:")) for url in page.requests)
        assert page.value("document.title").endswith("what is in it")
        assert page.value("document.querySelectorAll('body img').length") == 0


def test_page_of_the_same_data_is_the_same(tmp_path):
    lerobot(tmp_path / "set")
    for out in "ab":
        inspect(tmp_path / "set", tmp_path / out)
    a, b = ((tmp_path / out / "inspect.html").read_text() for out in "ab")
    assert a == b


def test_names_in_the_data_are_text_not_markup(tmp_path):
    names = ["<script>alert(1)</script>", "[/bold]", "$\\frac{$"]
    path = motion(200)
    hostile = of("r", signals(path, path, names=names))
    data = dataset(hostile)
    from training.doctor.examine import show

    content = plain(document(data, checks(data)))
    show(content)
    write_page(tmp_path / "page.html", content)
    assert names[0] not in (tmp_path / "page.html").read_text()


def test_timestamps_that_disagree_with_the_rate_are_found(tmp_path):
    lerobot(tmp_path / "set", late=0.5)
    found = {c["name"]: c for c in inspect(tmp_path / "set", tmp_path / "out")["checks"]}
    assert found["readable"]["verdict"] == "ok"  # rows stay where their clock says
    assert found["rates"]["verdict"] == "bad" and found["gaps"]["verdict"] == "warn"


def test_recording_that_cannot_be_read_is_named_and_the_rest_inspected(tmp_path):
    lerobot(tmp_path / "set")
    (tmp_path / "set/data/chunk-000/episode_000002.parquet").write_bytes(b"PAR1junkPAR1")
    with pytest.raises(DataLost, match="1 recordings") as error:
        inspect(tmp_path / "set", tmp_path / "out")
    content = error.value.document
    assert content["episodes"] == 3 and "episode_000002" in str(content["refused"])


def test_nothing_readable_is_refused(tmp_path):
    lerobot(tmp_path / "set", lengths=(30,))
    (tmp_path / "set/data/chunk-000/episode_000000.parquet").write_bytes(b"")
    with pytest.raises(DataRefused, match="none of 1 recordings"):
        inspect(tmp_path / "set", tmp_path / "out")


def test_strict_refuses_what_is_bad_and_hands_over_the_document(tmp_path):
    def glitch(data):
        data["observation.state"][30, 0] = 1e6

    lerobot(tmp_path / "set", change=glitch)
    assert inspect(tmp_path / "set", tmp_path / "a")["verdict"] == "bad"
    with pytest.raises(DataRefused, match="outliers") as error:
        inspect(tmp_path / "set", tmp_path / "b", strict=True)
    assert error.value.document["episodes"] == 4


def test_processes_give_the_same_document(tmp_path):
    lerobot(tmp_path / "set")
    one, two = (examine(tmp_path / "set", tmp_path / f"{n}", None, n) for n in (1, 2))
    assert one == two


def test_missing_dataset_is_refused(tmp_path):
    with pytest.raises(DataRefused, match="does not exist"):
        inspect(tmp_path / "nowhere", tmp_path / "out")


# With a contract.


def bag(folder, ticks=100, scale=1.0):
    """Two joints and a goal, by the tests' contract; velocities up to `scale`."""
    value = velocity_dict()
    own = Contract.from_dict(value)
    path = motion(ticks + 2, columns=2) * scale
    with BagWriter(folder / "bag", contract_sources(own)) as writer:
        for k in range(ticks):
            at = START + k * SECOND // 20
            writer.write("joints", at, at + LATENCY, np.r_[path[k], path[k]])
            writer.write("goal", at, at + LATENCY, np.zeros(1))
            writer.write("arm", at, at + LATENCY, path[k + 2])
    (folder / "contract.yaml").write_text(yaml.safe_dump(value))
    return folder / "bag", folder / "contract.yaml"


def test_contract_says_what_is_kept_and_how_old_it_gets(tmp_path):
    data, contract = bag(tmp_path)
    content = inspect(data, tmp_path / "out", contract=contract)
    part = content["contract"]
    assert part["episodes"] == 1 and part["ticks"] in (99, 100) and part["success_assumed"]
    assert content["outcomes"] == {"success": 1, "failure": 0, "unknown": 0}
    assert abs(part["ages_ms"]["joints"]["median"] - 52) < 1 and part["return"] == [1, 1]


def test_commands_beyond_the_contracts_limits_are_named(tmp_path):
    data, contract = bag(tmp_path, scale=5.0)
    content = inspect(data, tmp_path / "out", contract=contract)
    found = {c["name"]: c for c in content["checks"]}["limits"]
    assert found["verdict"] == "warn" and any("arm.a" in place for place in found["where"])


def test_data_that_does_not_fit_the_contract_is_bad(tmp_path):
    data, _ = bag(tmp_path)
    content = inspect(data, tmp_path / "out", contract=ARM_FILE)
    found = {c["name"]: c for c in content["checks"]}["contract"]
    assert found["verdict"] == "bad" and "no topic" in found["where"][0]


@pytest.mark.skipif(not G1.is_dir(), reason=f"the recordings are not here: {G1}")
def test_80_real_recordings_of_a_humanoid(tmp_path):
    content = inspect(G1, tmp_path / "out")
    assert content["episodes"] == 80 and content["rate_hz"] == 30
    assert content["outcomes"] == {"success": 0, "failure": 0, "unknown": 80}
    leads = list(content["command_lead_ms"].values())
    assert len(leads) == 26 and 150 < np.median(leads) < 250  # about 0.2 s, as its authors say
    found = {c["name"]: c for c in content["checks"]}
    assert "no failures" in found["outcomes"]["found"] and content["verdict"] == "warn"
    assert all(found[n]["verdict"] == "ok" for n in ("readable", "layout", "rates", "gaps", "units", "lead"))  # fmt: skip


# Nothing is said to be right that was not seen.


def few(rows):
    """A survey of every kind of signal, `rows` messages each."""
    stamp = START + np.arange(rows, dtype=np.int64) * SECOND // RATE
    kinds = {
        "/joint_states": ("sensor_msgs/JointState", ("position.a", "position.b")),
        "/joint_commands": ("sensor_msgs/JointState", ("position.a", "position.b")),
        "/tool": ("geometry_msgs/PoseStamped", ("pose.position.x", "pose.position.y")),
        "/force": ("std_msgs/Float64", ("data",)),
    }
    found = [
        Signal(topic, kind, labels, Stream(stamp, stamp + LATENCY, np.zeros((rows, len(labels)))))
        for topic, (kind, labels) in kinds.items()
    ]
    return of("r", found)


NOTHING_SEEN = {
    "no recording": Dataset(Path("data"), "test"),
    "an empty recording": dataset(of("r", [])),
    "no message": dataset(few(0)),
    "one message": dataset(few(1)),
    "two messages": dataset(few(2)),
    "a table of one row": dataset(Survey("r", {"action": Signal("action", "", ("0",), stream([[1.0]]))}, one_episode=True)),
}  # fmt: skip
# What one message, or a recording without any, does show.
SEEN = {"readable", "finite"}


@pytest.mark.parametrize("ask", ASKED, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("data", NOTHING_SEEN)
@pytest.mark.parametrize("by_contract", [False, True])
def test_no_check_says_ok_about_what_was_not_seen(ask, data, by_contract):
    data = NOTHING_SEEN[data]
    if by_contract:
        data = replace(data, contract=Contract.load(ARM_FILE), aligned=Aligned())
    found = ask(data)
    assert found is None or found.verdict != "ok" or found.name in SEEN, found
    if found is not None and found.verdict == "unknown":
        assert found.found.startswith("nothing to judge by: ")
    if found is not None and found.name in SEEN and not data.signals:
        assert found.verdict == "unknown" or data.recordings, found


@pytest.mark.parametrize("ask", ASKED, ids=lambda ask: ask.__name__)
def test_observations_that_came_once_are_not_fresh(ask):
    """Of a contract whose sources were read, and hold one message each."""
    own = Contract.load(ARM_FILE)
    ages = {o.name: Sample(np.empty((0, 1)), np.empty(0)) for o in own.observations}
    data = replace(dataset(few(1)), contract=own, aligned=Aligned(ages=ages))
    found = ask(data)
    assert found is None or found.verdict != "ok" or found.name in SEEN, found


def test_verdict_on_nothing_is_unknown_and_the_page_shows_it(tmp_path):
    from training.doctor.checks import worst

    data = dataset(few(1))
    found = checks(data)
    assert worst([c for c in found if c.verdict in ("ok", "unknown")]) == "unknown"
    assert worst([]) == "unknown"
    write_page(tmp_path / "page.html", plain(document(data, found)))
    page = (tmp_path / "page.html").read_text()
    assert all(f'<td class="word">{c.name}</td>' in page for c in found)


def test_fault_148_mirror_image_of_a_few_seconds_is_no_verdict():
    """Two motions that have nothing to do with each other look mirrored for a few seconds, often."""
    said = []
    for seed in range(12):
        state, command = motion(120, seed), motion(120, seed + 100)
        said.append(verdicts(of("r", signals(state, command)))["lead"])
    assert {c.verdict for c in said} <= {"unknown", "warn"}
    assert any("too little to tell" in c.found for c in said)
    path = motion(905)
    brief, long = (
        verdicts(of("r", signals(path[:n], -path[5 : n + 5])))["lead"] for n in (120, 900)
    )
    assert brief.verdict == "unknown" and long.verdict == "bad"
