"""A tool on poses, node and `qgf_gate` as processes: PoseStamped on the wire, in its frame, from where it is
measured. Pinned: what leads the arm stays in its limits and out of the table, also after kill -9."""

import contextlib
import signal
import threading
import time

import numpy as np
import pytest
import ros_harness as ros
from qgf_make import contract, write_tiny

T = ros.PERIOD
FIELDS = ["pose.position.x", "pose.position.y", "pose.position.z", "pose.orientation"]
HOME = [0.0, 1.0, 0.0, 0.0]
PLACE = [0.4, 0.0, 0.3]  # where it is measured at first
FAST, BRAKE = 0.5, 2.0  # m/s, m/s^2
TABLE = 0.05  # m


def pose_contract(**changes):
    place = {"min": -1.0, "max": 1.0, "rate": FAST, "acceleration": BRAKE}
    turn = {"min": -1.0, "max": 1.0, "rate": 1.0, "acceleration": 4.0}
    labels = [*FIELDS[:3], "rotation.x", "rotation.y", "rotation.z"]
    action = {
        "name": "arm", "topic": "target_frame", "type": "geometry_msgs/PoseStamped", "fields": FIELDS, "space": "pose",
        "representation": "delta_last", "axes": "base", "frame": "base_link", "home": HOME, "measured": {"pose": "tool"},
        "limits": {n: turn if "rotation" in n else place for n in labels},
        "workspace": {"keep_out": {"table": {"min": [-2, -2, -1], "max": [2, 2, TABLE]}}, "tilt": 0.8, "lag": 0.5},
    }  # fmt: skip
    return contract({
        "contract": 1, "robot": "arm", "time": {"period": T, "horizon": 4, "execute_steps": 4},
        "observations": [
            {"name": "tool", "topic": "tool/pose", "type": "geometry_msgs/PoseStamped", "fields": FIELDS,
             "encoding": "rot6d", "max_age": 0.15}
        ],
        "actions": [action | changes], "outcome": {"objective": "time_to_success", "assume_success": True},
    })  # fmt: skip


class Arm(ros.Wire):
    """Goes where it is told, and says at 100 Hz where it is."""

    def __init__(self, domain):
        from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion

        super().__init__(domain, "fake_tool", spin=False)
        reliable = ros.QoSProfile(depth=1000, reliability=ros.ReliabilityPolicy.RELIABLE)
        self.poses = self.record(PoseStamped, "target_frame", reliable)
        self.statuses = self.record(ros.Status, "qgf/status", reliable)
        self.gates = self.record(ros.Status, "qgf_gate/status", reliable)
        self._enable = self.node.create_client(ros.SetBool, "qgf/enable")
        publisher = self.node.create_publisher(PoseStamped, "tool/pose", ros.qos_profile_sensor_data)
        self._ending = threading.Event()

        def said():
            p = seven(self.poses[-1]) if self.poses else [*PLACE, *HOME]
            here = Pose(
                position=Point(**dict(zip("xyz", p[:3]))), orientation=Quaternion(**dict(zip("xyzw", p[3:])))
            )
            return PoseStamped(header=ros.Header(stamp=ros.time_msg(time.time_ns())), pose=here)

        def heart():
            while not self._ending.wait(0.01):
                publisher.publish(said())

        self._heart = threading.Thread(target=heart, name="fake-tool", daemon=True)
        self.begin()
        self._heart.start()

    def drive(self, proc):
        self.wait(lambda: self.statuses and self.statuses[-1].msg.state == ros.READY, 20, "READY", proc)
        answer = self.call(self._enable, ros.SetBool.Request(data=True))
        assert answer.success, answer.message
        began = len(self.poses)
        self.wait(lambda: len(self.poses) >= began + 20, 10, "20 poses", proc)

    def close(self):
        self._ending.set()
        self._heart.join(timeout=2.0)
        super().close()


def seven(arrived):
    p, q = arrived.msg.pose.position, arrived.msg.pose.orientation
    return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]


def check(arm):
    """Whatever happened: in its frame, orientations of length 1, no faster than its limits, over the table."""
    sent = np.array([seven(a) for a in arm.poses])
    assert {a.msg.header.frame_id for a in arm.poses} == {"base_link"}
    assert np.allclose(np.linalg.norm(sent[:, 3:], axis=1), 1)
    steps = np.abs(np.diff(np.vstack([[*PLACE, *HOME], sent])[:, :3], axis=0))
    assert (steps <= FAST * T + 1e-9).all(), "begins where it is measured"
    assert (sent[:, 2] > TABLE).all()
    return sent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    scale = {"action_center": (0.0, 0.0, -0.004, 0.0, 0.0, 0.0), "action_half_range": (0.02,) * 3 + (0.03,) * 3}
    own = pose_contract()
    from qgf_make import description

    write_tiny(folder, own, normalizer=description(own).normalizer | scale)
    return folder


def test_fault_074_184_poses_go_through_the_gate_and_it_holds_when_the_node_is_killed(domain, tiny):
    with contextlib.ExitStack() as stack:
        gate = ros.Proc([*ros.node_command("qgf_gate"), *ros.ros_args(policy=tiny)], domain, deadline=120.0)
        stack.callback(gate.close)
        gate.wait_line("qgf_gate: READY")
        arm = Arm(domain)
        stack.callback(arm.close)
        arm.wait(lambda: arm.gates and arm.node.count_publishers("target_frame"), 15, "the gate", gate)
        proc = ros.Proc([*ros.node_command(), *ros.ros_args(policy=tiny, gate="outside")], domain)
        stack.callback(proc.close)
        proc.wait_line("qgf: READY")
        arm.drive(proc)
        ros.watch_stalls()
        killed = proc.send(signal.SIGKILL)

        def stands():
            last = [seven(a) for a in arm.poses[-3:]]
            return len(last) == 3 and last[0] == last[1] == last[2] and arm.poses[-3].at > killed

        arm.wait(stands, 5, "a hold", gate)
        sent = check(arm)
        assert np.ptp(sent[:, :3], axis=0).max() > 0.01, "it moved"
        rest = next(a.at for a in arm.poses if seven(a) == seven(arm.poses[-1]) and a.at > killed)
        assert rest - killed <= 2 * T + 4 * T + FAST / BRAKE + ros.slack()
        arm.wait(lambda: arm.gates[-1].msg.reason == "CANDIDATES_STOPPED", 2, "the reason", gate)
        gate.stop()


def test_a_policy_that_leads_down_is_held_above_the_table(domain, tiny, tmp_path):
    from qgf_make import description

    own = pose_contract(representation="absolute", axes="")
    down = {"action_center": (0.4, 0.0, -0.5, 0.0, 0.0, 0.0), "action_half_range": (0.01,) * 6}
    write_tiny(tmp_path / "down", own, normalizer=description(own).normalizer | down)
    with contextlib.ExitStack() as stack:
        arm = Arm(domain)
        stack.callback(arm.close)
        proc = ros.Proc([*ros.node_command(), *ros.ros_args(policy=tmp_path / "down")], domain)
        stack.callback(proc.close)
        arm.wait(lambda: arm.statuses and arm.statuses[-1].msg.state == ros.READY, 20, "READY", proc)
        assert arm.call(arm._enable, ros.SetBool.Request(data=True)).success
        arm.wait(lambda: arm.statuses[-1].msg.reason == "WORKSPACE:arm", 10, "a hold before the table", proc)
        assert "is in table" in arm.statuses[-1].msg.detail
        sent = check(arm)
        assert sent[-1, 2] < PLACE[2] - 0.02, "it went down as far as it may"
        proc.stop()
