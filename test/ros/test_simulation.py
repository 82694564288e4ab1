"""qgf_sim as a robot on real topics, alone and with the node, on its own clock.

Pinned: episodes that depended on the machine's pace; a policy that met another control period at
another real-time factor; a simulation that died and looked like a robot that stands still.
"""

import json

import numpy as np
import pytest
import ros_harness as ros
from qgf_make import SCALE

RELIABLE = ros.QoSProfile(depth=1000) if not ros.MISSING else None
SIMULATED_NODE = {"policy": "planar_arm", "use_sim_time": True, "enable_on_start": True}


class Listener(ros.Wire):
    """Hears all that the simulation says."""

    def __init__(self, domain):
        super().__init__(domain, "listener", spin=False)
        self.rewards = self.record(ros.Float64, "reward", RELIABLE)
        self.successes = self.record(ros.Bool, "success", RELIABLE)
        self.starts = self.record(ros.Header, "episode_start", RELIABLE)
        self.clock = self.record(ros.Clock, "/clock", RELIABLE)
        self.goals = self.record(ros.PointStamped, "goal", RELIABLE)
        self.obstacles = self.record(ros.PointStamped, "obstacle", RELIABLE)
        self.joints = self.record(ros.JointState, "joint_states", RELIABLE)
        self.commands = self.node.create_publisher(
            ros.Float64MultiArray, "velocity_controller/commands", 1
        )
        self.begin()

    def hear_all(self, proc):
        """Until state comes. Ears are announced in the order of their making: the others hear too."""
        self.wait(
            lambda: self.joints and self.goals and self.obstacles and self.clock, 15, "state", proc
        )
        self.wait(
            lambda: self.commands.get_subscription_count() > 0, 10, "the simulation's ears", proc
        )

    def command(self, *values):
        self.commands.publish(ros.Float64MultiArray(data=list(values)))


def simulation(domain, **parameters):
    return ros.Proc([*ros.node_command("qgf_sim"), *ros.ros_args(**parameters)], domain)


class heard:
    """A listener that was there before the simulation said its first word."""

    def __init__(self, domain, **parameters):
        self.domain, self.parameters = domain, parameters

    def __enter__(self):
        self.listener = Listener(self.domain)
        self.proc = simulation(self.domain, **self.parameters)
        return self.proc, self.listener

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.proc.stop()
        finally:
            self.proc.close()
            self.listener.close()


def test_the_simulation_says_clock_state_reward_outcome_and_episode_starts(domain):
    # 500 messages a second: twice as many get lost on a busy machine, and they are counted here.
    with heard(domain, real_time_factor=5.0, seed=4) as (proc, hear):
        hear.hear_all(proc)
        hear.command(0.0, 0.0)
        hear.wait(lambda: len(hear.starts) >= 2, 15, "two episodes", proc)
        clock = [ros.ns(c.msg.clock) for c in hear.clock]
        assert clock == sorted(clock) and clock[0] >= 1000 * 10**9
        assert [s.msg.frame_id for s in hear.starts[:2]] == ["4", "5"]
        state = hear.joints[-1].msg
        assert (
            list(state.name) == ["shoulder", "elbow"]
            and len(state.position) == len(state.velocity) == 2
        )
        begin, end = (ros.ns(s.msg.stamp) for s in hear.starts[:2])
        # An arm that is never commanded stands until the time limit: no success, no failure.
        assert hear.successes == []
        assert 158 <= len([r for r in hear.rewards if r.at < hear.starts[1].at]) <= 162, (
            "one per period"
        )
        assert all(r.msg.data == pytest.approx(-0.1) for r in hear.rewards)
        joints = [s for j in hear.joints if begin <= (s := ros.ns(j.msg.header.stamp)) < end]
        goals = [s for g in hear.goals if begin <= (s := ros.ns(g.msg.header.stamp)) < end]
        # By their stamps: a busy machine loses some of 500 messages a second.
        often, seldom = (np.median(np.diff(stamps)) for stamps in (joints, goals))
        assert seldom == pytest.approx(5 * often, rel=0.01)
        assert end - begin == pytest.approx(8.4e9, rel=0.01), "8 s, and a pause of 0.4 s"


def test_the_simulation_waits_for_the_first_command(domain):
    with heard(domain, real_time_factor=10.0) as (proc, hear):
        hear.hear_all(proc)
        hear.wait(lambda: len(hear.joints) > 300, 15, "state", proc)
        assert hear.starts == []
        still = {tuple(j.msg.position) for j in hear.joints}
        assert len(still) == 1
        hear.command(0.5, 0.0)
        hear.wait(lambda: hear.starts, 5, "the first episode", proc)
        hear.wait(
            lambda: hear.joints[-1].msg.position[0] > hear.joints[0].msg.position[0] + 0.2,
            5,
            "motion",
            proc,
        )


def test_a_command_that_is_no_command_changes_nothing(domain):
    with heard(domain, real_time_factor=10.0) as (proc, hear):
        hear.hear_all(proc)
        for data in ([], [0.5], [0.5, 0.5, 0.5], [float("nan"), 0.0], [float("inf"), 0.0]):
            hear.command(*data)
        begin = len(hear.joints)
        hear.wait(lambda: len(hear.joints) > begin + 200, 5, "state", proc)
        assert hear.starts == [] and proc.running


def test_the_same_seed_gives_the_same_first_states(domain):
    first = []
    for seed in (7, 7, 8):
        with heard(domain, real_time_factor=10.0, seed=seed) as (proc, hear):
            hear.hear_all(proc)
            goal, post = hear.goals[-1].msg.point, hear.obstacles[-1].msg.point
            first.append((*hear.joints[0].msg.position, goal.x, goal.y, post.x, post.y))
    assert first[0] == first[1]
    assert first[0] != first[2]


def test_real_time_factor_3_is_three_times_as_fast(domain):
    with heard(domain, real_time_factor=3.0, wait_for_command=False) as (proc, hear):
        hear.wait(lambda: len(hear.clock) > 20, 10, "the clock", proc)
        begin = hear.clock[-1]

        def factor(since):
            now = hear.clock[-1]
            span = now.at - since.at
            return (ros.ns(now.msg.clock) - ros.ns(since.msg.clock)) * 1e-9 / span if span else 0.0

        def some_second_at_full_pace():
            now = hear.clock[-1]
            since = next(c for c in reversed(hear.clock) if now.at - c.at >= 1.0 or c is begin)
            return now.at - since.at >= 1.0 and 2.7 <= factor(since) <= 3.3

        # A busy machine is slower than asked for, and then says so by the clock; never faster.
        hear.wait(some_second_at_full_pace, 30, "a second at three times real time", proc)
        assert factor(begin) <= 3.3


@pytest.mark.parametrize(
    "bad",
    [{"world": "moon"}, {"real_time_factor": 0.0}, {"real_time_factor": -1.0}, {"real_time_factor": 1000.0}, {"real_time_factor": "fast"},
     {"real_time_factor": ".nan"}, {"real_time_factor": ".inf"}, {"seed": "one"}, {"episodes": 1.5}, {"wait_for_command": 1}],
    ids=repr,
)  # fmt: skip
def test_a_bad_parameter_ends_the_simulation_with_code_2(domain, bad):
    proc = ros.run_to_end([*ros.node_command("qgf_sim"), *ros.ros_args(**bad)], domain)
    assert proc.process.returncode == 2, proc.log
    assert proc.err[-1].startswith("qgf: error[2]: "), proc.log
    assert next(iter(bad)).split("_")[0] in proc.err[-1]
    assert "READY" not in "".join(proc.out)


@pytest.mark.parametrize("bad", [{"sed": 3}, {"seed": -1}, {"episodes": -1}], ids=repr)
def test_an_unknown_or_negative_parameter_ends_the_simulation_with_code_2(domain, bad):
    proc = simulation(
        domain, real_time_factor=100.0, wait_for_command=False, **({"episodes": 1} | bad)
    )
    try:
        assert proc.wait(20) == 2, proc.log
    finally:
        proc.close()


def test_the_installed_simulation_ends_after_its_episodes_and_writes_results(domain, tmp_path):
    results = tmp_path / "results.jsonl"
    parameters = {
        "real_time_factor": 50.0,
        "wait_for_command": False,
        "episodes": 2,
        "results": results,
        "seed": 3,
    }
    proc = ros.run_to_end([ros.installed("qgf_sim"), *ros.ros_args(**parameters)], domain)
    assert proc.process.returncode == 0, proc.log
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [3, 4]
    assert {line["outcome"] for line in lines} == {"time_out"}


@pytest.mark.parametrize(
    ("factors", "episodes"), [((0.3,), 2), ((1.0,), 2), ((3.0, 2.0, 1.5), 4)], ids=str
)
def test_the_policy_reaches_its_goal_at_any_real_time_factor(domain, tmp_path, factors, episodes):
    """The same policy, the same control period in simulated time; most episodes succeed. Faster than
    real time it is judged at the first factor that this machine has the time for."""
    for number, factor in enumerate(factors):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes, steps = played(domain, folder, factor, episodes * SCALE)
        on_grid = sum(s == 1 for s in steps) / len(steps)
        print(
            f"factor {factor}: {outcomes.count('success')} of {len(outcomes)} succeed, "
            f"{on_grid:.1%} of {len(steps)} steps are one period"
        )
        assert all(s == round(s) > 0 for s in steps), "between the periods, or back"
        assert len(outcomes) == episodes * SCALE
        if on_grid >= 0.9:
            break
    assert on_grid >= 0.9
    # Nine in ten succeed (README); half of a few is what chance will not miss.
    assert outcomes.count("success") >= 0.5 * len(outcomes)


def played(domain, folder, factor, episodes):
    """-> outcomes of so many episodes, and the steps of the commands' times, in control periods."""
    results = folder / "results.jsonl"
    deadline = 60 + 40 * episodes / factor
    listener = ros.FakeRobot(domain)  # listens, says nothing: it judges the commands
    node = ros.Proc([*ros.node_command(), *ros.ros_args(**SIMULATED_NODE)], domain, deadline=deadline)
    sim = None
    try:
        node.wait_line("qgf: READY")
        options = ros.ros_args(
            real_time_factor=factor, episodes=episodes, seed=100, results=results
        )
        sim = ros.Proc([*ros.node_command("qgf_sim"), *options], domain, deadline=deadline)
        assert sim.wait(30 + 12 * episodes / factor) == 0, sim.log
        outcomes = [json.loads(line)["outcome"] for line in results.read_text().splitlines()]
        at = [ros.ns(c.msg.execute_at) for c in listener.candidates]
        listener.refuse_violations()
        node.stop()
    finally:
        for proc in filter(None, (node, sim)):
            proc.close()
        listener.close()
    return outcomes, [(b - a) / (ros.PERIOD * 1e9) for a, b in zip(at, at[1:])]
