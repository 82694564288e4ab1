"""A robot that sees, on the wire: cameras, `qgf_encoder` and the node, and everything that goes wrong between
them. The arm is the fake robot's; its camera is this file's."""

import contextlib
import dataclasses
import json
import shutil
import signal
import sys
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import png_bombs as bombs
import pytest
import ros_harness as ros
from sros2_policy import RIGHTS, allowed

torch = pytest.importorskip("torch")

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from qgf_ros.images.encoder import CameraEncoder  # noqa: E402
from qgf_ros.policy.folder import describe_anew, load_policy  # noqa: E402
from qgf_ros.sim.world import world_folder  # noqa: E402

pytestmark = pytest.mark.xdist_group("export")  # whose worker has what training imports
RNG = np.random.default_rng(2)
PICTURE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
CAMERA = str(Path(ros.__file__).with_name("camera_process.py"))
HIGH, LEAST = 3.0, 20  # s until the node has noticed; commands in a row


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Two policies of the arm with a camera, `one` and `two`, which have learnt for a moment."""
    from training.learn.config import FitConfig
    from training.learn.fit import fit
    from training.pipeline.record import record

    folder = tmp_path_factory.mktemp("seeing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGF_CACHE", str(folder / "cache"))
        record(folder / "bags", "planar_arm_camera", 8)
        contract = world_folder("planar_arm_camera") / "contract.yaml"
        tiny = FitConfig(hidden=(16,), steps=20, batch=16, workers=1, critic="monte_carlo")
        fit(folder / "bags", contract, folder / "run", tiny)
    for name in ("one", "two"):
        shutil.copytree(folder / "run" / "policy", folder / "policies" / name)
    two = load_policy(folder / "policies" / "two")
    describe_anew(two, dataclasses.replace(two.description, description="The other one."), None)
    return folder / "policies"


class Seen:
    """A camera that publishes what `picture` says, 20 times a second, in a thread of its own."""

    def __init__(self, robot, kind=Image, topic="top/image_raw", reliable=True, stamped=True):
        quality = ros.QoSProfile(
            depth=1,
            reliability=ros.ReliabilityPolicy.RELIABLE if reliable else ros.ReliabilityPolicy.BEST_EFFORT,
        )
        self.publisher = robot.node.create_publisher(kind, topic, quality)
        self.picture = self.image(PICTURE)
        self.stamps, self.stamped = [], stamped
        self.ahead = 0  # s, its clock
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    @staticmethod
    def image(pixels, encoding="rgb8", data=None):
        height, width = pixels.shape[:2]
        return lambda: Image(
            height=height, width=width, encoding=encoding, step=width * pixels.shape[2],
            data=array("B", pixels.tobytes() if data is None else data),
        )  # fmt: skip

    def _publish(self):
        while not self._ending.wait(0.05):
            msg = self.picture()
            if msg is not None:
                stamp = time.time_ns() + self.ahead * 10**9
                if self.stamped:
                    msg.header.stamp = ros.time_msg(stamp)
                self.stamps.append(stamp)
                self.publisher.publish(msg)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join(2.0)


@contextlib.contextmanager
def process(command, domain):
    """Obeys SIGTERM in the end, unless it has ended by itself."""
    proc = ros.Proc(command, domain)
    try:
        yield proc
        proc.stop()
    finally:
        proc.close()


def encoder(domain, policy, **parameters):
    command = ros.node_command("qgf_encoder") + ros.ros_args(policy=policy, **parameters)
    return process(command, domain)


def node(domain, policy, **parameters):
    return process(ros.node_command() + ros.ros_args(policy=policy, **parameters), domain)


@contextlib.contextmanager
def robot_on(domain):
    robot = ros.FakeRobot(domain)
    try:
        yield robot
    finally:
        robot.close()


@contextlib.contextmanager
def everybody(domain, policies, **camera):
    """-> robot, camera, encoder's process, node's process, what the encoder says; the arm is driven."""
    policy = policies / "one"
    with robot_on(domain) as robot, Seen(robot, **camera) as seen:
        features = robot.record(ros.Features, "qgf_encoder/top", ros.QoSProfile(depth=100))
        robot.speak("joint_states")
        with encoder(domain, policy) as eye, node(domain, policy) as proc:
            robot.wait_state(ros.READY, 20, proc)
            robot.drive(proc)
            yield robot, seen, eye, proc, features
            robot.refuse_violations()


def test_features_are_those_of_the_image_at_its_capture_and_the_arm_is_driven(domain, policies):
    with everybody(domain, policies) as (robot, seen, eye, proc, features):
        robot.wait_commands(LEAST, 10)
        policy = load_policy(policies / "one")
        expected = CameraEncoder(policy, "top").features(PICTURE)
        said = features[-1].msg
        assert ros.ns(said.header.stamp) in seen.stamps, "the stamp is the image's"
        assert (said.camera, said.policy, said.reason) == ("top", policy.sha256, "")
        assert np.array_equal(np.array(said.values, np.float32), expected)
        robot.wait(lambda: [s for s in eye_says(robot) if s.level == b"\0"], 5, "diagnostics of the camera")
        eye.send(signal.SIGTERM)
        assert eye.wait(5.0) == 0


def eye_says(robot):
    return [s for d in robot.diagnostics for s in d.msg.status if s.name == "qgf_encoder: top"]


BLACK = np.zeros_like(PICTURE)
WRONG = {
    "IMAGE_BLACK": (Seen.image(BLACK), "brightest pixel is 0"),
    "IMAGE_SIZE": (Seen.image(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)), "64 x 48 pixels, and the policy was trained on 64 x 64"),
    "IMAGE_ENCODING": (Seen.image(PICTURE, "yuv444"), "encoding 'yuv444'; readable: rgb8"),
    "IMAGE_DAMAGED": (Seen.image(PICTURE, data=PICTURE.tobytes()[:5000]), "5000 bytes for 64 x 64 pixels"),
    "IMAGE_MISSING": (lambda: None, "no image on top/image_raw"),
}  # fmt: skip


def test_fault_158_what_is_wrong_with_an_image_is_a_hold_with_its_reason_and_ends_with_it(domain, policies):
    with everybody(domain, policies) as (robot, seen, _, proc, _):
        for code, (picture, detail) in WRONG.items():
            # In RUN the first; three holds within 10 s are a fault of their own.
            in_run = code == next(iter(WRONG))
            seen.picture = picture
            said = robot.wait_state(ros.HOLD if in_run else ros.WAITING, HIGH, proc, reason=code)
            robot.wait(lambda d=detail: d in robot.statuses[-1].msg.detail, HIGH, detail, proc)
            assert said.msg.reason.endswith(":qgf_encoder/top")
            robot.wait(
                lambda c=code: any(c in s.message for s in eye_says(robot)), 5, "diagnostics", proc
            )
            seen.picture = seen.image(PICTURE)
            robot.wait_state(ros.RUN if in_run else ros.READY, 5, proc)
            if in_run:
                assert robot.enable(False).success
                robot.wait_state(ros.READY, 5, proc)


def test_fault_158_one_damaged_image_among_sound_ones_is_no_hold(domain, policies):
    torn = Seen.image(PICTURE, data=PICTURE.tobytes()[:5000])
    with everybody(domain, policies) as (robot, seen, _, proc, _):
        robot.wait_commands(LEAST, 10)
        count, good = [0], seen.picture

        def sometimes():
            count[0] += 1
            return torn() if count[0] % 4 == 0 else good()

        begin = len(robot.statuses)
        seen.picture = sometimes
        robot.wait_commands(2 * LEAST, 10)
        assert all(s.msg.state == ros.RUN for s in robot.statuses[begin:]) or ros.stalled(0.05)


def test_fault_159_a_camera_that_nobody_publishes_is_named_and_keeps_the_node_out_of_run(domain, policies):
    with robot_on(domain) as robot:
        robot.speak("joint_states")
        with encoder(domain, policies / "one"), node(domain, policies / "one") as proc:
            waiting = robot.wait_state(ros.WAITING, 15, proc, reason="IMAGE_MISSING")
            assert "top/image_raw, and nobody publishes it" in waiting.msg.detail
            assert not robot.enable().success and not robot.commands


def test_fault_160_an_encoder_that_dies_is_a_hold_and_a_new_one_is_heard(domain, policies):
    with everybody(domain, policies) as (robot, _, eye, proc, _):
        robot.wait_commands(LEAST, 10)
        eye.send(signal.SIGKILL)
        robot.wait_state(ros.HOLD, HIGH, proc, reason="STATE_STALE:qgf_encoder/top")
        with encoder(domain, policies / "one"):
            robot.wait_state(ros.RUN, 20, proc)
            robot.wait_commands(LEAST, 10)


def test_fault_161_features_of_another_policy_move_nothing(domain, policies):
    with robot_on(domain) as robot, Seen(robot):
        robot.speak("joint_states")
        with encoder(domain, policies / "two"), node(domain, policies / "one") as proc:
            waiting = robot.wait_state(ros.WAITING, 15, proc, reason="FEATURES_POLICY")
            assert load_policy(policies / "one").sha256[:12] in waiting.msg.detail
            assert not robot.commands


def test_fault_162_a_swap_takes_policy_and_encoder_together_or_neither(domain, policies):
    with everybody(domain, policies) as (robot, _, eye, proc, features):
        robot.wait_commands(LEAST, 10)
        begin = len(robot.statuses)
        answer = robot.load_policy("two")
        assert answer.success, answer.message
        two = load_policy(policies / "two").sha256
        robot.wait(lambda: features[-1].msg.policy == two, 5, "features for the new policy", proc)
        robot.wait_commands(LEAST, 10)
        assert all(s.msg.state == ros.RUN for s in robot.statuses[begin:]) or ros.stalled(0.05)
        late = len(features)
        robot.wait(lambda: len(features) > late + 10, 5, "more features")
        assert {f.msg.policy for f in features[late + 2 :]} == {two}, "the old one is not encoded any more"
        eye.send(signal.SIGKILL)
        eye.wait(5.0)
        robot.wait_state(ros.HOLD, HIGH, proc)
        answer = robot.load_policy("one")
        assert not answer.success and "no qgf_encoder is there" in answer.message
        assert answer.sha256 == two, "nothing was swapped"


@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "best effort"])
def test_a_camera_is_heard_with_the_qos_that_it_offers(domain, policies, reliable):
    with everybody(domain, policies, reliable=reliable) as (robot, *_):
        robot.wait_commands(5, 10)


def compressed(policies, folder):
    """`one`, whose camera is compressed."""
    import yaml

    shutil.copytree(policies / "one", folder)
    policy = load_policy(folder)
    told = yaml.safe_load(yaml.safe_dump(policy.description.contract))
    told["observations"][1] |= {"type": "sensor_msgs/CompressedImage", "topic": "top/compressed"}
    describe_anew(policy, dataclasses.replace(policy.description, contract=told), None)
    return folder


def packed(data, said="jpeg"):
    return lambda: CompressedImage(format=said, data=array("B", data))


def jpeg():
    import simplejpeg

    return simplejpeg.encode_jpeg(PICTURE)


@contextlib.contextmanager
def driven_compressed(domain, policies, folder):
    """-> robot, camera, encoder's process, node's process."""
    policy = compressed(policies, folder)
    with robot_on(domain) as robot, Seen(robot, CompressedImage, "top/compressed") as seen:
        seen.picture = packed(jpeg())
        robot.speak("joint_states")
        with encoder(domain, policy) as eye, node(domain, policy) as proc:
            robot.wait_state(ros.READY, 20, proc)
            robot.drive(proc)
            yield robot, seen, eye, proc
            robot.refuse_violations()


def test_a_compressed_camera_is_encoded_too(domain, policies, tmp_path):
    with driven_compressed(domain, policies, tmp_path / "jpeg") as (robot, *_):
        robot.wait_commands(LEAST, 10)


def refused_one_after_another(robot, seen, eye, proc, evil):
    """Each is a hold with its reason, sound images after it are heard, and the encoder is the same process."""
    good = seen.picture
    for name, (picture, code, detail) in evil.items():
        in_run = name == next(iter(evil))  # three holds within 10 s are a fault of their own
        seen.picture = picture
        robot.wait_state(ros.HOLD if in_run else ros.WAITING, HIGH, proc, reason=code)
        robot.wait(lambda d=detail: d in robot.statuses[-1].msg.detail, HIGH, f"{name}: {detail}", proc)
        assert len(robot.statuses[-1].msg.detail) < 1000
        seen.picture = good
        robot.wait_state(ros.RUN if in_run else ros.READY, 5, proc)
        if in_run:
            assert robot.enable(False).success
            robot.wait_state(ros.READY, 5, proc)
    assert eye.running and memory(eye) < 2**30, "whatever it was sent"


def memory(proc):
    """The most that a process has had so far, in bytes."""
    (line,) = [n for n in open(f"/proc/{proc.process.pid}/status") if n.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def claiming(**fields):
    def picture():
        msg = Seen.image(PICTURE)()
        for name, value in fields.items():
            setattr(msg, name, value)
        return msg

    return picture


def test_fault_170_raw_images_that_claim_more_than_they_hold(domain, policies):
    evil = {
        "high": (claiming(height=10_000), "IMAGE_DAMAGED", "12288 bytes for 64 x 10000 pixels"),
        "step": (claiming(step=2**32 - 1), "IMAGE_DAMAGED", "in rows of 4294967295"),
        "one row": (claiming(height=1, step=2**32 - 1), "IMAGE_SIZE", "64 x 1 pixels, and the policy"),
        "huge": (claiming(height=2**31, width=2**31), "IMAGE_SIZE", "2147483648 x 2147483648 pixels; allowed"),
        "name": (claiming(encoding="rgb8" * 250_000), "IMAGE_ENCODING", "encoding 'rgb8rgb8"),
    }  # fmt: skip
    with everybody(domain, policies) as (robot, seen, eye, proc, _):
        refused_one_after_another(robot, seen, eye, proc, evil)


def test_fault_170_small_files_that_unpack_to_gigabytes(domain, policies, tmp_path):
    high = bytearray(jpeg())
    at = high.index(b"\xff\xc0") + 5  # height and width of the frame
    high[at : at + 4] = b"\xea\x60\xea\x60"
    wide = bombs.png(PICTURE)
    wide = wide[:16] + bombs.SIDES(60_000, 60_000) + wide[24:]
    zeros = bombs.packed_zeros(2**31)
    evil = {
        "jpeg": (packed(bytes(high)), "IMAGE_SIZE", "60000 x 60000 pixels, and the policy was trained on 64 x 64"),
        "png": (packed(wide, "png"), "IMAGE_SIZE", "60000 x 60000 pixels, and the policy was trained on 64 x 64"),
        "pixels": (packed(bombs.of_pixels(PICTURE, zeros), "png"), "IMAGE_DAMAGED", "bytes and more for 4096 pixels"),
        "name": (packed(jpeg(), "x" * 10**6 + "; compressedDepth"), "IMAGE_ENCODING", "encoding xxxx"),
    }  # fmt: skip
    with driven_compressed(domain, policies, tmp_path / "jpeg") as (robot, seen, eye, proc):
        refused_one_after_another(robot, seen, eye, proc, evil)
        # What a chunk of words would unpack to is nothing to anybody.
        seen.picture = packed(bombs.of_words(PICTURE, zeros), "png")
        begin = len(robot.statuses)

        def ready():
            return sum(s.msg.state == ros.READY for s in robot.statuses[begin:])

        # Not in a row: megabytes at 20 Hz are late at times (STATE_STALE, IMAGE_MISSING), and then the node
        # waits. What was seen before them is too old for so many.
        robot.wait(lambda: ready() >= LEAST, 20, "READY by images with words", proc)
        refused = ("IMAGE_DAMAGED", "IMAGE_ENCODING", "IMAGE_SIZE")
        assert not [s.msg.reason for s in robot.statuses[begin:] if s.msg.reason.startswith(refused)]
        assert memory(eye) < 2**30


def test_fault_171_a_camera_whose_clock_is_ahead_or_behind(domain, policies):
    with everybody(domain, policies) as (robot, seen, eye, proc, _):
        for seconds, state, reason in ((3600, ros.HOLD, "STATE_FUTURE"), (-3600, ros.WAITING, "STATE_STALE")):
            seen.ahead = seconds
            robot.wait_state(state, HIGH, proc, reason=reason)
            assert "qgf_encoder/top" in robot.statuses[-1].msg.reason
            seen.ahead = 0
            if state == ros.HOLD:
                robot.wait_state(ros.RUN, 5, proc)
                assert robot.enable(False).success
            robot.wait_state(ros.READY, 5, proc)
        assert eye.running


def test_fault_172_a_camera_that_is_stopped_is_a_hold_until_it_goes_on(domain, policies):
    policy = policies / "one"
    with robot_on(domain) as robot, process([sys.executable, CAMERA, "top/image_raw"], domain) as camera:
        robot.speak("joint_states")
        with encoder(domain, policy) as eye, node(domain, policy) as proc:
            robot.wait_state(ros.READY, 20, proc)
            robot.drive(proc)
            robot.wait_commands(LEAST, 10)
            heard = {name for name, _ in robot.node.get_subscriber_names_and_types_by_node("qgf", "/")}
            assert allowed("qgf", "topics", "subscribe", profile=2) <= heard
            camera.send(signal.SIGSTOP)
            robot.wait_state(ros.HOLD, HIGH, proc)
            robot.wait(lambda: robot.statuses[-1].msg.reason == "IMAGE_MISSING:qgf_encoder/top", HIGH, "its name", proc)
            assert "no image on top/image_raw" in robot.statuses[-1].msg.detail
            assert eye.running
            camera.send(signal.SIGCONT)
            robot.wait_state(ros.RUN, 5, proc)
            robot.refuse_violations()


def test_fault_173_two_cameras_on_one_topic_are_a_hold_that_names_them(domain, policies):
    with everybody(domain, policies) as (robot, _, eye, proc, _):
        robot.wait_commands(LEAST, 10)
        with process([sys.executable, CAMERA, "top/image_raw"], domain) as second:
            robot.wait_state(ros.HOLD, 10, proc, reason="IMAGE_CONFLICT:qgf_encoder/top")
            robot.wait(lambda: "/camera_of_the_test" in robot.statuses[-1].msg.detail, HIGH, "their names", proc)
            second.send(signal.SIGKILL)
            robot.wait_state(ros.RUN, 10, proc)
        assert eye.running
        robot.wait_commands(LEAST, 10)


def test_a_camera_that_is_started_anew_is_no_conflict(domain, policies):
    policy = policies / "one"
    with robot_on(domain) as robot:
        robot.speak("joint_states")
        features = robot.record(ros.Features, "qgf_encoder/top", ros.QoSProfile(depth=100))
        with encoder(domain, policy), node(domain, policy) as proc:
            for _ in range(2):
                with process([sys.executable, CAMERA, "top/image_raw"], domain) as camera:
                    begin = len(features)
                    robot.wait(lambda n=begin: [f for f in features[n:] if f.msg.values], 20, "features", proc)
                    camera.send(signal.SIGKILL)  # its publisher stays in the graph for a while
                    camera.wait(5.0)
        assert not [f for f in features if f.msg.reason == "IMAGE_CONFLICT"]


def test_an_image_without_a_stamp_is_as_old_as_its_arrival(domain, policies):
    with robot_on(domain) as robot, Seen(robot, stamped=False):
        features = robot.record(ros.Features, "qgf_encoder/top", ros.QoSProfile(depth=100))
        with encoder(domain, policies / "one"):
            robot.wait(lambda: [f for f in features if not f.msg.reason], 20, "features")
            begin = time.time_ns()
            robot.wait(lambda: ros.ns(features[-1].msg.header.stamp) > begin, 5, "a later image")
            assert features[-1].msg.detail == "the image has no stamp: its arrival counts"


@pytest.mark.parametrize(("what", "right"), RIGHTS)
def test_the_sros2_policy_lists_what_it_has(domain, policies, what, right):
    with robot_on(domain) as robot, Seen(robot), encoder(domain, policies / "one", use_sim_time=True):
        ask, listed = getattr(robot.node, RIGHTS[what, right]), allowed("qgf_encoder", what, right)

        def found():
            try:
                return {name for name, _ in ask("qgf_encoder", "/")}
            except Exception:  # rclpy raises for a node that is not discovered yet
                return set()

        robot.wait(lambda: "qgf_encoder" in robot.node.get_node_names(), 20, "the encoder")
        robot.wait(lambda: found() >= listed, 20, f"{right} {sorted(listed)}")
        assert found() == listed


def test_its_latency_is_measured_and_proposed(domain, policies):
    with robot_on(domain) as robot, Seen(robot), encoder(domain, policies / "one") as eye:
        eye.wait_line("READY")
        command = [sys.executable, "-m", "qgf_ros.cli", "latency", str(policies / "one"), "--seconds", "4", "--json"]
        proc = ros.run_to_end(command, domain, timeout=60.0)
        assert proc.process.returncode == 0, proc.log
        (camera,) = json.loads("\n".join(proc.out))["cameras"]
        assert camera["camera"] == "top" and 0 < camera["p50_ms"] <= camera["p95_ms"] < 1e3 * camera["proposed_s"] + 1e-6
        assert robot.node.count_publishers("/qgf_encoder/top") == 1


def test_a_policy_without_cameras_needs_no_encoder(domain):
    with encoder(domain, "planar_arm") as proc:
        assert proc.wait(20.0) == 2
        assert "has no cameras" in proc.log


def test_without_a_camera_nothing_of_it_is_imported(domain):
    """In the node, for the shipped policy; what it costs is nothing."""
    code = (
        "import sys, qgf_ros.ros.node, qgf_ros.sim.world, qgf_ros.replay.run, qgf_ros.policy.folder\n"
        "print([m for m in sys.modules if m.startswith('qgf_ros.images') or m in ('av', 'simplejpeg')])"
    )
    with process([sys.executable, "-c", code], domain) as proc:
        assert proc.wait(30.0) == 0
        assert proc.out[-1] == "[]"
