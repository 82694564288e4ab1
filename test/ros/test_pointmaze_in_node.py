"""A mobile base from recording to node by its contract alone: bags of Odometry and Twist become a
policy, and the real node drives the simulated base with Twist.

Not how well it drives (150 updates): that its commands are Twists along x and y within the limits,
that the base moves by them, and that odometry says so.
"""

import math

import pytest
import ros_harness as ros

from qgf_ros.sim.world import world_folder
from qgf_ros.spaces.contract import Contract

pytest.importorskip("ogbench")
CONTRACT = world_folder("pointmaze") / "contract.yaml"


class Listener(ros.Wire):
    """Hears what node and simulation say to each other."""

    def __init__(self, domain):
        from geometry_msgs.msg import Twist
        from nav_msgs.msg import Odometry

        super().__init__(domain, "listener", spin=False)
        reliable = ros.QoSProfile(depth=1000, reliability=ros.ReliabilityPolicy.RELIABLE)
        self.twists = self.record(Twist, "cmd_vel", reliable)
        self.odometry = self.record(Odometry, "odom", reliable)
        self.q_values = self.record(ros.QValues, "qgf/q_values", reliable)
        self.begin()

    def moved(self):
        """m, from where the base was first seen to where it was seen last."""
        if not self.odometry:
            return 0.0
        ends = (self.odometry[i].msg.pose.pose.position for i in (0, -1))
        return math.dist(*((p.x, p.y) for p in ends))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    from training.export import parity
    from training.export import write as export
    from training.learn.config import FitConfig
    from training.learn.fit import fit_episodes
    from training.pipeline.readers.load import load_episodes
    from training.pipeline.record import record

    folder = tmp_path_factory.mktemp("base")
    counts = record(folder / "bags", "pointmaze", 6)
    assert sum(counts.values()) == 6
    own = Contract.load(CONTRACT)
    episodes, _ = load_episodes(folder / "bags", own)
    assert len(episodes) == 6 and own.action_names == ("base.linear.x", "base.linear.y")
    config = FitConfig(hidden=(32, 32), steps=150, denoise_steps=2, workers=1)
    fitted = fit_episodes(episodes[:5], episodes[5:], own, folder / "run", config, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "ROUNDS", 1)  # its parity has tests of its own
        assert export.export(fitted.policy).largest_error <= 1
    return fitted.policy


def test_recorded_odometry_and_twist_become_a_policy_that_drives_by_twist(policy, domain):
    listener = Listener(domain)
    own = Contract.load(CONTRACT)
    limit = own.actions[0].limits["linear.x"]
    start = ros.ros_args(policy=policy, use_sim_time=True, enable_on_start=True)
    node = ros.Proc([*ros.node_command(), *start], domain)
    sim = None
    try:
        node.wait_line("qgf: READY")
        arguments = ros.ros_args(world="pointmaze", real_time_factor=3.0, seed=100)
        sim = ros.Proc([*ros.node_command("qgf_sim"), *arguments], domain)
        listener.wait(lambda: len(listener.q_values) >= 5, 20, "Q values", node)
        listener.wait(lambda: len(listener.twists) >= 30, 20, "twists", node)
        x, y = ([getattr(t.msg.linear, axis) for t in listener.twists] for axis in ("x", "y"))
        unused = [
            v for t in listener.twists
            for v in (t.msg.linear.z, t.msg.angular.x, t.msg.angular.y, t.msg.angular.z)
        ]  # fmt: skip
        assert not any(unused), "a holonomic base that is not told to turn"
        for axis in (x, y):
            assert all(limit.min <= v <= limit.max for v in axis)
            change = limit.rate * own.time.period + 1e-9
            assert all(abs(b - a) <= change for a, b in zip(axis, axis[1:]))
        assert max(map(abs, x + y)) > 0.1, "it wants to move"

        # Each topic is discovered by itself: that twists arrive says nothing about odometry.
        listener.wait(lambda: listener.moved() > 0.1, 20, "the base to move by its twists", sim)
        said = listener.odometry[-1].msg
        assert list(said.pose.covariance) == [0.0] * 36 and said.pose.pose.orientation.w == 1
        speeds = [o.msg.twist.twist.linear.x for o in listener.odometry]
        assert max(map(abs, speeds)) > 0.05 and max(map(abs, speeds)) < limit.max + 0.5
        print(f"{len(x)} twists, {listener.moved():.2f} m from where it was first seen")
        node.stop()
        sim.stop()
    finally:
        for proc in filter(None, (node, sim)):
            proc.close()
        listener.close()


def test_a_node_without_the_robots_messages_says_which_are_missing(policy, domain, tmp_path):
    """The offline side may read a type by the bag's definition; the robot needs the package."""
    import shutil

    from qgf_make import resign

    folder = tmp_path / "policy"
    shutil.copytree(policy, folder)
    file = folder / "policy.yaml"
    text = file.read_text()
    assert text.count("type: nav_msgs/Odometry") == 1
    file.write_text(text.replace("type: nav_msgs/Odometry", "type: acme_msgs/Odometry"))
    resign(folder)
    proc = ros.run_to_end([*ros.node_command(), *ros.ros_args(policy=folder)], domain)
    assert proc.process.returncode == 2, proc.log
    assert "acme_msgs/Odometry, which is not installed" in proc.err[-1], proc.log
