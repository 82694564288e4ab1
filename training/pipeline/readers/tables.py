"""What tables have in common, whatever file they come from: a row is one tick.

A row's observations and actions are of its time; its reward and success are of the period that
follows. Where the last row only says how the episode was left (`is_last` of LeRobot tables,
`terminals` of npz files), its action means nothing.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.bags.files import is_hugging_face
from qgf_ros.bags.sources import contract_sources
from qgf_ros.errors import DataRefused
from qgf_ros.images.raw import BadImage, check_kind, grey
from qgf_ros.spaces.actions.codec import commands_of
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.outcome import EndSource
from qgf_ros.spaces.source import Source
from training.pipeline.frames import Writer, frames_by_name, writers
from training.pipeline.streams import Recording, Signal, Stream, Survey

RENAME = (  # a message's fields have fixed names; guessing who is who would mix x, y, z, w with w, x, y, z
    "; name them in meta/info.json (an npz: in its `names`) as the message's fields are named"
)
PART = re.compile(r"(.+)\[(\d+):(\d+)\]")


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
    left in. over: (N,) bool, rows whose transition leads into a terminal state (fewer, where the
    last row only holds a state); None: nobody said, see `endings`.
    """

    stamp: np.ndarray
    period: int  # ns
    column: Callable[[str], Column]  # raises DataRefused
    last: bool = False
    over: np.ndarray | None = None
    # The images of a camera's column, (H, W, C) each, or why a row has none; as many as rows.
    images: Callable[[str], Iterator[np.ndarray | BadImage]] | None = None


def needs_endings(contract: Contract) -> bool:
    """Whether a terminal state that is not known as one would be a lie: what a reward is worth
    depends on it, where nothing else says how episodes ended."""
    outcome = contract.outcome
    others = outcome.success or outcome.failure or outcome.labels or outcome.assume_success
    return outcome.objective == "reward" and not others


def column_name(contract: Contract, name: str) -> str:
    """The column of a source: what the contract says, or else what the writers call it."""
    column = contract_sources(contract)[name].column
    if column:
        return column
    if name in ("reward", "success", "failure"):
        return f"next.{name}"
    if name in (a.name for a in contract.actions):
        return "action" if len(contract.actions) == 1 else f"action.{name}"
    cameras = (o.name for o in contract.cameras)
    return f"observation.images.{name}" if name in cameras else f"observation.{name}"


def names_of(given: Any) -> list[str]:
    """A flat list of names out of what public datasets have: a list, a list of lists, lists under
    keys ({"motors": [...]}), or each name with its place ({"x": 0, "y": 1})."""
    if isinstance(given, dict):
        places = list(given.values())
        if places and all(type(i) is int for i in places):
            return [str(n) for n in sorted(given, key=given.__getitem__)]
        parts = {str(k): names_of(v) for k, v in given.items()}
        flat = [n for names in parts.values() for n in names]
        if len(set(flat)) < len(flat) and all(len(set(v)) == len(v) for v in parts.values()):
            return [f"{k}.{n}" for k, names in parts.items() for n in names]
        return flat
    if isinstance(given, list):
        return [n for item in given for n in names_of(item)]
    return [] if given is None else [str(given)]


def told_apart(names: Sequence[str], width: int) -> tuple[str, ...]:
    """A name for each of `width` numbers; () where there are none, or one for all of them. A name
    that is there twice gets numbers, so that no number is lost: gripper_0, gripper_1.

    Raises:
        ValueError: there are too few names, or too many.
    """
    if not names or (len(names) == 1 < width):
        return ()
    if len(names) != width:
        raise ValueError(f"{width} numbers and {len(names)} names")
    counts = Counter(names)
    found: list[str] = []
    for i, name in enumerate(names):
        if counts[name] > 1:
            stem, k = f"{name}_", names[:i].count(name)
            while f"{stem}{k}" in counts:
                stem += "_"
            name = f"{stem}{k}"
        found.append(name)
    return tuple(found)


def part_of(column: str, available: Collection[str]) -> tuple[str, slice]:
    """The array that a contract's `column` means, and which of its numbers: "state", "state[0:7]"."""
    found = PART.fullmatch(column)
    if column in available or not found:
        return column, slice(None)
    return found[1], slice(int(found[2]), int(found[3]))


def kinds_fit(
    where: object, contract: Contract, parts: Mapping[str, tuple[str, slice]], images: Collection[str]
) -> None:
    """A camera is a column of images, all of it, and nothing else is. Raises DataRefused."""
    seen = {o.name: o for o in contract.cameras}
    for name, (column, part) in parts.items():
        if (name in seen) != (column in images):
            has, wants = ("numbers", "images") if name in seen else ("images", "numbers")
            raise DataRefused(
                f"{where}: column {column!r} holds {has}, and {name!r} of the contract is of {wants}; "
                f"columns of images: {', '.join(images) or 'none'}"
            )
        if name in seen and part != slice(None):
            raise DataRefused(
                f"{where}: {name!r} has a part of a column, {seen[name].column!r}, and an image is seen whole; "
                "image.crop is for a part of it"
            )


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
    cameras = writers(contract)
    moved = len(rows.stamp) - (rows.last and len(rows.stamp) > 0)  # rows with a period after them
    terminal = np.array([], np.int64) if rows.over is None else np.flatnonzero(rows.over[:moved])
    for key, (column, part) in parts.items():
        place = f"{where}: column {column!r}"
        if key in cameras:
            assert rows.images is not None, "a reader names no camera that it does not read"
            camera = next(o for o in contract.cameras if o.name == key)
            streams[key], lost = _seen(rows.stamp, rows.images(column), camera, cameras[key])
            for reason, count in lost.items():
                rejected[f"{column}: {reason}"] = rejected.get(f"{column}: {reason}", 0) + count
            continue
        if len(rows.stamp):
            values = _numbers(place, rows.column(column), part, sources[key])
        else:  # nothing says how wide it would be
            values = np.empty((0, len(sources[key].row_labels)))
        at = rows.stamp
        source = sources[key]
        tested = isinstance(source, EndSource) and source.test  # a state, as any other
        if isinstance(source, EndSource) and not tested:  # told once, where it becomes true
            # What only the last state says is said of the period that led into it.
            told = np.minimum(np.flatnonzero(np.nan_to_num(values[:, 0])), moved - 1)
            first = told[:1]
            if contract.outcome.attempts is not None:  # and whenever it is true again
                true = np.isin(np.arange(moved), told)
                at, values = at[:moved] + rows.period, true[:, None].astype(np.float64)
            elif key == "success" and not len(first) and len(terminal):
                at, values = at[terminal[:1]] + rows.period, np.zeros((1, 1))
            elif moved:
                at, values = at[first] + rows.period, np.ones((len(first), 1))
            else:
                at, values = at[:0], values[:0]
        elif key in contract.outcome.sources and not tested:
            at, values = at[:moved] + rows.period, values[:moved]
        elif isinstance(source, ActionSpec):
            at, values = at[:moved], source.kind.from_row(source, values[:moved])
        streams[key] = Stream(at, at, values)
    _command(streams, contract)
    known = rows.over is not None and moved > 0
    return Recording(
        name,
        streams,
        rejected,
        one_episode=True,
        cut=known and not len(terminal),
        over=rows.stamp[terminal] + rows.period,
        frames=frames_by_name(cameras),
    )


def _command(streams: dict[str, Stream], contract: Contract) -> None:
    """Columns that hold changes become the commands that a robot was sent, as a bag would have them."""
    for action in contract.actions:
        if not action.kind.learnt_from:
            continue
        said, part = streams[action.name], contract.action_slices[action.name]
        obs = np.full((len(said), len(contract.observation_names)), np.nan)
        for o in contract.observations:
            if not o.is_camera:
                obs[:, contract.observation_slices[o.name]] = o.features(streams[o.name].values)[: len(said)]
        measured = contract.measured(obs)[:, part]
        streams[action.name] = replace(said, values=commands_of(action, said.values, measured))


def _seen(
    stamp: np.ndarray,
    images: Iterator[np.ndarray | BadImage],
    source: ObservationSource,
    writer: Writer,
) -> tuple[Stream, Counter[str]]:
    """The numbers of a camera's frames, or features, where there are any; and how many are lost, by
    reason."""
    spec, lost = source.image, Counter[str]()
    assert spec is not None
    numbers = np.full((len(stamp), writer.width), np.nan)
    for k, image in zip(range(len(stamp)), images):
        try:
            if isinstance(image, BadImage):
                raise image
            check_kind("of the column", "rgb" if image.shape[2] == 3 else "mono", spec.channels)
            shown = grey(image) if image.shape[2] == 3 and spec.channels == "mono" else image
            numbers[k] = writer.add(shown)
        except BadImage as error:
            lost[str(error)] += 1
    there = np.isfinite(numbers[:, 0])
    lost.update({"no image": int((~there).sum()) - lost.total()})
    return Stream(stamp[there], stamp[there], numbers[there]), +lost


def _numbers(place: str, column: Column, part: slice, source: Source) -> np.ndarray:
    """The (N, d) numbers of a source, picked by the dataset's own names where it has any."""
    width = column.values.shape[1]
    if part != slice(None) and not part.start < part.stop <= width:
        raise DataRefused(f"{place} has no [{part.start}:{part.stop}]: it has {width} numbers")
    values, names = column.values[:, part], column.names[part]
    single = source.names and len(source.fields) < 2
    short = source.names if single else source.row_labels
    counted = bool(names) and all(n.isdecimal() for n in names)  # a place is no name of a joint
    if not names or (counted and not {*short, *source.row_labels} & set(names)):
        if values.shape[1] != len(short):
            raise DataRefused(
                f"{place} has {values.shape[1]} numbers, the contract names {len(short)}: "
                + ", ".join(short)
            )
        return values
    # "elbow" or "position.elbow": with one field both say the same
    picked = [b if b in names else a for a, b in zip(short, source.row_labels)]
    missing = [n for n in picked if n not in names]
    if missing:
        raise DataRefused(
            f"{place} has no {', '.join(missing)}; it has {', '.join(names)}"
            + ("" if source.names else RENAME)
        )
    return values[:, [names.index(n) for n in picked]]


def survey(
    name: str,
    columns: dict[str, Column],
    stamp: np.ndarray,
    others: dict[str, str],
    rejected: dict[str, int],
    rate: float,
    unreadable: dict[str, str] | None = None,
    stated: float = 0.0,
    unusable: dict[str, str] | None = None,
) -> Survey:
    """What is in an episode, without a contract. The last four: as a Survey has them."""
    signals = {
        column: Signal(
            column,
            "",
            c.names or tuple(map(str, range(c.values.shape[1]))),
            Stream(stamp, stamp, c.values),
        )
        for column, c in columns.items()
    }
    return Survey(
        name, signals, others, rejected, rate,
        one_episode=True, unreadable=unreadable or {}, stated=stated, unusable=unusable or {},
    )  # fmt: skip


def seen_by(camera: str, rows: Rows, found: Survey) -> None:
    """Puts what a camera's column shows among the signals of a survey; what is damaged is counted there."""
    from training.doctor.cameras import LABELS, Look

    assert rows.images is not None
    look, channels = Look("sensor_msgs/Image"), ""
    stamp: list[int] = []
    values: list[Any] = []
    try:
        for at, image in zip(rows.stamp.tolist(), rows.images(camera)):
            if isinstance(image, BadImage):
                why = f"{camera}: {image}"
                found.rejected[why] = found.rejected.get(why, 0) + 1
                continue
            stamp.append(at)
            values.append(look.at(image))
            channels = "rgb" if image.shape[2] == 3 else "mono"
    except DataRefused as error:
        found.unreadable[camera] = str(error)
    if not values:
        return
    when = np.array(stamp, np.int64)
    stream = Stream(when, when, np.array(values))
    found.signals[camera] = Signal(
        camera, "sensor_msgs/Image", LABELS, stream, channels=channels, pictures=tuple(look.pictures)
    )
    found.others.pop(camera, None)


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
