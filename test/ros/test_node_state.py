"""State that is missing, old or wrong: the robot comes to a stop, and says which topic it was.

Pinned: a policy fed with zeros for a stream that never came; joints read by position; an exception
that left a callback and ended the executor; a stop that was announced but not on the wire.
"""

import contextlib
import dataclasses
import math
import time

import pytest
import ros_harness as ros

from qgf_ros.files.share import share_folder
from qgf_ros.policy.description import Support
from qgf_ros.policy.folder import load_policy, write_policy

MAX_AGE = {"joint_states": 0.15, "goal": 0.5, "obstacle": 0.5}
T = ros.PERIOD


@pytest.fixture(scope="module")
def shared(module_domain):
    """One node for the tests that only break messages; another one if a test ended it."""
    with contextlib.ExitStack() as stack:
        pair = None

        def get():
            nonlocal pair
            if pair is None or not pair[0].running:
                stack.close()
                pair = stack.enter_context(ros.node_and_robot(module_domain))
            return pair

        yield get


@pytest.fixture
def driving(shared):
    """A node and a robot in RUN; every test begins with a reset."""
    proc, robot = shared()
    robot.speak()
    robot.frozen, robot.position = False, [-0.1, 0.8]
    assert robot.reset().success
    robot.drive(proc)
    yield proc, robot
    robot.speak()
    assert proc.running, proc.log
    robot.refuse_violations()


# Never complete.


def test_fault_001_no_state_at_all_waits_and_names_every_topic(domain):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.wait_state(ros.WAITING, 10, proc, reason="STATE_MISSING")
        answer = robot.enable()
        assert not answer.success and all(topic in answer.message for topic in ros.STATE_TOPICS)
        statuses = robot.wait_statuses(20)
        last = statuses[-1].msg
        assert {s.msg.state for s in statuses} == {ros.WAITING}
        assert last.reason == "STATE_MISSING:joint_states,goal,obstacle"
        assert list(last.topics) == list(ros.STATE_TOPICS) and all(map(math.isnan, last.topic_age))
        assert 15 <= 1 / ((statuses[-1].at - statuses[0].at) / 19) * 2 <= 25, "status at 10 Hz"
        entry = robot.wait(lambda: robot.diagnostics, 3, "diagnostics")[-1].msg.status[0]
        assert entry.level == b"\x01" and all(topic in entry.message for topic in ros.STATE_TOPICS)
        assert robot.commands == [] and robot.candidates == [] and robot.q_values == []


@pytest.mark.parametrize("missing", ros.STATE_TOPICS)
def test_fault_003_one_topic_missing_from_the_start_waits_and_names_it(domain, missing):
    with ros.node_and_robot(domain) as (proc, robot):
        robot.speak(*(t for t in ros.STATE_TOPICS if t != missing))
        robot.wait_state(ros.WAITING, 10, proc, reason=missing)
        robot.wait(
            lambda: robot.statuses[-1].msg.reason == f"STATE_MISSING:{missing}",
            5,
            "the one missing topic",
        )
        answer = robot.enable()
        assert not answer.success and missing in answer.message
        robot.wait_statuses(8)
        assert robot.state == ros.WAITING
        assert robot.commands == [] and robot.candidates == []
        robot.speak(missing)
        robot.wait_state(ros.READY, 5, proc)
        robot.wait_statuses(5)
        assert robot.state == ros.READY and robot.commands == [], (
            "a call that was refused is not remembered"
        )
        robot.enabled()
        robot.wait_commands(2)


# It stops.


@pytest.mark.parametrize(
    "topics", [ros.STATE_TOPICS, ("joint_states",), ("obstacle",)], ids="-".join
)
def test_fault_002_004_state_that_stops_brings_the_robot_to_rest_and_back(
    domain, slow_policy, topics
):
    rate = 10.0
    name = "joint_states" if "joint_states" in topics else topics[0]
    with ros.node_and_robot(domain, policy=slow_policy(rate), rate=rate) as (proc, robot):
        robot.drive(proc)
        robot.wait_commands(10)
        robot.wait(lambda: max(map(abs, robot.commands[-1].values)) > 0.6, 5, "a moving arm")
        stopped = robot.hush(*topics)
        held = robot.wait_state(ros.HOLD, 3, proc)
        assert held.msg.reason == f"STATE_STALE:{name}"
        assert [t for t in ros.STATE_TOPICS if t in held.msg.reason] == [name]

        silent_since = robot.wait_silence(0.4)
        last_policy = robot.candidates[-1].at
        allowed = MAX_AGE[name] + 2 * T
        print(
            f"last policy command {last_policy - stopped:.3f} s after the last state, allowed {allowed:.3f} s"
        )
        assert last_policy - stopped <= allowed + ros.slack()

        after = [c for c in robot.commands if c.at > last_policy + T / 2]
        before = next(c for c in reversed(robot.commands) if c.at <= last_policy + T / 2)
        speeds = [max(map(abs, c.values)) for c in (before, *after)]
        assert speeds == sorted(speeds, reverse=True), "only ever slower"
        assert after[-1].values == [0.0, 0.0]
        zero = next(c.at for c in after if c.values == [0.0, 0.0])
        print(
            f"at rest {zero - stopped:.3f} s after the last state, from {speeds[0]:.2f} rad/s; silent {silent_since - last_policy:.3f} s later"
        )
        assert zero - stopped <= allowed + speeds[0] / rate + T + ros.slack()
        assert 1.0 - 2 * T <= silent_since - last_policy <= 1.0 + 2 * T
        robot.wait_statuses(3)
        assert robot.state == ros.HOLD, "the status goes on"

        count = len(robot.candidates)
        back = time.monotonic()
        robot.speak(*topics)
        robot.wait_state(ros.RUN, 3, proc)
        first = robot.wait(lambda: robot.candidates[count:], 2, "commands again")[0].at
        print(f"commands again after {first - back:.3f} s")
        assert first - back >= 9 * T - ros.slack(), "ten healthy ticks first"
        assert first - back <= 20 * T
        robot.wait_commands(5)  # the first ones within the rate: the robot judges


# Messages that cannot be used.


def nan_state(robot, value):
    def make(stamp):
        msg = robot.joint_state(stamp)
        msg.position = [value, msg.position[1]]
        return msg

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fault_007_008_one_nonfinite_message_changes_nothing(driving, value):
    proc, robot = driving
    dropped = robot.statuses[-1].msg.dropped
    commands, statuses = len(robot.commands), len(robot.statuses)
    bad = nan_state(robot, value)
    said = []

    def once(stamp):
        # Only the latest is kept: on a busy machine the good one after it may take its place.
        if robot.statuses[-1].msg.dropped == dropped and (not said or stamp - said[-1] > 3e8):
            said.append(stamp)
            return bad(stamp)
        return robot.joint_state(stamp)

    robot.say["joint_states"] = once
    robot.wait(lambda: robot.statuses[-1].msg.dropped > dropped, 5, "one dropped message")
    robot.wait_commands(10)
    at = [c.at for c in robot.commands[commands:]]
    gap = max(b - a for a, b in zip(at, at[1:]))
    print(f"largest gap {gap * 1e3:.1f} ms")
    assert gap <= 2 * T + ros.slack()
    assert {s.msg.state for s in robot.statuses[statuses:]} == {ros.RUN}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fault_007_008_nonfinite_for_ever_is_a_hold(driving, value):
    proc, robot = driving
    good = time.monotonic()
    robot.say["joint_states"] = nan_state(robot, value)
    held = robot.wait_state(ros.HOLD, 3, proc, reason="joint_states")
    robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")
    print(
        f"{held.msg.reason}; last policy command {robot.candidates[-1].at - good:.3f} s after the last good state"
    )
    assert robot.candidates[-1].at - good <= MAX_AGE["joint_states"] + 2 * T + 2 * ros.slack()


def test_fault_007_the_reason_of_the_hold_is_nonfinite(driving):
    proc, robot = driving
    robot.say["joint_states"] = nan_state(robot, math.nan)
    robot.wait_state(ros.HOLD, 3, proc, reason="NONFINITE")


@pytest.mark.parametrize("value", [1e308, -1e308, 1e30])
def test_fault_008_a_huge_number_never_gets_onto_the_wire(driving, value):
    proc, robot = driving
    lines = len(proc.err)
    robot.say["joint_states"] = nan_state(robot, value)
    robot.wait(lambda: robot.state in (ros.HOLD, ros.FAULT), 3, "a stop", proc)
    robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")
    robot.wait_statuses(5)
    print(robot.statuses[-1].msg.reason, proc.err[lines:])
    assert len(proc.err) - lines < 10, "no spam"


def test_fault_008_denormal_numbers_are_numbers(driving):
    proc, robot = driving
    statuses = len(robot.statuses)
    robot.say["joint_states"] = nan_state(robot, 5e-324)
    robot.wait_commands(10)
    assert {s.msg.state for s in robot.statuses[statuses:]} == {ros.RUN}


def broken(name=("shoulder", "elbow"), position=(0.1, 0.8), velocity=(0.0, 0.0)):
    def make(stamp):
        header = ros.Header(stamp=ros.time_msg(stamp))
        return ros.JointState(
            header=header, name=list(name), position=list(position), velocity=list(velocity)
        )

    return make


WRONG = {
    "010 missing joint": broken(("shoulder",), (0.1,), (0.0,)),
    "010 renamed joint": broken(("shoulder", "elbow_joint")),
    "011 duplicate joint": broken(("shoulder", "shoulder")),
    "011 duplicate beside the right ones": broken(
        ("shoulder", "elbow", "elbow"), (0.1, 0.8, 0.9), (0.0, 0.0, 0.0)
    ),
    "012 empty": broken((), (), ()),
    "012 one position too few": broken(position=(0.1,)),
    "012 one position too many": broken(position=(0.1, 0.2, 0.3)),
    "012 a million positions": broken(position=[0.1] * 10**6),
    "012 no names": broken(name=()),
    "013 no velocities": broken(velocity=()),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_fault_010_to_013_a_state_of_the_wrong_schema_is_a_hold(driving, make):
    proc, robot = driving
    memory = resident_mb(proc)
    robot.say["joint_states"] = make
    held = robot.wait_state(
        ros.HOLD, 10, proc, reason="STATE_SCHEMA:joint_states"
    )  # 8 MB take a while
    print(held.msg.detail)
    robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")
    candidates = len(robot.candidates)
    robot.wait_statuses(5)
    assert len(robot.candidates) == candidates
    assert resident_mb(proc) - memory < 50


def resident_mb(proc):
    with open(f"/proc/{proc.process.pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS")).split()[1]) / 1024


def test_fault_017_a_stamp_in_the_future_is_not_fresh(driving):
    proc, robot = driving
    robot.say["joint_states"] = lambda stamp: robot.joint_state(stamp + 10**10)
    robot.wait_state(ros.HOLD, 3, proc, reason="STATE_FUTURE:joint_states")


# Messages that are good one by one.


def test_fault_005_a_topic_of_another_moment_is_a_hold_and_recovers(driving):
    """The obstacle may be 0.5 s old; 0.2 s behind the others when it comes is no delay of its own."""
    proc, robot = driving
    said = []

    def late(stamp):
        said.append(time.monotonic())
        return ros.point(stamp - 200_000_000, 0.0, 0.45)

    robot.say["obstacle"] = late
    held = robot.wait_state(ros.HOLD, 3, proc)
    assert held.msg.reason == "STATE_SKEW:obstacle"
    assert "behind the newest topic, allowed 0.167 s" in held.msg.detail
    robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")
    last = robot.candidates[-1].at - said[0]
    print(f"last policy command {last:.3f} s after the first obstacle of another moment")
    # Until a late stamp is newer than the last one in time, it is dropped as any older one.
    assert last <= 0.2 + 2 * T + ros.slack()
    robot.speak("obstacle")
    robot.wait_state(ros.RUN, 3, proc)


def test_fault_006_numbers_that_stand_still_in_motion_are_a_warning(driving):
    proc, robot = driving
    frozen, said = time.monotonic(), len(robot.stamps["joint_states"])
    robot.freeze()

    def warned():
        return [
            s
            for s in robot.statuses
            if s.at > frozen and any("FROZEN:joint_states" in w for w in s.msg.warnings)
        ]

    first = robot.wait(warned, 5, "the warning", proc)[0]
    print(f"warned {first.at - frozen:.3f} s after the numbers froze: {list(first.msg.warnings)}")
    assert first.at - frozen <= 0.5 + 2 * T + 0.1 + 2 * ros.slack(), "half a second, and a status"
    states = {s.msg.state for s in robot.statuses if s.at > frozen}
    assert states == {ros.RUN} or robot.fell_silent(said), "a warning alone"
    robot.frozen = False
    robot.wait(lambda: not robot.statuses[-1].msg.warnings, 3, "the end of the warning", proc)


def test_fault_016_stamps_of_zero_count_by_arrival_and_are_said_once(domain):
    """A node of its own: what is said once per process would not be said to a second run."""
    with ros.node_and_robot(domain) as (proc, robot):
        robot.drive(proc)
        statuses, states = len(robot.statuses), len(robot.stamps["joint_states"])
        robot.say["joint_states"] = lambda stamp: robot.joint_state(0)

        def said():
            return [
                any("STAMP_ZERO:joint_states" in w for w in s.msg.warnings)
                for s in robot.statuses[statuses:]
            ]

        robot.wait(lambda: any(said()), 3, "the warning", proc)
        robot.wait(lambda: not said()[-1], 3, "the end of the warning", proc)
        robot.wait_candidates(10)
        if not robot.fell_silent(states):
            assert {s.msg.state for s in robot.statuses[statuses:]} == {ros.RUN}
            assert max(robot.statuses[-1].msg.topic_age) < 0.2


def test_fault_018_older_and_repeated_stamps_are_dropped_and_nothing_else_happens(driving):
    proc, robot = driving
    dropped, statuses, count = robot.statuses[-1].msg.dropped, len(robot.statuses), 0
    honest = robot.stamps["joint_states"][-1]

    def make(stamp):
        nonlocal count, honest
        count += 1
        if count % 3 == 1:  # where the arm was not: it may not be used
            older = robot.joint_state(honest - 100_000_000)
            older.position = [3.0, -3.0]
            return older
        if count % 3:
            honest = stamp
        return robot.joint_state(honest)

    robot.say["joint_states"] = make
    robot.wait_candidates(20)
    assert robot.statuses[-1].msg.dropped - dropped >= 10
    assert {s.msg.state for s in robot.statuses[statuses:]} == {ros.RUN}
    assert all(max(s.msg.topic_age) < 0.2 for s in robot.statuses[statuses:])


# Far from what was recorded.


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """The shipped policy with a box of three standard deviations, and where its numbers lie."""
    policy = load_policy(share_folder() / "config" / "policies" / "planar_arm")
    d, box = policy.description, (3.0,) * policy.obs_dim
    states = Support(tuple(-x for x in box), box)
    folder = tmp_path_factory.mktemp("policy") / "boxed"
    tensors = {d.velocity.file: policy.velocity, d.critic.file: policy.critic}
    write_policy(
        folder, dataclasses.replace(d, states=states), tensors, {"sampler.onnx": policy.onnx}
    )
    return folder, policy.normalizer


def test_fault_014_015_a_state_that_was_never_recorded_is_a_hold_within_two_periods(domain, boxed):
    folder, normalizer = boxed
    with ros.node_and_robot(domain, policy=folder) as (proc, robot):
        robot.drive(proc)
        assert 0 <= robot.statuses[-1].msg.state_score < 1

        def beyond(stamp):  # twelve standard deviations
            msg = robot.joint_state(stamp)
            far = float(normalizer.obs_mean[1] + 12 * normalizer.obs_std[1])
            msg.position = [msg.position[0], far]
            return msg

        def degrees(stamp):
            msg = robot.joint_state(stamp)
            msg.position = [math.degrees(p) for p in (msg.position[0], 0.8)]
            return msg

        for make, label in ((beyond, "elbow"), (degrees, "")):
            begun = time.monotonic()
            robot.say["joint_states"] = make
            held = robot.wait_state(ros.HOLD, 3, proc)
            assert held.msg.reason.startswith(f"STATE_OOD:joints.position.{label}")
            last = robot.candidates[-1].at - begun
            print(f"{held.msg.detail}; last policy command {last:.3f} s after the first such state")
            assert last <= 3 * T + ros.slack() and held.msg.state_score > 1
            robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")
            robot.speak("joint_states")
            robot.wait_state(ros.RUN, 3, proc)
            robot.wait_candidates(3)


def test_fault_006_014_bounds_off_and_frozen_sensors_on_by_parameters(domain, boxed):
    folder, normalizer = boxed
    with ros.node_and_robot(domain, policy=folder, state_bound=math.inf, hold_if_frozen=True) as (
        proc,
        robot,
    ):
        robot.drive(proc)
        far = float(normalizer.obs_mean[4] + 12 * normalizer.obs_std[4])
        robot.say["goal"] = lambda stamp: ros.point(stamp, far, 0.0)
        warned = robot.wait(
            lambda: [s for s in robot.statuses if any("OOD:goal.point.x" in w for w in s.msg.warnings)],
            3, "the warning", proc,
        )[0]  # fmt: skip
        robot.wait_candidates(5)
        assert warned.msg.state == robot.state == ros.RUN and warned.msg.state_score > 1
        robot.speak("goal")
        robot.freeze()
        robot.wait_state(ros.HOLD, 5, proc, reason="STATE_FROZEN:joint_states")
        robot.wait(lambda: robot.commands[-1].values == [0.0, 0.0], 2, "rest")


# Joints in another order: the same commands. Stamps, and so the noise, are scripted.


def scripted_run(domain, order):
    """Thirty periods of scripted state and clock, each step only when the node has taken the last
    one; returns the commands by their time and the Q of each chunk."""
    with ros.node_and_robot(domain, use_sim_time=True, seed=3) as (proc, robot):
        robot.frozen = True  # its own thread moves the joints too, else, beneath the script
        clock = robot.node.create_publisher(ros.Clock, "/clock", 10)
        ears = (clock, *robot.publishers.values())
        robot.wait(lambda: all(p.get_subscription_count() > 0 for p in ears), 10, "ears", proc)
        period, start, enable_at = 50_000_000, 1000 * 10**9, 6
        for k in range(36):
            robot.position = [0.3 * math.sin(0.1 * k), 0.8 + 0.2 * math.cos(0.1 * k)]
            robot.velocity = [0.5 * math.cos(0.1 * k), -0.3 * math.sin(0.1 * k)]
            now = start + k * period + 20_000_000
            swapped = (1, 0) if order == "permuted" and k % 3 else (0, 1)
            said = [
                (clock, ros.Clock(clock=ros.time_msg(now))),
                (robot.publishers["goal"], ros.point(now, -0.65, 0.0)),
                (robot.publishers["obstacle"], ros.point(now, 0.0, 0.45)),
                (robot.publishers["joint_states"], robot.joint_state(now, swapped)),
            ]
            next_say = 0.0

            def taken(now=now, said=said):
                """Says it again every 0.3 s: the node may not have known of the publisher yet."""
                nonlocal next_say
                if time.monotonic() >= next_say:
                    next_say = time.monotonic() + 0.3
                    for publisher, msg in said:
                        publisher.publish(msg)
                status = robot.statuses[-1].msg if robot.statuses else None
                return (
                    status and ros.ns(status.header.stamp) == now and set(status.topic_age) == {0.0}
                )

            robot.wait(taken, 10, f"the node to have the state of period {k}", proc)
            if k == enable_at:
                robot.enabled()
            tick = start + (k + 1) * period
            clock.publish(ros.Clock(clock=ros.time_msg(tick)))
            if k >= enable_at:

                def commanded(tick=tick):
                    return robot.candidates and ros.ns(robot.candidates[-1].msg.execute_at) == tick

                robot.wait(commanded, 3, f"the command of period {k}", proc)
        late = robot.wait_statuses(2)[-1].msg.overruns
        if late:  # half a period of real time is all that a tick waits for its sample
            raise ros.TimedOut(f"this machine let the sampler be late in {late} ticks")
        commands = {ros.ns(c.msg.execute_at): list(c.msg.values) for c in robot.candidates}
        q = {ros.ns(v.msg.observation_stamp): v.msg.q_sampled for v in robot.q_values}
    return commands, q


def test_fault_009_permuted_joints_give_the_same_commands(domain):
    straight, q = scripted_run(domain, "straight")
    permuted, q_permuted = scripted_run(domain, "permuted")
    assert straight.keys() == permuted.keys() and len(straight) == 30
    assert q.keys() == q_permuted.keys() and len(q) == 6
    worst = max(abs(a - b) for t in straight for a, b in zip(straight[t], permuted[t]))
    print(f"{len(straight)} commands of {len(q)} chunks, largest difference {worst:g}")
    assert max(abs(q[t] - q_permuted[t]) for t in q) <= 1e-6
    assert worst <= 1e-6
