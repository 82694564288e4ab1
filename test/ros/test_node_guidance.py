"""Guidance on the wire: its weight moves little by little, a robot that it drives into its limits is
said, and guards that do not fit the policy are refused."""

import itertools
import math

import pytest
import ros_harness as ros

FLOOR = 0.014  # of the shipped policy
SLEW = 0.5  # s, the default
RATE = 2.0  # rad/s^2, tight: what the flow asks for from one chunk to the next is beyond it


def seconds(stamp):
    return stamp.sec + stamp.nanosec * 1e-9


def test_fault_029_from_infinity_to_the_floor_the_weight_is_slewed(domain, slow_policy):
    """Also the command's changes stay limited: the fake robot checks each one of them."""
    with ros.node_and_robot(domain, policy=slow_policy(RATE), rate=RATE, beta=".inf") as (
        proc,
        robot,
    ):
        robot.drive(proc)
        robot.wait(lambda: len(robot.q_values) >= 2, 5, "two chunks")
        began = len(robot.q_values)
        assert robot.set(beta=FLOOR)[0].successful
        robot.wait(lambda: robot.q_values[-1].msg.beta == FLOOR, 10, "the floor")
        chunks = [q.msg for q in robot.q_values[began - 1 :]]
        steps = []
        for a, b in itertools.pairwise(chunks):
            assert b.beta >= FLOOR
            if a.epoch != b.epoch:
                raise ros.TimedOut("a hold between two chunks")
            passed = seconds(b.header.stamp) - seconds(a.header.stamp)
            # Reported when the chunk was taken over, which may be two periods after it was asked,
            # and more on a machine that is busy.
            allowed = (passed + 2 * ros.PERIOD + ros.slack()) / SLEW / FLOOR
            steps.append((1 / b.beta - 1 / a.beta) / allowed)
            assert steps[-1] <= 1 + 1e-6
        print("shares of the allowed step:", [f"{s:.2f}" for s in steps])
        between = [q.beta for q in chunks if FLOOR < q.beta < math.inf]
        assert between, "it took more than one chunk"
        robot.wait(lambda: robot.statuses[-1].msg.beta == FLOOR, 5, "the status")


@pytest.mark.parametrize("beta", [str(FLOOR), ".inf"], ids=["guided", "unguided"])
def test_fault_028_at_the_limiter_by_guidance_is_a_warning_and_no_violation(
    domain, slow_policy, beta
):
    folder = slow_policy(RATE)
    with ros.node_and_robot(domain, policy=folder, rate=RATE, beta=beta) as (proc, robot):
        robot.drive(proc)
        warned = lambda s: any(w.startswith("GUIDANCE_SATURATED") for w in s.msg.warnings)  # noqa: E731
        if beta == ".inf":
            robot.wait_commands(40)
            robot.wait_statuses(3)
            assert robot.statuses[-1].msg.limit_hits > 8, "limited, but not by guidance"
            assert not any(map(warned, robot.statuses))
            return
        robot.wait(lambda: any(map(warned, robot.statuses)), 10, "the warning")
        first = next(s for s in robot.statuses if warned(s))
        began = seconds(robot.candidates[0].msg.header.stamp)
        print(f"warned {seconds(first.msg.header.stamp) - began:.2f} s after the first command")
        assert seconds(first.msg.header.stamp) - began <= 1.5 + ros.slack()


BAD = [
    {"guidance.only": "arm.wrist"},
    {"guidance.skip_first": 10},
    {"guidance.ratio_cap": -1.0},
    {"guidance.disagreement": math.nan},
]


def test_fault_031_guards_that_do_not_fit_change_nothing_and_those_that_do_act(domain):
    with ros.node_and_robot(domain, **{"guidance.slew": 0.0}) as (proc, robot):
        robot.drive(proc)
        names = ("beta", "guidance.only", "guidance.skip_first", "guidance.ratio_cap")
        before = robot.get(*names)
        for bad in BAD:
            result = robot.set_atomically(**({"beta": 0.05, "guidance.support": True} | bad))
            assert not result.successful and next(iter(bad)) in result.reason, result.reason
            assert robot.get(*names) == before and robot.get("guidance.support") == [False]
        good = {"guidance.ratio_cap": 0.01, "guidance.only": "arm.elbow"}
        result = robot.set_atomically(**good)
        assert result.successful, result.reason
        chunks = len(robot.q_values)
        robot.wait(lambda: len(robot.q_values) >= chunks + 3, 5, "chunks")
        last = robot.q_values[-1].msg
        assert "ratio_cap" in last.guards and 0 < last.guidance_ratio <= 0.0101


@pytest.mark.parametrize(
    "name, value, why",
    [("only", "arm.wrist", "arm.shoulder, arm.elbow"), ("skip_first", 10, "up to 9")],
)
def test_fault_033_guards_that_do_not_fit_the_policy_end_the_process_with_2(
    domain, name, value, why
):
    given = {"policy": "planar_arm", f"guidance.{name}": value}
    proc = ros.run_to_end([*ros.node_command(), *ros.ros_args(**given)], domain)
    assert proc.process.returncode == 2, proc.log
    assert f"guidance.{name}" in proc.err[-1] and why in proc.err[-1]
