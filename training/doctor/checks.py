"""Verdicts on what is in a dataset, each with its fix. Every check is a function of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.doctor.check import VERDICTS, Check
from training.doctor.check_cameras import cameras, in_step
from training.doctor.check_contract import fresh, kept, limits, rewards
from training.doctor.check_recordings import (
    duplicates,
    layout,
    outcomes,
    readable,
    short,
    unread,
)
from training.doctor.check_timing import clocks, frames, gaps, lead, offset, rates, stamps
from training.doctor.check_values import constant, finite, outliers, saturated, units
from training.doctor.dataset import Dataset
from training.doctor.others import unread_cameras

ASKED: tuple[Callable[[Dataset], Check | None], ...] = (
    readable, unread, frames, layout, outcomes, rates, gaps, stamps, clocks, finite, constant, saturated,
    outliers, units, lead, offset, duplicates, short, kept, fresh, limits, rewards,
    cameras, in_step, unread_cameras,
)  # fmt: skip


def checks(data: Dataset) -> list[Check]:
    """Every check that applies, in a fixed order."""
    return [found for ask in ASKED if (found := ask(data)) is not None]


def worst(found: Sequence[Check]) -> str:
    """bad if any check is, else warn if any is, else unknown if any is, else ok."""
    return max((c.verdict for c in found), key=VERDICTS.index, default="unknown")
