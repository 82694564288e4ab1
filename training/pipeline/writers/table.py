"""Recordings as tables: aligned by the contract, with the numbers that the robot said, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from qgf_ros.bags.sources import contract_sources
from qgf_ros.errors import UsageError
from qgf_ros.spaces.actions.codec import rows_of
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import Source
from training.pipeline.align import align
from training.pipeline.frames import Kept
from training.pipeline.labels import Label
from training.pipeline.readers.tables import column_name
from training.pipeline.report import Report
from training.pipeline.streams import Recording, Stream

RESERVED = (
    "timestamp", "frame_index", "episode_index", "index", "task_index", "is_last", "is_terminal",
    "terminals", "masks", "fps", "names",
)  # fmt: skip


@dataclass(frozen=True)
class Images:
    """A camera's column: of each row the number of its image among those of the recording."""

    frames: Kept
    numbers: np.ndarray  # (T + 1,) int64

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        """(H, W, C) uint8 of each row, one at a time in memory; one that stands is decoded once."""
        number, image = -1, np.empty(0)
        for k in self.numbers.tolist():
            if k != number:
                number, image = k, self.frames.image(k)
            yield image

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)"""
        return self.frames.shape


@dataclass(frozen=True)
class TableEpisode:
    """One episode on the control grid, T + 1 rows: the last holds only the state that the episode
    was left in, and says its action again. Reward and success are of the period after their row.

    columns: (T + 1, d) float32, and (T + 1,) of the outcome: float32 of reward, bool of success.
    images: of cameras, the newest that was captured by each row's time.
    """

    columns: dict[str, np.ndarray]
    terminal: bool
    images: dict[str, Images] = field(default_factory=dict)

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.columns.values())))


def layout(contract: Contract) -> dict[str, tuple[str, ...]]:
    """Column -> a name for each of its numbers, of all but cameras. Sources that name one column share it.

    Raises UsageError where a name or a column means two things.
    """
    names: dict[str, tuple[str, ...]] = {}
    seen = cameras(contract)
    for column, source in _columns(contract):
        if isinstance(source, ObservationSource) and source.is_camera:
            continue
        if "/" in column or "\0" in column:
            raise UsageError(f"column {column!r} cannot be written: it has a slash in its name")
        twice = [n for n in _names(source) if n in names.get(column, ())]
        if twice:
            raise UsageError(
                f"{', '.join(twice)} of {source.topic} is in column {column!r} already; such a table "
                "can be read, not written"
            )
        names[column] = names.get(column, ()) + _names(source)
    columns = [*names, *seen, *outcome_columns(contract).values()]
    taken = sorted({c for c in columns if c in RESERVED or columns.count(c) > 1})
    if taken:
        raise UsageError(
            f"column {', '.join(taken)} would mean two things; reward, success and the formats' own "
            f"({', '.join(RESERVED)}) need theirs"
        )
    return names


def cameras(contract: Contract) -> dict[str, str]:
    """Column -> name of each camera.

    Raises UsageError where two share one, or where a table cannot hold what they see.
    """
    found: dict[str, str] = {}
    for o in contract.cameras:
        column = column_name(contract, o.name)
        assert o.image is not None
        if o.image.channels == "depth":
            raise UsageError(
                f"{o.name} is a depth, and tables hold bytes: a video would take its millimetres away. Bags keep "
                "them (--to mcap); or leave it out of the contract"
            )
        if not re.fullmatch(r"\w[\w.-]*", column):
            raise UsageError(
                f"column {column!r} of {o.name} cannot be written: it becomes the name of a folder; give letters, "
                "digits, _ . and -"
            )
        if column in found:
            raise UsageError(f"column {column!r} is of two cameras: {found[column]} and {o.name}")
        found[column] = o.name
    return found


def outcome_columns(contract: Contract) -> dict[str, str]:
    """Columns of reward and success, and of failure where the contract has a source for it."""
    outcome = contract.outcome
    columns = {name: f"next.{name}" for name in ("reward", "success")}
    if outcome.reward is not None and outcome.objective == "reward":
        columns["reward"] = column_name(contract, "reward")
    for name, source in (("success", outcome.success), ("failure", outcome.failure)):
        if source is not None and not source.test:  # a test is of a column that is there anyway
            columns[name] = column_name(contract, name)
    return columns


def rate(contract: Contract) -> float:
    """Rows per second; an int where it is one, which LeRobot's own tools want."""
    fps = 1 / contract.time.period
    return round(fps) if abs(fps - round(fps)) < 1e-9 * fps else fps


def on_grid(
    recording: Recording,
    contract: Contract,
    report: Report,
    labels: Mapping[str, Label] | None = None,
) -> Iterator[TableEpisode]:
    """The episodes of a recording, aligned as for training. labels: as `align` takes them.

    A row has what was captured by its time: how much later a robot knows it (`latency`) is for those to
    reckon who read the table.
    """
    outcome, names = outcome_columns(contract), layout(contract)
    seen = {name: column for column, name in cameras(contract).items()}
    recording = _by_capture(recording, contract)
    for episode in align(recording, _with_raw(contract), report, labels):
        images: dict[str, Images] = {}
        parts: dict[str, list[np.ndarray]] = {column: [] for column in names}
        features, at = [], 0
        for o in contract.observations:
            features.append(episode.obs[:, at : at + len(o.feature_labels)])
            at += len(o.feature_labels)
            said = episode.obs[:, at : at + len(o.labels)]
            at += len(o.labels)
            if o.name not in seen:
                parts[column_name(contract, o.name)].append(said)
                continue
            frames = recording.frames[o.name]
            assert isinstance(frames, Kept), "a conversion reads images as they were recorded"
            images[seen[o.name]] = Images(frames, said[:, 0].astype(np.int64))
        action = np.concatenate([episode.action, episode.action[-1:]])
        for a in contract.actions:
            part = contract.action_slices[a.name]
            said = action[:, part]
            if a.kind.learnt_from:
                said = rows_of(a, said, contract.measured(np.concatenate(features, axis=1))[:, part])
            parts[column_name(contract, a.name)].append(a.kind.to_row(a, said))
        columns = {c: np.concatenate(p, axis=1).astype(np.float32) for c, p in parts.items()}
        columns[outcome["reward"]] = np.append(episode.reward, 0.0).astype(np.float32)
        for name, how in (("success", True), ("failure", False)):
            if name in outcome:
                told = np.zeros(len(action), bool)
                told[-2] = episode.success is how
                columns[outcome[name]] = told
        yield TableEpisode(columns, episode.terminal, images)


def _by_capture(recording: Recording, contract: Contract) -> Recording:
    """Images are known when they are captured, where the contract says how late a robot knows them."""
    late = {}
    for o in contract.cameras:
        if o.latency:
            s = recording.streams[o.name]
            order = np.argsort(s.stamp, kind="stable")
            late[o.name] = Stream(s.stamp[order], s.stamp[order], s.values[order])
    return replace(recording, streams=recording.streams | late) if late else recording


def _columns(contract: Contract) -> list[tuple[str, Source]]:
    sources = contract_sources(contract)
    steady = [n for n in sources if n not in contract.outcome.sources]
    return [(column_name(contract, n), sources[n]) for n in steady]


def _names(source: Source) -> tuple[str, ...]:
    return source.names if source.names and len(source.fields) < 2 else source.row_labels


class _WithRaw(ObservationSource):
    """Gives what the policy sees, and behind it what the message said: alignment picks messages by
    the one, a table holds the other."""

    def features(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([super().features(values), values], axis=-1)


def _with_raw(contract: Contract) -> Contract:
    both = (
        _WithRaw(**{f.name: getattr(o, f.name) for f in fields(o)} | {"latency": 0.0})
        for o in contract.observations
    )
    return replace(contract, observations=tuple(both))
