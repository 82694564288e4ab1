"""A point that is driven to a light which only a camera sees: contracts, bags and episodes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np

if __name__ != "__main__":
    from qgf_make import START, velocity_dict

    from qgf_ros.bags.sources import contract_sources
    from qgf_ros.spaces.contract import Contract
    from training.pipeline.writers.bag import BagWriter

PERIOD = 50_000_000  # ns


def camera_dict(type_="sensor_msgs/Image", size=(16, 12), features=6, **keys):
    """The contract of two joints by their velocity, with a camera before the joints."""
    own = velocity_dict()
    camera = {
        "name": "wrist", "topic": "wrist/image_raw", "type": type_, "image": {"size": list(size)},
        "encoder": {"kind": "small", "features": features},
    }  # fmt: skip
    own["observations"] = [camera | keys, *own["observations"]]
    own["outcome"] = {
        "objective": "time_to_success",
        "success": {"topic": "success", "type": "std_msgs/Bool", "fields": ["data"]},
        "episode_start": {"topic": "episode_start", "type": "std_msgs/Header"},
    }
    return own


def picture(light, height=48, width=64):
    """(H, W, 3) uint8: a bright square where the light is, (x, y) in 0..1 each."""
    image = np.full((height, width, 3), 30, np.uint8)
    x, y = int(light[0] * (width - 8)), int(light[1] * (height - 8))
    image[y : y + 8, x : x + 8] = (250, 200, 40)
    return image


@contextlib.contextmanager
def cut_short(bag):
    """What is written meanwhile lacks the second half of its data."""
    put = bag._put

    def half(name, receipt, msg):
        put(name, receipt, dataclasses.replace(msg, data=msg.data[: len(msg.data) // 2]))

    bag._put = half
    yield
    bag._put = put


def write(path: Path, own: Contract, episodes=4, ticks=12, seed=0, skip=(), torn=()):
    """A bag of episodes, every other one a success; -> the lights (N, 2) of its images. A second camera has
    lights of its own.

    skip, torn: (episode, tick) without an image, and with one that is cut short.
    """
    rng, lights = np.random.default_rng(seed), []
    sources = contract_sources(own)
    camera, *others = (o.name for o in own.observations if o.is_camera)
    beside = np.random.default_rng([seed, 1])
    with BagWriter(path, sources) as bag:
        for e in range(episodes):
            begin = START + e * (ticks + 20) * PERIOD
            if "episode_start" in sources:
                bag.write("episode_start", begin - 5, begin - 5, np.array([float(e)]))
            for k in range(ticks):
                at = begin + k * PERIOD
                for name, source in sources.items():
                    if name in ("episode_start", "success"):
                        continue
                    if name in others:
                        bag.write_image(name, at, at + 1000, picture(beside.uniform(size=2)))
                    elif name != camera:
                        bag.write(name, at, at + 1000, rng.normal(size=len(source.labels)) / 10)
                    elif (e, k) not in skip:
                        lights.append(rng.uniform(size=2))
                        image = picture(lights[-1])
                        with cut_short(bag) if (e, k) in torn else contextlib.nullcontext():
                            bag.write_image(name, at, at + 1000, image)
            if "success" in sources:
                end = begin + ticks * PERIOD - PERIOD // 10
                bag.write("success", end, end, np.array([float(e % 2 == 0)]))
    return np.array(lights)


def video(path: Path, images, fps=20, codec="libx264"):
    """An mp4 of images (H, W, 3), as LeRobot writes them: yuv420p, a key frame every other one.

    Written by a process of its own: SVT-AV1 gives the one that it runs in real-time priority, above all
    others, where that is root's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path.with_suffix(".npy"), np.asarray(images))
    command = [sys.executable, __file__, str(path), str(fps), codec]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    path.with_suffix(".npy").unlink()


def encode(path, fps, codec):
    """In that process, which needs nothing of ours."""
    import av

    images = np.load(Path(path).with_suffix(".npy"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=int(fps), options={"g": "2", "crf": "10"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def lerobot(path: Path, images, states, actions, version="v2.1", codec="libx264", kind="video", clock=None):
    """A dataset of episodes, each with images (T, H, W, 3), states (T, 5) and actions (T, 2). clock: the rate [Hz]
    of its timestamps, where that is not what it says."""
    import io
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq
    import simplejpeg

    camera, lengths = "observation.images.wrist", [len(i) for i in images]
    old, fps = version != "v3.0", 20
    data, videos = (
        ("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
         "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
        if old else
        ("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
         "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4")
    )  # fmt: skip

    def table(e):
        t = lengths[e]
        columns = {
            "observation.state": list(map(list, np.asarray(states[e], np.float32))),
            "action": list(map(list, np.asarray(actions[e], np.float32))),
            "timestamp": np.arange(t, dtype=np.float32) / (clock or fps),
            "next.success": np.arange(t) == t - 1 if e % 2 == 0 else np.zeros(t, bool),
            "next.done": np.arange(t) == t - 1,
            "frame_index": np.arange(t),
            "episode_index": np.full(t, e),
        }
        if kind == "image":
            columns[camera] = [{"bytes": simplejpeg.encode_jpeg(i), "path": None} for i in images[e]]
        return pa.table(columns)

    features = {
        "observation.state": {"dtype": "float32", "shape": [5], "names": ["position.a", "position.b", "velocity.a", "velocity.b", "point.x"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
        camera: {"dtype": kind, "shape": list(images[0][0].shape), "names": ["height", "width", "channel"]},
        **{n: {"dtype": "bool", "shape": [1], "names": None} for n in ("next.success", "next.done")},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "frame_index": {"dtype": "int64", "shape": [1], "names": None},
        "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    }  # fmt: skip
    info = {
        "codebase_version": version, "fps": fps, "features": features, "data_path": data,
        "video_path": videos, "chunks_size": 1000, "total_episodes": len(images),
    }  # fmt: skip
    (path / "meta").mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    tables = [table(e) for e in range(len(images))]
    if old:
        rows = [{"episode_index": e, "length": n} for e, n in enumerate(lengths)]
        (path / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for e, one in enumerate(tables):
            file = path / data.format(episode_chunk=0, episode_index=e)
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(one, file)
            if kind == "video":
                video(path / videos.format(episode_chunk=0, video_key=camera, episode_index=e), images[e], fps, codec)
        return
    file = path / data.format(chunk_index=0, file_index=0)
    file.parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), file)
    if kind == "video":
        every = [image for episode in images for image in episode]
        video(path / videos.format(video_key=camera, chunk_index=0, file_index=0), every, fps, codec)
    begin = np.cumsum([0, *lengths[:-1]]) / fps
    place = {"data/chunk_index": 0, "data/file_index": 0, f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": 0}
    episodes = {
        "episode_index": np.arange(len(lengths)), "length": lengths,
        **{key: np.full(len(lengths), value) for key, value in place.items()},
        f"videos/{camera}/from_timestamp": begin, f"videos/{camera}/to_timestamp": begin + np.array(lengths) / fps,
    }  # fmt: skip
    (path / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(episodes), path / "meta/episodes/chunk-000/file-000.parquet")
    del io


if __name__ == "__main__":
    encode(*sys.argv[1:])
