"""From images in a bag to prepared episodes: which frame was known at which tick, and its pixels."""

from dataclasses import replace

import numpy as np
import pytest
import qgf_cameras
from qgf_make import contract

from qgf_ros.images.fit import fit
from training.pipeline import store
from training.pipeline.frames import Frames
from training.pipeline.readers.load import load_episodes

pytest.importorskip("simplejpeg")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def seen(arrays, column=0):
    """(R, H, W, C), the image of every tick."""
    return arrays.frames[column][arrays.obs[:, column].astype(int)]


def shown(own, lights):
    return np.stack(
        [fit(own.observations[0].image, qgf_cameras.picture(light)) for light in lights]
    )


def test_every_tick_has_the_image_that_was_known(tmp_path):
    own = contract(qgf_cameras.camera_dict())
    lights = qgf_cameras.write(tmp_path / "bags" / "bag", own)
    arrays, report = store.prepare(tmp_path / "bags", own)
    assert len(arrays) == 4 and not report.lost
    assert arrays.obs.shape[1] == len(own.observation_names) == 6 + 5
    assert np.array_equal(
        seen(arrays).reshape(4, 13, 12, 16, 3)[:, :12], shown(own, lights).reshape(4, 12, 12, 16, 3)
    )
    assert (arrays.obs[:, 1:6] == 0).all(), "features come later"
    whole, _ = load_episodes(tmp_path / "bags", own)
    assert [e.digest for e in whole] == list(arrays.digests)
    assert np.array_equal(whole[2].frames[0][whole[2].obs[:, 0].astype(int)], seen(arrays)[26:39])


def test_latency_is_what_the_robot_waits_whatever_the_recorder_did(tmp_path):
    own = contract(qgf_cameras.camera_dict(latency=0.06, max_age=0.5))
    lights = qgf_cameras.write(tmp_path / "bag", own, episodes=1)
    (episode,), _ = load_episodes(tmp_path / "bag", own)
    images = episode.frames[0][episode.obs[:, 0].astype(int)]
    # At a tick the image of two ticks before is known: that of one before is 50 ms old.
    first = 12 - len(episode)
    assert first == 2, "nothing is known at the first two ticks"
    assert np.array_equal(images[:10], shown(own, lights[:10]))


@pytest.mark.parametrize("type_", ["sensor_msgs/Image", "sensor_msgs/CompressedImage"])
def test_a_missing_frame_is_an_older_one_and_then_a_gap(tmp_path, type_):
    own = contract(qgf_cameras.camera_dict(type_, max_age=0.12))
    qgf_cameras.write(tmp_path / "bag", own, episodes=1, skip={(0, 3), (0, 6), (0, 7), (0, 8)})
    episodes, report = load_episodes(tmp_path / "bag", own)
    assert report.dropped["tick without fresh data"] == 2, "one, and the one that leads there"
    assert [len(e) for e in episodes] == [7, 3]
    numbers = episodes[0].obs[:, 0]
    assert numbers[3] == numbers[2] and numbers[7] == numbers[6] == numbers[5]


def test_the_same_episodes_are_there_once_whatever_their_frames_are_called(tmp_path):
    own = contract(qgf_cameras.camera_dict())
    qgf_cameras.write(tmp_path / "bags" / "a", own, episodes=1, seed=1)
    qgf_cameras.write(tmp_path / "bags" / "b", own, episodes=2, seed=2)
    qgf_cameras.write(tmp_path / "bags" / "c", own, episodes=1, seed=1)
    arrays, report = store.prepare(tmp_path / "bags", own)
    assert len(arrays) == 3 and report.episodes == 3
    assert len(arrays.frames[0].parts) == 3 and len(arrays.frames[0]) == 48


def test_several_recordings_share_one_numbering(tmp_path):
    own = contract(qgf_cameras.camera_dict())
    lights = [
        qgf_cameras.write(tmp_path / "bags" / f"{k}", own, episodes=2, seed=k) for k in range(3)
    ]
    one, _ = store.prepare(tmp_path / "bags", own)
    two, _ = store.prepare(tmp_path / "bags", own, workers=2, folder=tmp_path / "other")
    assert np.array_equal(seen(one), seen(two)) and np.array_equal(one.obs, two.obs)
    assert np.array_equal(
        seen(one).reshape(6, 13, 12, 16, 3)[:, :12].reshape(-1, 12, 16, 3),
        shown(own, np.concatenate(lights)),
    )


def test_what_is_kept_of_frames_carries_its_checksum(tmp_path, cache, capsys):
    own = contract(qgf_cameras.camera_dict())
    qgf_cameras.write(tmp_path / "bag", own)
    before, _ = store.prepare(tmp_path / "bag", own)
    good = seen(before)
    (file,) = (cache / "pieces").glob("*.frames")
    for harm in (lambda: file.write_bytes(bytes(100)), lambda: flip(file), file.unlink):
        harm()
        again, _ = store.prepare(tmp_path / "bag", own)
        assert np.array_equal(seen(again), good)
        assert "prepared anew" in capsys.readouterr().err


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("type_, why", [
    ("sensor_msgs/Image", "bytes for 64 x 48 pixels of rgb8"), ("sensor_msgs/CompressedImage", "damaged JPEG"),
])  # fmt: skip
def test_a_damaged_image_is_counted_and_the_one_before_it_stands(tmp_path, type_, why):
    own = contract(qgf_cameras.camera_dict(type_))
    qgf_cameras.write(tmp_path / "bag", own, episodes=1, torn={(0, 4), (0, 7)})
    (episode,), report = load_episodes(tmp_path / "bag", own)
    (reason,) = [r for r, n in report.dropped.items() if n == 2]
    assert "rejected" in reason and why in reason and report.lost == 2
    assert episode.obs[4, 0] == episode.obs[3, 0] and len(episode.frames[0]) == 10


def test_frames_of_several_files_are_numbered_through():
    parts = [np.full((n, 2, 3, 1), n, np.uint8) for n in (2, 3, 1)]
    frames = Frames(parts, [(3, 2)] * 3)
    assert len(frames) == 6 and frames.shape == (2, 3, 1)
    assert frames[np.array([5, 0, 3, 1])][:, 0, 0, 0].tolist() == [1, 2, 3, 2]
    for wrong in (6, -1):
        with pytest.raises(IndexError):
            frames[np.array([wrong])]


def test_episodes_of_different_frames_are_not_put_together(tmp_path):
    own = contract(qgf_cameras.camera_dict())
    qgf_cameras.write(tmp_path / "a", own, episodes=1)
    qgf_cameras.write(tmp_path / "b", own, episodes=1, seed=5)
    one, two = (load_episodes(tmp_path / n, own)[0][0] for n in "ab")
    with pytest.raises(ValueError, match="put together by the store"):
        store.EpisodeArrays.of([one, two])
    with pytest.raises(ValueError, match="put together by the store"):
        store.EpisodeArrays.of([one, replace(two, frames={})])


@pytest.mark.parametrize("asked, there", [
    ("sensor_msgs/Image", "sensor_msgs/CompressedImage"), ("sensor_msgs/CompressedImage", "sensor_msgs/Image"),
])  # fmt: skip
def test_a_camera_is_found_raw_or_compressed_whatever_the_contract_names(tmp_path, asked, there):
    topics = {
        "sensor_msgs/Image": "wrist/image_raw",
        "sensor_msgs/CompressedImage": "wrist/image_raw/compressed",
    }
    written = contract(qgf_cameras.camera_dict(there, topic=topics[there]))
    qgf_cameras.write(tmp_path / "bag", written, episodes=1)
    (one,), _ = load_episodes(tmp_path / "bag", written)
    (other,), _ = load_episodes(
        tmp_path / "bag", contract(qgf_cameras.camera_dict(asked, topic=topics[asked]))
    )
    assert one.digest == other.digest
