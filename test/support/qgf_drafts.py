"""What a draft is for: somebody fills in what only they know, and it fits what it was drafted from."""

from pathlib import Path

import numpy as np

from qgf_ros.spaces.contract import Contract


def filled_in(text, representation="absolute", frame="base_link"):
    """The draft as somebody leaves it who knows the robot."""
    for key, value in {"representation": representation, "frame": frame}.items():
        text = text.replace(f"{key}: FILL_IN", f"{key}: {value}")
    if representation == "absolute":
        text = text.replace("    # measured:", "    measured:")
    return text


def inspected(data, contract_path):
    """Verdicts of `qgf data inspect` by a contract, by name."""
    from training.doctor.checks import checks
    from training.doctor.dataset import survey_dataset

    return {c.name: c for c in checks(survey_dataset(Path(data), Contract.load(contract_path)))}


def trained(data, contract_path, out):
    """50 steps, of small networks: whether there is something to learn from."""
    from training.learn.config import FitConfig
    from training.learn.fit import fit

    small = FitConfig(steps=50, batch=16, hidden=(8,), checkpoint_every=50, workers=1)
    fitted = fit(Path(data), Path(contract_path), Path(out), small)
    assert np.isfinite(list(fitted.metrics.values())).all(), fitted.metrics
    return fitted
