"""A robot that sees, on the wire: cameras, `qgf_encoder` and the node, and everything that goes wrong between
them. The arm is the fake robot's; its camera is this file's."""

import contextlib
import dataclasses
import shutil
import signal
import sys
import threading
import time
from array import array

import numpy as np
import pytest
import ros_harness as ros

torch = pytest.importorskip("torch")

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from qgf_ros.images.encoder import CameraEncoder  # noqa: E402
from qgf_ros.policy.folder import describe_anew, load_policy  # noqa: E402
from qgf_ros.sim.world import world_folder  # noqa: E402

pytestmark = pytest.mark.xdist_group("export")  # whose worker has what training imports
RNG = np.random.default_rng(2)
PICTURE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
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

    def __init__(self, robot, kind=Image, topic="top/image_raw", reliable=True):
        quality = ros.QoSProfile(
            depth=1,
            reliability=ros.ReliabilityPolicy.RELIABLE if reliable else ros.ReliabilityPolicy.BEST_EFFORT,
        )
        self.publisher = robot.node.create_publisher(kind, topic, quality)
        self.picture = self.image(PICTURE)
        self.stamps = []
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
                stamp = time.time_ns()
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


def test_a_compressed_camera_is_encoded_too(domain, policies, tmp_path):
    import simplejpeg
    import yaml

    shutil.copytree(policies / "one", tmp_path / "jpeg")
    policy = load_policy(tmp_path / "jpeg")
    told = yaml.safe_load(yaml.safe_dump(policy.description.contract))
    told["observations"][1] |= {"type": "sensor_msgs/CompressedImage", "topic": "top/compressed"}
    describe_anew(policy, dataclasses.replace(policy.description, contract=told), None)
    data = simplejpeg.encode_jpeg(PICTURE)
    with robot_on(domain) as robot, Seen(robot, CompressedImage, "top/compressed") as seen:
        seen.picture = lambda: CompressedImage(format="jpeg", data=array("B", data))
        robot.speak("joint_states")
        with encoder(domain, tmp_path / "jpeg"), node(domain, tmp_path / "jpeg") as proc:
            robot.wait_state(ros.READY, 20, proc)
            robot.drive(proc)
            robot.wait_commands(LEAST, 10)


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
