"""The same recording as bags of raw images and of JPEG, as LeRobot tables with video or images, and as npz:
the same ticks, and images that differ by no more than their compression does."""

import os

import numpy as np
import pytest
import qgf_cameras
from qgf_make import contract

from qgf_ros.errors import DataRefused
from qgf_ros.images.fit import fit
from training.pipeline.readers import npz
from training.pipeline.readers.load import load_episodes

for needed in ("av", "simplejpeg", "pyarrow"):
    pytest.importorskip(needed)

RNG = np.random.default_rng(11)
T, EPISODES = 12, 3
LIGHTS = RNG.uniform(size=(EPISODES, T, 2))
IMAGES = [np.stack([qgf_cameras.picture(light) for light in of]) for of in LIGHTS]
STATES, ACTIONS = RNG.normal(size=(EPISODES, T, 5)), RNG.uniform(-1, 1, (EPISODES, T, 2))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))


def own(column="observation.images.wrist", period=None):
    told = qgf_cameras.camera_dict(column=column)
    if period:
        told["time"]["period"] = period
    told["observations"][1]["column"] = "observation.state[0:4]"
    told["observations"][2]["column"] = "observation.state[4:5]"
    return contract(told)


def seen(episode):
    return episode.frames[0][episode.obs[:, 0].astype(int)][:T].astype(int)


def shown(of):
    return np.stack([fit(own().observations[0].image, image) for image in of]).astype(int)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    "kind, codec",
    [("image", ""), ("video", "libx264"), ("video", "libx265"), ("video", "libsvtav1")],
)
def test_a_lerobot_dataset_shows_what_was_recorded(tmp_path, version, kind, codec):
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS, version, codec, kind)
    episodes, report = load_episodes(tmp_path / "set", own())
    assert len(episodes) == EPISODES and not report.lost
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "to read a video takes nobody's processor"
    assert [e.success for e in episodes] == [True, None, True]
    for episode, images, states in zip(episodes, IMAGES, STATES):
        assert np.allclose(episode.obs[:T, 6:], states, atol=1e-6)
        off = np.abs(seen(episode) - shown(images))
        assert off.mean() < 3, f"{kind} {codec} changes a byte by {off.mean():.2f} on average"
        # Every image is its own: another one's would be far off where the light is.
        others = [
            np.abs(seen(episode)[k] - shown(images)).mean(axis=(1, 2, 3)).argmin() for k in range(T)
        ]
        assert others == list(range(T))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_row_has_the_image_of_its_number_whatever_rate_its_timestamps_go_at(tmp_path, version):
    # As recorders leave it: one image written per row at the stated rate, rows timed by the wall.
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS, version, "libx264", clock=17.0)
    episodes, report = load_episodes(tmp_path / "set", own(period=1 / 17))
    assert len(episodes) == EPISODES and not report.lost
    for episode, images in zip(episodes, IMAGES):
        others = [
            np.abs(seen(episode)[k] - shown(images)).mean(axis=(1, 2, 3)).argmin() for k in range(T)
        ]
        assert others == list(range(T))


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_shows_what_was_recorded_to_the_bit(tmp_path, monkeypatch, order):
    if order == "C":  # images are more than all that may be in memory at once; by columns they must be
        monkeypatch.setattr(npz, "BUDGET", sum(i.nbytes for i in IMAGES) // 4)
    rows = {
        "observations": STATES.reshape(-1, 5), "actions": ACTIONS.reshape(-1, 2),
        "images": np.asarray(np.concatenate(IMAGES), order=order), "terminals": np.tile(np.arange(T) == T - 1, EPISODES),
        "success": np.tile(np.arange(T) == T - 2, EPISODES),
    }  # fmt: skip
    np.savez_compressed(tmp_path / "play.npz", **rows)
    told = own("images").to_dict()
    for o, column in zip(
        told["observations"], ("images", "observations[0:4]", "observations[4:5]")
    ):
        o["column"] = column
    told["actions"][0]["column"] = "actions"
    told["outcome"]["success"]["column"] = "success"
    episodes, report = load_episodes(tmp_path / "play.npz", contract(told))
    assert len(episodes) == EPISODES and not report.lost
    for episode, images in zip(episodes, IMAGES):
        steps = len(episode)
        assert np.array_equal(seen(episode)[:steps], shown(images)[:steps])


def test_a_bag_of_jpeg_differs_by_its_compression(tmp_path):
    for k, type_ in enumerate(("sensor_msgs/Image", "sensor_msgs/CompressedImage")):
        qgf_cameras.write(tmp_path / f"{k}", contract(qgf_cameras.camera_dict(type_)), episodes=1)
    raw, jpeg = (
        load_episodes(tmp_path / f"{k}", contract(qgf_cameras.camera_dict(type_)))[0][0]
        for k, type_ in enumerate(("sensor_msgs/Image", "sensor_msgs/CompressedImage"))
    )
    assert np.array_equal(raw.obs, jpeg.obs) and np.array_equal(raw.action, jpeg.action)
    off = np.abs(seen(raw) - seen(jpeg))
    assert 0 < off.mean() < 3


def test_a_video_that_is_cut_short_loses_its_rest_alone(tmp_path):
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS)
    (file,) = (tmp_path / "set").glob("videos/*/*/episode_000001.mp4")
    qgf_cameras.video(file, IMAGES[1][:7])
    episodes, report = load_episodes(tmp_path / "set", own())
    assert [len(e) for e in episodes] == [12, 9, 12], "the last image stands for its max_age"
    (reason,) = [r for r, n in report.dropped.items() if n == 5 and "rejected" in r]
    assert "the video has no frame at that time" in reason and report.lost == 5


@pytest.mark.parametrize(
    "images, words",
    [
        (lambda i: i / 255, "'images' is float64["),
        (lambda i: i.transpose(0, 3, 1, 2), "are bytes (uint8) of (rows, height, width, 1 or 3)"),
        (lambda i: i[:, :0], "'images' is uint8["),
        (lambda i: i.reshape(len(i), -1), "column 'images' holds numbers, and 'wrist' of the contract is of images"),
    ],
)  # fmt: skip
def test_an_array_that_is_no_images_is_refused_by_its_shape(tmp_path, images, words):
    np.savez(
        tmp_path / "play.npz", observations=STATES.reshape(-1, 5), actions=ACTIONS.reshape(-1, 2),
        images=images(np.concatenate(IMAGES)), terminals=np.tile(np.arange(T) == T - 1, EPISODES),
    )  # fmt: skip
    told = own("images").to_dict()
    for o, column in zip(told["observations"], ("images", "observations[0:4]", "observations[4:5]")):
        o["column"] = column
    told["actions"][0]["column"] = "actions"
    told["outcome"]["assume_success"] = True
    del told["outcome"]["success"]
    with pytest.raises(DataRefused) as caught:
        load_episodes(tmp_path / "play.npz", contract(told))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "source, column, words",
    [
        (0, "observation.state", "column 'observation.state' holds numbers, and 'wrist' of the contract is of images"),
        (0, "observation.images.wrist[0:3]", "an image is seen whole; image.crop is for a part of it"),
        (1, "observation.images.wrist", "column 'observation.images.wrist' holds images, and"),
    ],
)  # fmt: skip
def test_a_column_of_the_other_kind_is_refused_by_its_name(tmp_path, source, column, words):
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS)
    value = own().to_dict()
    value["observations"][source]["column"] = column
    with pytest.raises(DataRefused) as caught:
        load_episodes(tmp_path / "set", contract(value))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: f.unlink(), "episode_000001.mp4 is not there; fetch the dataset with its videos"),
        (lambda f: f.write_bytes(b""), "episode_000001.mp4 is no video that can be read: empty"),
        (lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda f: f.write_bytes(b"nonsense" * 100), "episode_000001.mp4 is no video"),
    ],
)
def test_a_video_that_is_none_is_refused_by_its_name(tmp_path, harm, words):
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS)
    (file,) = (tmp_path / "set").glob("videos/*/*/episode_000001.mp4")
    harm(file)
    with pytest.raises(DataRefused, match=words):
        load_episodes(tmp_path / "set", own())


def test_images_that_the_table_does_not_hold_are_refused_by_their_column(tmp_path):
    """What meta/info.json calls images of the table lies beside it as a video."""
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS, "v2.1", "libx264", "video")
    said = tmp_path / "set" / "meta" / "info.json"
    said.write_text(said.read_text().replace('"video"', '"image"'))
    words = "'observation.images.wrist' .*dtype image.* has no such column"
    with pytest.raises(DataRefused, match=words):
        load_episodes(tmp_path / "set", own())
    from training.doctor.dataset import survey_dataset

    assert "has no such column" in survey_dataset(tmp_path / "set").unreadable["observation.images.wrist"]
