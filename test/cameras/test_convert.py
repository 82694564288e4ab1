"""`qgf data convert` carries cameras: what it writes is read back to the same ticks, and the images differ by
their compression alone. Pinned: JPEG goes from bag to bag to the bit; a damaged image is counted and not
written; a run that was broken off goes on and leaves nothing half; memory does not grow with the images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import qgf_cameras
from qgf_make import contract

from qgf_ros.bags.files import names, open_bag, read_messages
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.observations.image import TYPES
from training.pipeline.readers.load import load_episodes
from training.pipeline.writers import lerobot
from training.pipeline.writers.convert import convert

for needed in ("av", "simplejpeg", "pyarrow"):
    pytest.importorskip(needed)

RAW, JPEG = TYPES
TABLES = ("lerobot-v2.1", "lerobot-v3.0", "npz")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made(tmp_path):
    """(what makes a dataset of two bags, the contract's file)."""

    def make(type_=RAW, bags=2, **keys):
        told = qgf_cameras.camera_dict(type_, **keys.pop("camera", {}))
        own, file = contract(told), tmp_path / "contract.yaml"
        file.write_text(json.dumps(told))
        for k in range(bags):
            (tmp_path / "bags").mkdir(exist_ok=True)
            qgf_cameras.write(tmp_path / f"bags/{k}", own, episodes=2, seed=k, **keys)
        return tmp_path / "bags", file, own

    return make


def same_ticks(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other):
        assert len(a) == len(b) and np.allclose(a.obs[:-1, 6:], b.obs[:-1, 6:], atol=1e-6)
        assert np.allclose(a.action, b.action, atol=1e-6) and a.success == b.success
    return max(np.abs(pixels(a) - pixels(b)).mean() for a, b in zip(one, other))


def pixels(episode):
    return episode.frames[0][episode.obs[:-1, 0].astype(int)].astype(int)


def images_of(path):
    """The bytes of every compressed image in a dataset of bags."""
    found = []
    for name in names(path):

        def choose(channel):
            if channel.short_type == JPEG:
                return lambda receipt, raw: found.append(bytes(raw))
            return None

        for _ in read_messages(open_bag(path, name), choose, _Losses()):
            pass
    return found


class _Losses:
    def add(self, why, count=1):
        raise AssertionError(why)


@pytest.mark.parametrize("to", TABLES)
@pytest.mark.parametrize("type_", [RAW, JPEG])
def test_a_bag_becomes_a_table_of_the_same_ticks(tmp_path, made, to, type_):
    bags, file, own = made(type_, camera={"latency": 0.05})
    counts = convert(bags, file, tmp_path / "out", None, to)
    assert counts["episodes"] == 4
    found, report = load_episodes(tmp_path / "out", own)
    before, _ = load_episodes(bags, own)
    off = same_ticks(before, found)
    assert not report.lost and (off == 0 if to == "npz" else 0 < off < 3)
    assert not [p for p in (tmp_path / "out").rglob("*") if "part" in p.name]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_table_with_video_becomes_bags_of_jpeg(tmp_path, made, version):
    bags, file, own = made()
    convert(bags, file, tmp_path / "table", None, f"lerobot-{version}")
    convert(tmp_path / "table", file, tmp_path / "again", None, "mcap")
    before, _ = load_episodes(tmp_path / "table", own)
    after, report = load_episodes(tmp_path / "again", own)
    assert not report.lost and 0 < same_ticks(before, after) < 3
    assert len(images_of(tmp_path / "again")) == sum(len(e) + 1 for e in before)


def test_an_npz_becomes_a_table_with_video(tmp_path, made):
    bags, file, own = made()
    convert(bags, file, tmp_path / "arrays", None, "npz")
    convert(tmp_path / "arrays", file, tmp_path / "table", None, "lerobot-v3.0")
    before, after = (load_episodes(tmp_path / name, own)[0] for name in ("arrays", "table"))
    assert 0 < same_ticks(before, after) < 3


def test_jpeg_goes_from_bag_to_bag_to_the_bit_and_what_is_raw_is_compressed(tmp_path, made):
    bags, file, own = made(JPEG)
    convert(bags, file, tmp_path / "out", None, "sqlite3")
    assert images_of(tmp_path / "out") == images_of(bags) != []
    before, after = (load_episodes(p, own)[0] for p in (bags, tmp_path / "out"))
    assert same_ticks(before, after) == 0


def test_a_raw_image_is_compressed_with_the_stamp_of_its_capture(tmp_path, made):
    bags, file, own = made(RAW)
    counts = convert(bags, file, tmp_path / "out", None, "mcap")
    assert counts["wrist/image_raw/compressed"] == 48 and len(images_of(tmp_path / "out")) == 48
    before, after = (load_episodes(p, own)[0] for p in (bags, tmp_path / "out"))
    assert 0 < same_ticks(before, after) < 3


def test_a_depth_keeps_its_millimetres_in_a_bag_and_is_refused_by_tables(tmp_path):
    told = qgf_cameras.camera_dict(image={"size": [16, 12], "channels": "depth", "range": [0.2, 2.0]})
    own, file = contract(told), tmp_path / "contract.yaml"
    file.write_text(json.dumps(told))
    deep = np.random.default_rng(5).integers(100, 3000, (48, 64, 1)).astype(np.uint16)
    shown, qgf_cameras.picture = qgf_cameras.picture, lambda light: deep
    try:
        qgf_cameras.write(tmp_path / "bag", own, episodes=2)
    finally:
        qgf_cameras.picture = shown
    convert(tmp_path / "bag", file, tmp_path / "out", None, "mcap")
    before, after = (load_episodes(p, own)[0] for p in (tmp_path / "bag", tmp_path / "out"))
    assert same_ticks(before, after) == 0 and pixels(after[0]).std() > 1
    for to in TABLES:
        with pytest.raises(UsageError, match="wrist is a depth"):
            convert(tmp_path / "bag", file, tmp_path / to, None, to)


@pytest.mark.parametrize("to", ["mcap", *TABLES])
def test_a_damaged_image_is_counted_and_not_written(tmp_path, made, to):
    bags, file, own = made(JPEG, bags=1, torn=[(0, 4)])
    counts = convert(bags, file, tmp_path / "out", None, to)
    (said,) = [what for what in counts if "damaged JPEG" in what]
    assert counts[said] == 1
    before, after = (load_episodes(p, own)[0] for p in (bags, tmp_path / "out"))
    assert same_ticks(before, after) < 3
    assert np.array_equal(pixels(before[0])[3], pixels(before[0])[4]), "the image before it stands"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("where", ["write_video", "finish"])
def test_a_conversion_that_was_broken_off_goes_on(tmp_path, made, monkeypatch, version, where):
    bags, file, own = made()
    out, to = tmp_path / "out", f"lerobot-{version}"
    convert(bags, file, tmp_path / "whole", None, to)
    calls, whole, armed = [], lerobot.write_video, [where == "write_video"]

    def breaks(path, *args):
        calls.append(path)
        if armed[0] and len(calls) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        return whole(path, *args)

    monkeypatch.setattr(lerobot, "write_video", breaks)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        if where == "finish":
            m.setattr(lerobot.LeRobotWriter, "close", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        convert(bags, file, out, None, to)
    assert not (out / "meta/info.json").exists()
    with pytest.raises(DataRefused):
        load_episodes(out, own)
    armed[0], first = False, len(calls)
    convert(bags, file, out, None, to)
    # The recording that was whole is not encoded again; the other begins anew.
    assert (first, len(calls)) == ((4, 6) if where == "write_video" else (4, 4))
    before, after = (load_episodes(p, own)[0] for p in (tmp_path / "whole", out))
    assert same_ticks(before, after) == 0
    assert sorted(p.relative_to(out) for p in out.rglob("*")) == sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")
    )


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_what_lerobots_own_reader_needs_is_said(tmp_path, made, version):
    import av

    bags, file, _ = made()
    counts = convert(bags, file, tmp_path / "out", None, f"lerobot-{version}")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    feature = info["features"]["observation.images.wrist"]
    assert feature["dtype"] == "video" and feature["shape"] == [48, 64, 3]
    assert feature["names"] == ["height", "width", "channels"]
    said = feature["info"]
    assert (said["video.fps"], said["video.codec"], said["video.pix_fmt"]) == (20, "h264", "yuv420p")
    videos = sorted((tmp_path / "out/videos").rglob("*.mp4"))
    assert len(videos) == counts["episodes"] == 4 and "{video_key}" in info["video_path"]
    rows = 0
    for video in videos:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == said["video.codec"] and stream.average_rate == 20
            rows += sum(1 for _ in container.decode(stream))
    assert rows == info["total_frames"] == counts["rows"]
    if version == "v2.1":
        lines = (tmp_path / "out/meta/episodes_stats.jsonl").read_text().splitlines()
        stats = [json.loads(line)["stats"]["observation.images.wrist"] for line in lines]
        assert info["total_videos"] == 4
    else:
        stats = [json.loads((tmp_path / "out/meta/stats.json").read_text())["observation.images.wrist"]]
    for one in stats:
        mean = np.array(one["mean"])
        assert mean.shape == (3, 1, 1) and (0.1 < mean).all() and (mean < 0.2).all(), "30 of 255, and a light"
        assert np.allclose(one["max"], np.array([250, 200, 40]).reshape(3, 1, 1) / 255)


@pytest.mark.parametrize(
    "size, crop, channels, pixels",
    [
        ([16, 12], None, "rgb", "yuv420p"),
        ([32, 24], None, "rgb", "yuv420p"),
        ([33, 24], None, "rgb", "yuv444p"),
        ([64, 48], None, "rgb", "yuv444p"),
        ([32, 24], [0.0, 0.0, 0.5, 1.0], "rgb", "yuv444p"),
        ([64, 48], None, "mono", "yuv420p"),
    ],
)
def test_colours_are_halved_only_where_an_encoder_does_not_see_it(tmp_path, made, size, crop, channels, pixels):
    import av

    image = {"size": size, "channels": channels} | ({"crop": crop} if crop else {})
    bags, file, _ = made(bags=1, camera={"image": image})
    convert(bags, file, tmp_path / "out", None, "lerobot-v3.0")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["features"]["observation.images.wrist"]["info"]["video.pix_fmt"] == pixels
    video = next((tmp_path / "out/videos").rglob("*.mp4"))
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixels


def test_an_image_that_is_not_scaled_down_keeps_its_colours(tmp_path, monkeypatch):
    """Red lines between green ones, a pixel wide, of which halved colours make brown."""
    coloured = np.empty((48, 64, 3), np.uint8)
    coloured[:, ::2], coloured[:, 1::2] = (200, 30, 30), (30, 160, 30)
    monkeypatch.setattr(qgf_cameras, "picture", lambda light: coloured)
    told = qgf_cameras.camera_dict(image={"size": [64, 48]})
    own, file = contract(told), tmp_path / "contract.yaml"
    file.write_text(json.dumps(told))
    qgf_cameras.write(tmp_path / "bag", own, episodes=1)
    before, _ = load_episodes(tmp_path / "bag", own)
    convert(tmp_path / "bag", file, tmp_path / "out", None, "lerobot-v3.0")
    assert same_ticks(before, load_episodes(tmp_path / "out", own)[0]) < 6, "halved, a byte is 54 off on average"


def test_odd_sizes_and_grey_are_carried(tmp_path, monkeypatch):
    told = qgf_cameras.camera_dict(image={"size": [16, 12], "channels": "mono"})
    own, file = contract(told), tmp_path / "contract.yaml"
    file.write_text(json.dumps(told))
    whole = qgf_cameras.picture
    monkeypatch.setattr(qgf_cameras, "picture", lambda light: whole(light, 45, 63))
    qgf_cameras.write(tmp_path / "bag", own, episodes=2)
    before, _ = load_episodes(tmp_path / "bag", own)
    for to in TABLES:
        convert(tmp_path / "bag", file, tmp_path / to, None, to)
        assert same_ticks(before, load_episodes(tmp_path / to, own)[0]) < 3


def test_a_dataset_has_one_size(tmp_path, made, monkeypatch):
    bags, file, own = made(bags=1)
    whole = qgf_cameras.picture
    monkeypatch.setattr(qgf_cameras, "picture", lambda light: whole(light, 36, 48))
    qgf_cameras.write(bags / "9", own, episodes=1)
    with pytest.raises(DataRefused, match="48 x 36 pixels in episode 2 and 64 x 48 before"):
        convert(bags, file, tmp_path / "out", None, "lerobot-v3.0")


@pytest.mark.parametrize("column", ["../images", "a/b", ".hidden"])
def test_a_column_that_would_leave_its_folder_is_refused(tmp_path, made, column):
    bags, file, _ = made(camera={"column": column})
    with pytest.raises(UsageError, match="cannot be written"):
        convert(bags, file, tmp_path / "out", None, "lerobot-v3.0")
    assert not list((tmp_path / "out").glob("**/*"))


GROWTH = """
import json, resource, sys
from pathlib import Path
import numpy as np
import qgf_cameras
from qgf_make import contract
from training.pipeline.writers.convert import convert

there, to, ticks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
own = contract(qgf_cameras.camera_dict())
(there / "contract.yaml").write_text(json.dumps(own.to_dict()))
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
qgf_cameras.picture = lambda light: noise
qgf_cameras.write(there / "bag", own, episodes=1, ticks=ticks)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(there / "bag", there / "contract.yaml", there / "out", None, to)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("to", ["mcap", "lerobot-v3.0", "npz"])
def test_memory_does_not_grow_with_the_images(tmp_path, to):
    grown = []
    for ticks in (40, 240):  # the longer one has 46 MB of pixels more
        (tmp_path / str(ticks)).mkdir()
        command = [sys.executable, "-c", GROWTH, str(tmp_path / str(ticks)), to, str(ticks)]
        path = os.pathsep.join([str(Path(qgf_cameras.__file__).parent), os.environ.get("PYTHONPATH", "")])
        told = {"env": os.environ | {"PYTHONPATH": path}, "capture_output": True, "text": True}
        done = subprocess.run(command, timeout=300, check=True, **told)
        grown.append(int(done.stdout.split()[-1]))
    assert grown[1] - grown[0] < 23_000, f"KiB: {grown}"
