"""What cameras cost: preparation against bare decoding, encoding, and the way from capture to command.

    python bench/cameras.py [--frames 600] [--seconds 20] [--out FILE] [--robot FILE]

Images are the simulated arm's table, 640 x 480, with a camera's noise. Times are of the CPU but for the
last part, which runs cameras, encoder and node as processes: read the ratios, not the rates.

preparing   a bag of JPEG and a LeRobot video, against simplejpeg's and PyAV's decoding alone
encoding    one image through a policy's encoder on one core: raw and JPEG, by parts
end_to_end  two cameras at 30 Hz, raw: capture to command, ticks served, CPU of each process; and the same
            robot without cameras, by turns
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `qgf` has it, before numpy is loaded

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import simplejpeg
import tyro

from qgf_ros.console import say, table
from qgf_ros.errors import exit_codes
from qgf_ros.images.encoder import CameraEncoder
from qgf_ros.images.messages import message
from qgf_ros.policy.folder import load_policy
from qgf_ros.sim.camera import Camera
from qgf_ros.sim.planar_arm.world import PlanarArm
from qgf_ros.spaces.contract import Contract
from training.learn.config import FitConfig
from training.learn.fit import fit
from training.pipeline.store import prepare
from training.pipeline.writers.bag import BagWriter

WIDTH, HEIGHT, RATE = 640, 480, 30
POSE = np.array([0.0, 0.8, 0.0, 0.0])  # about which the robot of cameras_robot.py stands
START = 1_760_000_000 * 10**9
REAL_TIME = 10.0  # times real time that a core prepares a JPEG camera at least
RATIO = 1.5  # of preparation to bare decoding at most


@dataclass(frozen=True)
class Bench:
    """Measures what cameras cost."""

    frames: int = 600
    repeats: int = 5
    seconds: float = 20.0
    """Of each part of the last measurement; 0 leaves it out."""
    out: Path | None = None
    robot: Path | None = None
    """Where the last measurement is written."""

    def run(self) -> None:
        about = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
        }
        document: dict[str, Any] = {**about, "load_before": load()}
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["QGF_CACHE"] = f"{scratch}/cache"
            folder = Path(scratch)
            images = list(pictures(self.frames))
            document["preparing"] = preparing(folder, images, self.repeats)
            policy = trained(folder, images[:40])
            document["encoding"] = encoding(policy, images, self.repeats)
            results, date = Path(__file__).parent / "results", time.strftime("%Y-%m-%d")
            written = {self.out or results / f"cameras-{date}.json": document}
            if self.seconds:
                robot = self.robot or results / f"cameras-robot-{date}.json"
                written[robot] = {**about, "seconds": self.seconds, **end_to_end(policy, self.seconds)}
        for out, what in written.items():
            out.write_text(json.dumps(what, indent=1) + "\n")
            say(f"written: {out}")


def pictures(count: int) -> Iterator[np.ndarray]:
    """(480, 640, 3) uint8 each: the arm on its way, with noise."""
    world, rng = PlanarArm(), np.random.default_rng(0)
    camera = Camera(world.model, "top", (WIDTH, HEIGHT))
    teacher = world.demonstrator(0)
    for k in range(count):
        if k % 100 == 0:
            world.reset(k)
            teacher = world.demonstrator(k)
        world.command(teacher.act())
        for _ in range(3):
            world.step()
        noise = rng.normal(0, 3, (HEIGHT, WIDTH, 1))
        yield np.clip(camera(world.data) + noise, 0, 255).astype(np.uint8)


def contract(cameras: int = 1, type_: str = "sensor_msgs/CompressedImage") -> Contract:
    """The arm's joints and cameras."""
    seen = [
        {
            "name": f"camera{k}", "topic": f"camera{k}/image_raw", "type": type_, "max_age": 0.2,
            "image": {"size": [64, 64]}, "encoder": {"kind": "small", "features": 32},
            "column": f"observation.images.camera{k}", "latency": 0.05,
        }
        for k in range(cameras)
    ]  # fmt: skip
    names = ["shoulder", "elbow"]
    joints = {
        "name": "joints", "topic": "joint_states", "type": "sensor_msgs/JointState",
        "fields": ["position", "velocity"], "names": names, "max_age": 0.15, "column": "observation.state",
    }  # fmt: skip
    arm = {
        "name": "arm", "topic": "velocity_controller/commands", "type": "std_msgs/Float64MultiArray",
        "names": names, "representation": "velocity",
        "limits": {n: {"min": -2.0, "max": 2.0, "rate": 80.0} for n in names},
    }  # fmt: skip
    return Contract.from_dict({
        "contract": 1, "robot": "two_cameras", "time": {"period": 0.05, "horizon": 5, "execute_steps": 1},
        "observations": [joints, *seen], "actions": [arm],
        "outcome": {"objective": "time_to_success", "assume_success": True},
    })  # fmt: skip


def write_bag(path: Path, own: Contract, images: list[np.ndarray], seed: int = 1) -> None:
    """Images at 30 Hz, joints at 100, commands at 20."""
    from qgf_ros.bags.sources import contract_sources

    rng, step = np.random.default_rng(seed), 10**9 // RATE
    with BagWriter(path, contract_sources(own)) as bag:
        said: list[tuple[int, str, Any]] = []
        for k, image in enumerate(images):
            said += [(START + k * step, camera.name, image) for camera in own.cameras]
        end = START + len(images) * step
        said += [(at, "joints", POSE + rng.normal(size=4) / 9) for at in range(START, end, 10**7)]
        said += [(at, "arm", rng.normal(size=2) / 9) for at in range(START, end, 5 * 10**7)]
        for at, name, value in sorted(said, key=lambda row: row[0]):
            write = bag.write_image if name.startswith("camera") else bag.write
            write(name, at, at + 10**6, value)


def preparing(folder: Path, images: list[np.ndarray], repeats: int) -> dict[str, Any]:
    """CPU time by frame, ours and the library's alone, by turns."""
    own = contract()
    write_bag(folder / "jpeg", own, images)
    jpegs = [simplejpeg.encode_jpeg(image, 90) for image in images]
    sizes = {"jpeg_kb": round(sum(map(len, jpegs)) / len(jpegs) / 1e3, 1)}
    video = folder / "video.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "2", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))

    def ours(data: Path) -> Callable[[], object]:
        count = iter(range(10**6))
        return lambda: prepare(data, own, folder=folder / f"cache{data.name}{next(count)}")

    def bare() -> None:
        for data in jpegs:
            simplejpeg.decode_jpeg(data)

    def decoded() -> None:
        with av.open(str(video)) as container:
            container.streams.video[0].thread_type = "NONE"
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")

    from training.pipeline.readers.lerobot_video import video_frames

    spec = own.cameras[0].image
    assert spec is not None

    def read() -> None:
        from qgf_ros.images.fit import fit as fitted

        for image in video_frames(video, np.arange(len(images)) / RATE, RATE):
            fitted(spec, image)  # type: ignore[arg-type]

    results: dict[str, Any] = sizes
    for name, mine, theirs in (("jpeg bag", ours(folder / "jpeg"), bare), ("h264 video", read, decoded)):
        mine(), theirs()  # imports, types
        a, b = [], []
        for _ in range(repeats):
            a.append(cpu(mine) / len(images))
            b.append(cpu(theirs) / len(images))
        results[name] = {
            "ours_ms": round(1e3 * median(a), 2),
            "bare_ms": round(1e3 * median(b), 2),
            "ratio": round(median(x / y for x, y in zip(a, b)), 2),
            "times_real_time": round(1 / RATE / median(a), 1),
        }
    columns = ("ours_ms", "bare_ms", "ratio", "times_real_time")
    rows = [(n, *(results[n][c] for c in columns)) for n in ("jpeg bag", "h264 video")]
    table("Preparing, per frame", ("", "ours [ms]", "bare [ms]", "ratio", "times real time"), rows)
    return results


def trained(folder: Path, images: list[np.ndarray]) -> Path:
    """A policy with two raw cameras, of four recordings, that has learnt next to nothing."""
    own = contract(2, "sensor_msgs/Image")
    for k in range(4):
        write_bag(folder / "raw" / f"{k}", own, images, seed=k)
    (folder / "contract.yaml").write_text(json.dumps(own.to_dict()))
    tiny = FitConfig(hidden=(256, 256, 256), steps=10, batch=32, workers=1)
    fit(folder / "raw", folder / "contract.yaml", folder / "run", tiny)
    return folder / "run" / "policy"


def encoding(policy: Path, images: list[np.ndarray], repeats: int) -> dict[str, float]:
    """ms of one core."""
    encoder = CameraEncoder(load_policy(policy), "camera0")
    raw = message(_Message, "sensor_msgs/Image", None, images[0])
    data = simplejpeg.encode_jpeg(images[0], 90)
    found = {
        "raw message to features": lambda: encoder(raw),
        "pixels to features": lambda: encoder.features(images[0]),
        "JPEG to pixels": lambda: simplejpeg.decode_jpeg(data),
    }
    results = {}
    for name, work in found.items():
        work()
        results[name] = round(1e3 * median(cpu(work, 50) / 50 for _ in range(repeats)), 2)
    table("Encoding one image", ("", "ms"), list(results.items()))
    return results


class _Message:
    """As the decoders read one."""

    def __init__(self, _: str, **fields: Any) -> None:
        self.__dict__.update(fields)


def end_to_end(policy: Path, seconds: float) -> dict[str, Any]:
    """With cameras, and the shipped arm without, by turns; each on a ROS domain of its own."""
    found: dict[str, Any] = {}
    for name, given in (("with cameras", policy), ("without", "planar_arm"), ("with cameras again", policy)):
        command = [sys.executable, Path(__file__).with_name("cameras_robot.py"), str(given), str(seconds)]
        env = os.environ | {"ROS_DOMAIN_ID": str(60 + len(found)), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        before = load()
        done = subprocess.run(list(map(str, command)), env=env, check=True, capture_output=True, text=True)
        found[name] = {"load before": before, **json.loads(done.stdout.splitlines()[-1])}
    keys = list(dict.fromkeys(key for part in found.values() for key in part))
    rows = [(key, *(part.get(key, "") for part in found.values())) for key in keys]
    table("From capture to command", ("", *found), rows)
    return found


def load() -> float:
    """What else wants a core, on the mean of a minute: nothing of this is believed where that is much."""
    return round(os.getloadavg()[0], 2)


def cpu(work: Callable[[], object], times: int = 1) -> float:
    """s of this process."""
    began = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - began


def main() -> int:
    with exit_codes():
        tyro.cli(Bench, description=(__doc__ or "").splitlines()[0]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
