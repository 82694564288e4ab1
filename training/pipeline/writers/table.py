"""Recordings as tables: aligned by the contract, with the numbers that the robot said, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from qgf_ros.bags.sources import contract_sources
from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource
from qgf_ros.spaces.source import Source
from training.pipeline.align import align
from training.pipeline.labels import Label
from training.pipeline.readers.tables import column_name
from training.pipeline.report import Report
from training.pipeline.streams import Recording

RESERVED = (
    "timestamp", "frame_index", "episode_index", "index", "task_index", "is_last", "is_terminal",
    "terminals", "masks", "fps", "names",
)  # fmt: skip


@dataclass(frozen=True)
class TableEpisode:
    """One episode on the control grid, T + 1 rows: the last holds only the state that the episode
    was left in, and says its action again. Reward and success are of the period after their row.

    columns: (T + 1, d) float32, and (T + 1,) of the outcome: float32 of reward, bool of success.
    """

    columns: dict[str, np.ndarray]
    terminal: bool

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.columns.values())))


def layout(contract: Contract) -> dict[str, tuple[str, ...]]:
    """Column -> a name for each of its numbers. Sources that name one column share it.

    Raises UsageError where a name or a column means two things.
    """
    names: dict[str, tuple[str, ...]] = {}
    for column, source in _columns(contract):
        if "/" in column or "\0" in column:
            raise UsageError(f"column {column!r} cannot be written: it has a slash in its name")
        twice = [n for n in _names(source) if n in names.get(column, ())]
        if twice:
            raise UsageError(
                f"{', '.join(twice)} of {source.topic} is in column {column!r} already; such a table "
                "can be read, not written"
            )
        names[column] = names.get(column, ()) + _names(source)
    columns = [*names, *outcome_columns(contract).values()]
    taken = sorted({c for c in columns if c in RESERVED or columns.count(c) > 1})
    if taken:
        raise UsageError(
            f"column {', '.join(taken)} would mean two things; reward, success and the formats' own "
            f"({', '.join(RESERVED)}) need theirs"
        )
    return names


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
    """The episodes of a recording, aligned as for training. labels: as `align` takes them."""
    outcome, names = outcome_columns(contract), layout(contract)
    for episode in align(recording, _with_raw(contract), report, labels):
        parts: dict[str, list[np.ndarray]] = {column: [] for column in names}
        at = 0
        for o in contract.observations:
            at += len(o.feature_labels)
            parts[column_name(contract, o.name)].append(episode.obs[:, at : at + len(o.labels)])
            at += len(o.labels)
        action = np.concatenate([episode.action, episode.action[-1:]])
        for name, part in contract.action_slices.items():
            parts[column_name(contract, name)].append(action[:, part])
        columns = {c: np.concatenate(p, axis=1).astype(np.float32) for c, p in parts.items()}
        columns[outcome["reward"]] = np.append(episode.reward, 0.0).astype(np.float32)
        for name, how in (("success", True), ("failure", False)):
            if name in outcome:
                told = np.zeros(len(action), bool)
                told[-2] = episode.success is how
                columns[outcome[name]] = told
        yield TableEpisode(columns, episode.terminal)


def _columns(contract: Contract) -> list[tuple[str, Source]]:
    sources = contract_sources(contract)
    steady = [n for n in sources if n not in contract.outcome.sources]
    return [(column_name(contract, n), sources[n]) for n in steady]


def _names(source: Source) -> tuple[str, ...]:
    return source.names if source.names and len(source.fields) < 2 else source.labels


class _WithRaw(ObservationSource):
    """Gives what the policy sees, and behind it what the message said: alignment picks messages by
    the one, a table holds the other."""

    def features(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([super().features(values), values], axis=-1)


def _with_raw(contract: Contract) -> Contract:
    both = (
        _WithRaw(**{f.name: getattr(o, f.name) for f in fields(o)}) for o in contract.observations
    )
    return replace(contract, observations=tuple(both))
