"""What tables have in common, whatever file they come from: a row is one tick.

A row's observations and actions are of its time; its reward and success are of the period that
follows. Where the last row only says how the episode was left (`is_last` of LeRobot tables,
`terminals` of npz files), its action means nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qgf_ros.bags.files import is_hugging_face
from qgf_ros.contract import Contract, EndSource, Source
from qgf_ros.errors import DataRefused
from training.data.rosbag2 import contract_sources
from training.data.streams import Recording, Signal, Stream, Survey

RENAME = (  # a message's fields have fixed names; guessing who is who would mix x, y, z, w with w, x, y, z
    "; name them in meta/info.json (an npz: in its `names`) as the message's fields are named"
)
PART = re.compile(r"(.+)\[(\d+):(\d+)\]")
DEPARTS = "timestamp departs from index / fps by more than half a period"
MAX_TICKS = 10_000_000  # of one episode; at 1 kHz nearly three hours


@dataclass(frozen=True)
class Column:
    """Some numbers per row, (N, d) float64; NaN where a row has none. `names` is () where the
    dataset gives none, else d long."""

    values: np.ndarray
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """One episode of a table.

    stamp: (N,) int64 ns, increasing. last: the last row only holds the state that the episode was
    left in. ended: whether that state is terminal; None: nobody said.
    """

    stamp: np.ndarray
    period: int  # ns
    column: Callable[[str], Column]  # raises DataRefused
    last: bool = False
    ended: bool | None = None


def column_name(contract: Contract, name: str) -> str:
    """The column of a source: what the contract says, or else what the writers call it."""
    column = contract_sources(contract)[name].column
    if column:
        return column
    if name in ("reward", "success", "failure"):
        return f"next.{name}"
    if name in (a.name for a in contract.actions):
        return "action" if len(contract.actions) == 1 else f"action.{name}"
    return f"observation.{name}"


def part_of(column: str, available: Collection[str]) -> tuple[str, slice]:
    """The array that a contract's `column` means, and which of its numbers: "state", "state[0:7]"."""
    found = PART.fullmatch(column)
    if column in available or not found:
        return column, slice(None)
    return found[1], slice(int(found[2]), int(found[3]))


def wanted(
    where: object, contract: Contract, available: Collection[str]
) -> dict[str, tuple[str, slice]]:
    """Source -> column and which of its numbers, for every source that is read from a table.

    Raises:
        DataRefused: there is no column for what the contract cannot do without.
    """
    parts = {}
    for name, source in contract_sources(contract).items():
        column = column_name(contract, name)
        if name == "episode_start":  # tables know where their episodes begin
            continue
        tested = isinstance(source, EndSource) and source.test  # of what column, only they know
        if not source.column and (column not in available or tested):
            if name in contract.outcome.sources and not _needed(contract, name):
                continue
            raise DataRefused(
                f"{where}: the contract gives no column for {name!r}; columns: {', '.join(available)}"
            )
        parts[name] = part_of(column, available)
        if parts[name][0] not in available:
            raise DataRefused(
                f"{where} has no column {column!r}, which the contract needs for {name!r}; "
                f"columns: {', '.join(available)}"
            )
    return parts


def _needed(contract: Contract, name: str) -> bool:
    outcome = contract.outcome
    if name == "reward":
        return outcome.objective == "reward"
    otherwise = outcome.assume_success or outcome.labels
    return name == "success" and outcome.objective == "time_to_success" and not otherwise


def recording(
    name: str,
    where: object,
    contract: Contract,
    parts: dict[str, tuple[str, slice]],
    rows: Rows,
    rejected: dict[str, int],
) -> Recording:
    """The streams that a contract wants of an episode. `parts` is of `wanted`."""
    streams = {}
    sources = contract_sources(contract)
    actions = {a.name for a in contract.actions}
    moved = len(rows.stamp) - (rows.last and len(rows.stamp) > 0)  # rows with a period after them
    for key, (column, part) in parts.items():
        place = f"{where}: column {column!r}"
        if len(rows.stamp):
            values = _numbers(place, rows.column(column), part, sources[key])
        else:  # nothing says how wide it would be
            values = np.empty((0, len(sources[key].labels)))
        at = rows.stamp
        source = sources[key]
        tested = isinstance(source, EndSource) and source.test  # a state, as any other
        if key in contract.outcome.sources and not tested:
            at, values = at[:moved] + rows.period, values[:moved]
        elif key in actions:
            at, values = at[:moved], values[:moved]
        if isinstance(source, EndSource) and not tested:  # told once, where it becomes true
            told = np.flatnonzero(np.nan_to_num(values[:, 0]))[:1]
            at, values = at[told], values[told]
            if key == "success" and not len(told) and rows.ended and moved:
                at, values = rows.stamp[moved - 1 : moved] + rows.period, np.zeros((1, 1))
        streams[key] = Stream(at, at, values)
    return Recording(name, streams, rejected, one_episode=True, cut=rows.ended is False)


def _numbers(place: str, column: Column, part: slice, source: Source) -> np.ndarray:
    """The (N, d) numbers of a source, picked by the dataset's own names where it has any."""
    width = column.values.shape[1]
    if part != slice(None) and not part.start < part.stop <= width:
        raise DataRefused(f"{place} has no [{part.start}:{part.stop}]: it has {width} numbers")
    values, names = column.values[:, part], column.names[part]
    single = source.names and len(source.fields) < 2
    short = source.names if single else source.labels
    if not names:
        if values.shape[1] != len(short):
            raise DataRefused(
                f"{place} has {values.shape[1]} numbers, the contract names {len(short)}: "
                + ", ".join(short)
            )
        return values
    # "elbow" or "position.elbow": with one field both say the same
    picked = [b if b in names else a for a, b in zip(short, source.labels)]
    missing = [n for n in picked if n not in names]
    if missing:
        raise DataRefused(
            f"{place} has no {', '.join(missing)}; it has {', '.join(names)}"
            + ("" if source.names else RENAME)
        )
    twice = [n for n in picked if names.count(n) > 1]
    if twice:
        raise DataRefused(f"{place} has the name {', '.join(twice)} more than once")
    return values[:, [names.index(n) for n in picked]]


def survey(
    name: str,
    columns: dict[str, Column],
    stamp: np.ndarray,
    others: dict[str, str],
    rejected: dict[str, int],
    rate: float,
) -> Survey:
    """What is in an episode, without a contract."""
    signals = {
        column: Signal(
            column,
            "",
            c.names or tuple(map(str, range(c.values.shape[1]))),
            Stream(stamp, stamp, c.values),
        )
        for column, c in columns.items()
    }
    return Survey(name, signals, others, rejected, rate, one_episode=True)


def on_grid(where: object, seconds: np.ndarray, fps: float) -> tuple[np.ndarray, dict[str, int]]:
    """Tick of each row (N,) int64 by the dataset's own clock, -1 for rows that have none, and what
    there is to say about it.

    Rows stand at index / fps, exactly: float32 seconds are off by microseconds after a minute.
    Only where the clock departs from that by more than half a period is it believed, rounded to
    whole periods, so that what was lost in between is a gap and not a jump.
    """
    count = np.arange(len(seconds))
    if not len(seconds):
        return count, {}
    with np.errstate(invalid="ignore", over="ignore"):
        ticks = (seconds - seconds[0]) * fps
        departs = ~(np.abs(ticks - count) <= 0.5)
    if not departs.any():
        return count, {}
    if not (np.isfinite(ticks).all() and ticks.max() <= MAX_TICKS):
        raise DataRefused(f"{where}: its timestamps make no sense: not finite, or days apart")
    ticks = np.round(ticks).astype(np.int64)
    before = np.maximum.accumulate(np.concatenate([[-1], ticks[:-1]]))
    ticks = np.where(ticks > before, ticks, -1)
    stays = int((ticks < 0).sum())
    if 2 * stays > len(ticks):
        raise DataRefused(
            f"{where}: {stays} of {len(ticks)} rows do not come a period of {1 / fps:.4g} s after the "
            "row before by their timestamps; either those or fps are wrong"
        )
    said = {DEPARTS: int(departs.sum())}
    if stays:
        said["timestamp does not come after the row before"] = stays
    return ticks, said


def inside(path: Path, name: str) -> Path:
    """The file `name` of a dataset. Raises DataRefused where that leads outside of it."""
    root = os.path.realpath(path)
    leaves = "\0" in name or not os.path.realpath(path / name).startswith(root + os.sep)
    if leaves and ("\0" in name or not is_hugging_face(path, path / name)):
        raise DataRefused(
            f"{path}: {name!r} is outside of the dataset, or a link that leads there; "
            "copy the dataset with its links resolved (cp -rL)"
        )
    return path / name
