"""Bags through the control core: what the core did itself is found again, to the last bit; what it
could not do is counted and in no figure; and the gate of a CI closes."""

import json
import math
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from qgf_make import SECOND, START, negate
from qgf_replay import ARM, CONTRACT, PERIOD, arm_bag

pytest.importorskip("onnxruntime")

from qgf_ros.bags.sources import contract_sources
from qgf_ros.control.chunk import draw_noise
from qgf_ros.errors import (
    CriterionNotMet,
    DataLost,
    DataRefused,
    PolicyRefused,
    UsageError,
)
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy
from qgf_ros.replay.critic import NumpyCritic
from qgf_ros.replay.events import BagEvents
from qgf_ros.replay.node_messages import read_tick
from qgf_ros.replay.run import Plan, document, replay
from qgf_ros.replay.settings import load_settings
from qgf_ros.replay.tally import FIGURES
from qgf_ros.replay.verb import Replay
from qgf_ros.spaces.messages.base import SchemaError
from training.pipeline.writers.bag import BagWriter


def figures(plan, *paths, workers=1):
    """Everything but what the machine's pace decides."""
    found = json.loads(json.dumps(document(plan, replay(plan, paths, workers), 0.0)))
    del found["seconds"]
    for result in found["results"]:
        del result["inference_ms"]
    return found


def means(found, number=0):
    return {name: f["mean"] for name, f in found["results"][number]["figures"].items()}


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for seed in range(3):
        arm_bag(folder / f"bag_{seed}", 30 + 10 * seed, won=seed != 1)
    return folder


def test_what_the_core_did_is_found_again(tmp_path):
    assert arm_bag(tmp_path / "bag", 40) == 0
    found = figures(Plan((ARM,), (0.1, math.inf)), tmp_path / "bag")
    guided, unguided = means(found), means(found, 1)
    result = found["results"][0]
    assert (result["ticks"], result["samples"], found["episodes"]) == (40, 8, 1)
    assert guided["error"] == guided["command_error"] == guided["held"] == 0
    assert guided["jerk_ratio"] == 1 and guided["distance"] < 1e-6
    assert guided["q_over_recorded"] == pytest.approx(0, abs=1e-5)
    # The same noise without guidance is something else, and the critic likes it less.
    assert unguided["error"] > 0.01 and unguided["q_gain"] == 0 < guided["q_gain"]
    assert unguided["q_unguided"] == guided["q_unguided"]
    assert guided["error_by_guidance"] == pytest.approx(-unguided["error"])
    assert max(result["joints"]["arm.elbow"]["error"]["all"]) == 0
    assert sum(band["samples"] for band in result["gain_by_distance"]) == 8


def test_fault_111_rate_1_and_full_speed_give_the_same_figures(tmp_path):
    arm_bag(tmp_path / "bag", 22)
    fast, real = (figures(Plan((ARM,), (0.1,), rate=r), tmp_path / "bag") for r in (0.0, 1.0))
    assert fast == real


@pytest.mark.parametrize(
    "change",
    [
        {"speaks": lambda k: not 40 <= k < 60},  # a pause
        {"stamped": lambda k: k - 30 if 40 <= k < 60 else k},  # played in a loop
        {"stamped": lambda k: 2 * k if 40 <= k < 45 else k},  # played at another rate
    ],
    ids=["pause", "loop", "rate"],
)
def test_fault_111_what_was_held_is_counted_and_in_no_figure(tmp_path, change):
    held = arm_bag(tmp_path / "bag", 90, **change)
    assert 10 <= held <= 40
    found = figures(Plan((ARM,), (0.1,)), tmp_path / "bag")
    result = found["results"][0]
    assert sum(result["seconds_not_driven"].values()) == pytest.approx(held * 0.05)
    assert all(why.startswith("HOLD STATE_") for why in result["seconds_not_driven"])
    assert means(found)["held"] == held / 90
    assert means(found)["command_error"] == means(found)["error"] == 0
    assert result["samples"] < 18


def test_figures_are_the_same_again_and_on_two_processes(bags):
    plan = Plan((ARM,), (0.03, math.inf))
    once = figures(plan, bags)
    assert once == figures(plan, bags, workers=2)
    assert once["episodes"] == 3 and once["results"][0]["segments"] == 3
    low, high = (once["results"][0]["figures"]["error"][end] for end in ("low", "high"))
    assert low <= means(once)["error"] <= high


def test_a_policy_against_itself_is_undecided_in_everything(bags):
    found = figures(Plan((ARM, ARM), (0.03,)), bags)
    rows = found["compared"][0]["figures"].values()
    assert {row["first_is"] for row in rows} == {"undecided"}
    assert {row["mean"] for row in rows if not math.isnan(row["mean"])} == {0.0}


def test_the_critic_in_numpy_is_the_samplers():
    policy = load_policy(ARM)
    sampler, critic = make_sampler(policy, device="cpu"), NumpyCritic(policy)
    rng = np.random.default_rng(0)
    for stamp in range(5):
        obs = rng.normal(size=policy.obs_dim).astype(np.float32)
        sample = sampler(obs, draw_noise(0, stamp, 4, policy.flat_dim), 10.0)
        q = critic(np.tile(obs, (4, 1)), sample.action)
        assert np.abs(q - sample.q).max() < 1e-5


def test_fault_124_a_sampler_that_answers_the_opposite_is_not_replayed(bags, tmp_path):
    pytest.importorskip("onnx")
    folder = shutil.copytree(ARM, tmp_path / "policy")
    negate(folder)
    command = ["qgf", "replay", bags / "bag_0", "--policy", folder, "--backend", "onnx"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 4, done.stderr
    assert last.startswith("qgf: error[4]: ") and "does not answer as the policy's weights" in last


def rules(folder, *rows):
    path = folder / "thresholds.yaml"
    path.write_text(json.dumps({"thresholds": rows}))
    return path


def test_thresholds_close_the_gate_with_code_8(bags, tmp_path):
    ask = {"bags": (bags / "bag_0",), "policy": str(ARM), "beta": (0.1, math.inf), "workers": 1}
    good = rules(tmp_path, {"figure": "error", "max": 0.001, "beta": 0.1})
    kept = Replay(**ask, thresholds=good).run()["thresholds"]
    assert [(r["beta"], r["met"]) for r in kept] == [(0.1, True)]
    bad = rules(tmp_path, {"figure": "held", "max": 0}, {"figure": "error", "max": 0.001})
    with pytest.raises(CriterionNotMet, match="1 of 4 thresholds.* error = .* at beta inf") as lost:
        Replay(**ask, thresholds=bad).run()
    assert lost.value.code == 8 and lost.value.document["results"]
    unknown = rules(tmp_path, {"figure": "error_grasping", "max": 1.0})  # the arm has no gripper
    with pytest.raises(CriterionNotMet, match="2 of 2"):
        Replay(**ask, thresholds=unknown).run()


@pytest.mark.parametrize(
    "row, said",
    [
        ({"figure": "erorr", "max": 1}, "known: error"),
        ({"figure": "error"}, "give min, max, or both"),
        ({"figure": "error", "min": 2, "max": 1}, "min <= max"),
        ({"figure": "error", "max": 1, "beta": 0.5}, "beta 0.5 is not replayed"),
        ({"figure": "error", "maximum": 1}, "unknown key"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused_before_anything_is_played(tmp_path, row, said):
    with pytest.raises(UsageError, match=said):
        Replay(
            bags=(tmp_path / "none",), policy=str(ARM), beta=(0.1,),
            thresholds=rules(tmp_path, row),
        ).run()  # fmt: skip


def test_a_beta_below_the_floor_a_missing_bag_or_policy_and_a_table_are_refused(tmp_path):
    for change, error, said in (
        ({"beta": (1e-9,)}, UsageError, "allowed: 0.014 to inf"),
        ({"bags": (tmp_path / "none",)}, DataRefused, "does not exist"),
        ({"bags": (tmp_path,)}, DataRefused, "qgf data convert"),
        ({"bags": ()}, UsageError, "no bag"),
        ({"policy": "nobody"}, PolicyRefused, "nobody"),
        ({"rate": -1.0}, UsageError, "rate"),
    ):
        with pytest.raises(error, match=said):
            Replay(**({"bags": (tmp_path,), "policy": str(ARM), "beta": (0.1,)} | change)).run()


def test_a_damaged_bag_is_replayed_and_ends_with_code_3(bags, tmp_path):
    whole = next((bags / "bag_2").glob("*.mcap")).read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataLost, match="cut short") as lost:
        Replay(bags=(cut,), policy=str(ARM), beta=(0.1,)).run()
    assert lost.value.document["results"][0]["samples"] > 0
    assert cut.read_bytes() == whole[: len(whole) * 2 // 3]


def test_a_bag_that_never_gives_a_state_is_refused_with_the_reason(tmp_path):
    arm_bag(tmp_path / "bag", 30, stamped=lambda k: k + 200)  # stamped by another clock
    with pytest.raises(DataRefused, match="never driven.*STATE_"):
        Replay(bags=(tmp_path / "bag",), policy=str(ARM), beta=(0.1,)).run()


def test_silence_for_long_is_a_jump_and_costs_no_ticks(tmp_path):
    day = 24 * 3600 * 20
    with BagWriter(tmp_path / "bag", contract_sources(CONTRACT)) as bag:
        for k in (*range(30), *range(day, day + 30)):
            at = START + k * PERIOD
            for name, values in (
                ("joints", [-0.1, 0.8, 0, 0]), ("goal", [-0.65, 0]), ("obstacle", [0, 0.45]),
                ("arm", [0.1, 0.1]),
            ):  # fmt: skip
                bag.write(name, at, at, np.array(values, float))
    found = figures(Plan((ARM,), (0.1,)), tmp_path / "bag")
    assert found["jumps"] == 1 and 58 <= found["ticks"] <= 60
    assert set(found["results"][0]["seconds_not_driven"]) == {"HOLD CLOCK_JUMP"}


def test_every_figure_has_a_meaning_beside_it():
    from qgf_ros.replay.show import WHAT

    shown = {name for name in FIGURES if not name.startswith(("error_by_guidance_",))}
    assert shown - {"distance_unguided"} == set(WHAT)


def test_under_a_simulated_clock_that_clock_counts_not_the_time_of_receipt(tmp_path):
    """As `ros2 bag record` writes what qgf_sim says: received today, stamped in simulated time."""
    arm_bag(tmp_path / "bag", 40)
    events = [
        said._replace(at=said.at - START + 1000 * SECOND, stamp=said.stamp - START + 1000 * SECOND)
        for said in BagEvents(tmp_path / "bag", ".", CONTRACT)
    ]
    simulated(tmp_path / "sim", events)
    there = list(BagEvents(tmp_path / "sim", ".", CONTRACT))
    assert [s.at for s in there] == [s.at for s in events]
    found = figures(Plan((ARM,), (math.inf,)), tmp_path / "sim")
    assert found["results"][0]["samples"] == 8 and means(found)["held"] == 0


def simulated(path, events):
    """A bag that was received at a tenth of the pace, with /clock before every message."""
    writer = BagWriter(path, contract_sources(CONTRACT))
    with writer as bag:
        store, kind = bag._store, "rosgraph_msgs/msg/Clock"
        clock = bag._writer.add_connection("/clock", kind, typestore=store)
        for said in events:
            receipt = START + 10 * (said.at - 1000 * SECOND)
            now = store.types["builtin_interfaces/msg/Time"](*divmod(said.at, SECOND))
            raw = store.serialize_cdr(store.types[kind](now), kind)
            bag._writer.write(clock, receipt - 1, raw)
            stamp = said.stamp if CONTRACT_STAMPED.get(said.name) else receipt
            bag.write(said.name, stamp, receipt, said.values)


CONTRACT_STAMPED = {n: s.stamp == "header" for n, s in contract_sources(CONTRACT).items()}


def test_the_nodes_parameter_file_counts(bags, tmp_path):
    def replayed(**parameters):
        file = tmp_path / "node.yaml"
        file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
        return figures(Plan((ARM,), (0.03,), load_settings(file)), bags / "bag_0")

    plain = figures(Plan((ARM,), (0.03,)), bags / "bag_0")
    assert replayed(seed=0)["results"] == plain["results"] != replayed(seed=1)["results"]
    capped = replayed(guidance={"ratio_cap": 0.01}, num_candidates=2)
    assert capped["results"][0]["guards"] == {"ratio_cap": 6} and means(capped)["guarded"] == 1
    slow = replayed(limits_scale=0.1)
    assert means(slow)["limited"] > 0.5 and means(slow)["command_error"] > means(slow)["error"]
    for bad, said in (
        ({"sed": 1}, "unknown parameters sed"),
        ({"seed": 0.5}, "of type int"),
        ({"real_time_chunking": True}, "cannot repeat"),
        ({"limits_scale": 2}, "allowed: 0.01 to 1"),
        ({"guidance.ratio_cap": -1}, "allowed: 0 to inf"),
        ({"guidance.only": "arm.wrist"}, "planar_arm: guidance.only names arm.wrist"),
    ):
        with pytest.raises(UsageError, match=said):
            replayed(**bad)


STAMP = SimpleNamespace(sec=5, nanosec=0)
TICK = {
    "header": SimpleNamespace(stamp=STAMP), "tick": 1, "state": 4, "epoch": 1, "beta": 0.1, "chunk": 1,
    "topics": ["a", "b"], "stamps": [STAMP, STAMP], "names": ["arm.a"], "values": [0.5],
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": 99},
        {"state": 7},
        {"stamps": [STAMP]},
        {"values": [0.5, 0.5]},
        {"header": SimpleNamespace(stamp=SimpleNamespace(sec=-1, nanosec=0))},
        {"names": ["x"] * 5000, "values": [0.0] * 5000},
    ],
)
def test_what_only_calls_itself_a_tick_is_none(wrong):
    sound = read_tick(SimpleNamespace(**TICK))
    assert sound.stamps == {"a": 5 * SECOND, "b": 5 * SECOND} and sound.sent == {"arm.a": 0.5}
    with pytest.raises(SchemaError):
        read_tick(SimpleNamespace(**TICK | wrong))


def test_a_bag_without_ticks_meets_no_threshold_on_them(bags, tmp_path):
    rule = rules(tmp_path, {"figure": "command_difference", "max": 1})
    with pytest.raises(CriterionNotMet, match="command_difference = nan"):
        Replay(bags=(bags / "bag_0",), policy=str(ARM), beta=(0.1,), thresholds=rule).run()
