"""`qgf data inspect` tells from motion alone how far images and states are out of step: a known delay within
its own uncertainty, a finding from 50 ms on, and nothing where nothing moves or the two have nothing to do with
each other."""

import numpy as np
import pytest
import qgf_cameras
from qgf_make import START, contract

from training.doctor.check_cameras import in_step
from training.doctor.dataset import survey_dataset
from training.doctor.in_step import kept, lag
from training.pipeline.writers.bag import BagWriter

pytest.importorskip("simplejpeg")

OWN = contract(qgf_cameras.camera_dict())
PERIOD, SECONDS = 0.05, 30
CAMERA = "/wrist/image_raw"


def motion(at, seed, still=False):
    """(N, 2) in 0..1: it moves and rests by turns, as a robot does; `seed` is another motion."""
    rng = np.random.default_rng(seed)
    knots = rng.uniform(size=(3 * SECONDS, 2))
    for k in np.flatnonzero(rng.random(len(knots) - 1) < 0.4):
        knots[k + 1] = knots[k]
    when = np.cumsum(rng.uniform(0.3, 1.2, len(knots))) - 2
    found = np.stack([np.interp(at, when, knots[:, k]) for k in (0, 1)], axis=1)
    return found * (not still)


def record(folder, delay, shows=lambda seed: seed, still=False, bags=3):
    """Bags in which images show what the joints were `delay` s ago."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for seed in range(bags):
        with BagWriter(folder / f"{seed}", {o.name: o for o in OWN.observations}) as bag:
            for k in range(int(SECONDS / PERIOD)):
                at = k * PERIOD
                stamp = START + round((at + rng.uniform(0, 0.004)) * 1e9)
                told = motion(np.array([at]), seed, still)[0]
                joints = np.concatenate([told, [0.0, 0.0]]) + rng.normal(size=4) * 1e-4
                bag.write("joints", stamp, stamp + 1000, joints)
                shown = motion(np.array([at - delay]), shows(seed), still)[0]
                image = qgf_cameras.picture(shown, 96, 128)
                noisy = np.clip(image + rng.normal(size=image.shape), 0, 255).astype(np.uint8)
                bag.write_image("wrist", stamp, stamp + 1000, noisy)
    return survey_dataset(folder)


@pytest.mark.parametrize("delay", [0.0, 0.1, -0.1])
def test_a_known_delay_is_found_within_its_uncertainty(tmp_path, delay):
    data = record(tmp_path / "bags", delay)
    found = lag(kept(data.in_step[CAMERA]))
    assert found.error < 0.02 and found.correlation > 0.5
    assert abs(found.seconds - delay) < 3 * found.error + 0.01
    check = in_step(data)
    assert check.verdict == ("warn" if delay else "ok")
    words = "lead" if delay < 0 else "lag" if delay else "the state by 0.0"
    assert words in check.found and "+-" in check.found


@pytest.mark.parametrize("how", [{"still": True}, {"shows": lambda seed: seed + 100}], ids=["still", "another"])
def test_nothing_is_said_where_motion_says_nothing(tmp_path, how):
    data = record(tmp_path / "bags", 0.1, **how)
    assert in_step(data) is None and lag(kept(data.in_step[CAMERA])) is None


def test_little_is_not_enough(tmp_path):
    data = record(tmp_path / "bags", 0.1, bags=1)
    assert in_step(data) is None, "three blocks of ten seconds say nothing of how sure they are"
