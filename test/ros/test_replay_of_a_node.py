"""A bag that the node recorded, replayed: the same chunks, the same commands.

Pinned: a replay whose ticks see other messages than the node's did, and so samples something else.
"""

import math
import time

import ros_harness as ros
from qgf_recorder import write_bag
from trajectory_msgs.msg import JointTrajectory

from qgf_ros.control.settings import resolve
from qgf_ros.control.supervisor import State
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import load_policy
from qgf_ros.replay.events import BagEvents
from qgf_ros.replay.node_messages import TICK
from qgf_ros.replay.recorded import Recorded
from qgf_ros.replay.run import Plan, document, replay

RELIABLE = ros.QoSProfile(depth=1000) if not ros.MISSING else None
ARM = find_policy("planar_arm")


def recorded(domain, folder, **parameters):
    """Drives through a change of beta and a hold; returns the bag."""
    heard = []

    def keeping(topic, make):
        def made(stamp):
            msg = make(stamp)
            heard.append((time.time_ns(), topic, type(msg), msg))
            return msg

        return made

    with ros.node_and_robot(domain, **parameters) as (proc, robot):
        robot.honest = {t: keeping(t, make) for t, make in robot.honest.items()}

        for kind, topic in ((ros.Tick, "qgf/ticks"), (JointTrajectory, "qgf/chunk")):
            robot.node.create_subscription(
                kind,
                topic,
                lambda raw, k=kind, t=topic: heard.append((time.time_ns(), t, k, raw)),
                RELIABLE,
                raw=True,
            )
        robot.wait(
            lambda: all(robot.node.count_publishers(t) for t in ("qgf/ticks", "qgf/chunk")),
            10, "the node's ticks", proc,
        )  # fmt: skip
        told = lambda: any(topic == "qgf/ticks" for _, topic, *_ in heard)  # noqa: E731
        robot.wait(told, 10, "a first tick", proc)
        robot.drive(proc)
        assert robot.set(beta=math.inf)[0].successful
        robot.wait_candidates(8)
        robot.hush("joint_states")
        robot.wait_state(ros.HOLD, proc=proc)
        robot.speak()
        robot.wait_state(ros.RUN, proc=proc)
        assert robot.set(beta=0.05)[0].successful
        robot.wait_candidates(12)
        time.sleep(0.2)  # what was told last is still on its way
    write_bag(folder / "bag", heard)
    return folder / "bag"


def test_chunks_and_commands_of_the_node_are_the_same_in_replay(domain, tmp_path):
    bag = recorded(domain, tmp_path, seed=5)
    plan = Plan((ARM,), (0.05,), {"seed": 5})
    played = replay(plan, [bag])
    found = played.sameness
    print(found)
    assert found.chunks >= 3 and found.chunks_same == found.chunks
    assert found.commands >= 15 and found.commands_same == found.commands
    assert found.command_difference <= 1e-6 and found.chunk_difference == 0
    assert document(plan, played, 0.0)["recorded_by_node"]["chunks"] == found.chunks
    # What makes it so is the seed and the observations, not luck.
    other = replay(Plan((ARM,), (0.05,), {"seed": 6}), [bag]).sameness
    assert other.chunks == found.chunks and other.chunks_same == 0
    joins_in_the_middle(bag)


def joins_in_the_middle(bag):
    """Who began to record in RUN has chunks to compare at once, and commands from the next RUN on."""
    policy = load_policy(ARM)
    events = list(BagEvents(bag, ".", policy.contract))
    running = [e.at for e in events if e.name == TICK and e.values.state is State.RUN]
    late = [e for e in events if e.at > running[2]]
    again = Recorded(policy, make_sampler(policy, device="cpu"), resolve({"seed": 5}, policy))
    list(again.watch(late))
    print(again.found)
    assert again.found.joined >= 1
    assert 0 < again.found.chunks == again.found.chunks_same
    assert 0 < again.found.commands == again.found.commands_same
