"""The figures that status and diagnostics tell of durations."""

import math

import numpy as np
import pytest

from qgf_ros.control.latency import Latency


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 25])
def test_percentiles_are_those_of_the_newest_durations(count):
    latency, seconds = Latency(size=10), np.random.default_rng(count).exponential(1e-3, count)
    for value in seconds:
        latency.add(value)
    expected = np.percentile(seconds[-10:], [50, 99, 100]) * 1e3
    np.testing.assert_allclose(latency.percentiles_ms(), expected, rtol=1e-12)


def test_nothing_measured_is_nan():
    latency = Latency()
    latency.add(1.0)
    latency.clear()
    assert all(map(math.isnan, latency.percentiles_ms()))
