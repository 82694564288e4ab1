"""One recording in numbers that can be added up: small, whatever the recording's size."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qgf_ros.spaces.messages import BY_JOINT
from training.doctor.in_step import curves
from training.doctor.leads import Lead, leads
from training.doctor.roles import Pair, Role, joint, last_word, positions, role
from training.doctor.sample import Extremes, Sample, column_quantile
from training.pipeline.labels import Label
from training.pipeline.streams import Signal, Stream, Survey

ROWS, NUMBERS = 4096, 400_000  # kept of one signal
GAP_PERIODS = 5
FEW_GAPS = 5  # largest of a signal that are kept
STEADY = 20  # messages from which a signal has a rate


@dataclass(frozen=True)
class Gap:
    """Silence of a signal that otherwise has a rate."""

    seconds: float
    at: float  # s from the recording's beginning
    recording: int = 0


@dataclass(frozen=True)
class SignalSummary:
    """One topic or column: d numbers per message."""

    topic: str
    type: str
    labels: tuple[str, ...]
    units: str
    role: Role
    messages: int
    recordings: int  # that have it
    seconds: float  # between first and last message, added up
    # s between the stamps of neighbours, (k, 1); where messages name their joints (k, d), between those
    # that have the number
    intervals: Sample
    latency: Sample  # s from stamp to receipt, (k, 1)
    values: Sample  # (k, d)
    speeds: Sample  # |change| per s between neighbours that have the number, (k, d); of commands
    absent: np.ndarray  # (d,) messages that do not name the number's joint
    missing: np.ndarray  # (d,) other messages in which the number is not finite
    extremes: Extremes
    gaps: int
    largest: tuple[Gap, ...]
    backward: int  # stamps before their predecessor's
    repeated: int  # stamps equal to their predecessor's
    drift: float  # s by which stamp and receipt part in one recording, the largest of all
    frames: Counter[str]  # messages per frame_id, of messages that have one
    unset: int  # recordings in which no message carries a stamp of its own
    channels: str = ""  # of a camera: rgb, mono or depth
    pictures: tuple[np.ndarray, ...] = ()  # of a camera: of the first recording, small

    def merge(self, other: SignalSummary) -> SignalSummary:
        """Both together; `other` has the same labels."""
        size = rows_kept(len(self.labels))
        counts = (
            "messages recordings seconds absent missing gaps backward repeated frames unset".split()
        )
        return replace(
            self,
            **{key: getattr(self, key) + getattr(other, key) for key in counts},
            intervals=self.intervals.merge(
                other.intervals, size if self.type in BY_JOINT else ROWS
            ),
            latency=self.latency.merge(other.latency, ROWS),
            drift=max(self.drift, other.drift, key=abs),
            values=self.values.merge(other.values, size),
            speeds=self.speeds.merge(other.speeds, size),
            extremes=self.extremes.merge(other.extremes),
            largest=_largest(self.largest + other.largest),
        )

    def paces(self) -> np.ndarray:
        """Median and 99 % quantile of the intervals of each of `positions` [s], (2, m): one where messages
        name no joints. NaN where there is none."""
        rows = self.intervals.rows
        if self.type in BY_JOINT:
            rows = rows[:, [self.labels.index(n) for n in positions(self.labels)]]
        return column_quantile(rows, (0.5, 0.99))

    def pace(self) -> tuple[float, float]:
        """The same of what speaks most often."""
        found = self.paces()
        fastest = int(np.nanargmin(found[0])) if np.isfinite(found[0]).any() else 0
        return float(found[0, fastest]), float(found[1, fastest])

    def picked(self, labels: Sequence[str]) -> SignalSummary:
        """Of these numbers, in this order."""
        if self.labels == tuple(labels):
            return self
        pick = [self.labels.index(n) for n in labels]
        few, all_of = ("absent", "missing"), ("values", "speeds", "extremes")
        return replace(
            self,
            labels=tuple(labels),
            intervals=self.intervals.picked(pick) if self.type in BY_JOINT else self.intervals,
            **{key: getattr(self, key)[pick] for key in few},
            **{key: getattr(self, key).picked(pick) for key in all_of},
        )

    def numbered(self, recording: int) -> SignalSummary:
        gaps = tuple(replace(g, recording=recording) for g in self.largest)
        return replace(self, extremes=self.extremes.numbered(recording), largest=gaps)


@dataclass(frozen=True)
class RecordingSummary:
    """One recording, or the sentence why it cannot be read."""

    name: str
    refused: str = ""
    seconds: float = 0.0
    rows: int = 0  # of its longest signal
    episodes: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)  # success, failure, unknown
    rate: float = 0.0  # Hz that the dataset says
    stated: float = 0.0  # Hz that it states, where its timestamps say that rate
    whole: bool = False  # the recording is one episode
    content: str = ""  # SHA-256 of its numbers
    signals: dict[str, SignalSummary] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    unread: dict[str, dict[str, int]] = field(default_factory=dict)  # as a Survey has them
    simulated: bool = False
    unusable: dict[str, str] = field(
        default_factory=dict
    )  # of others: why, where they have numbers
    leads: dict[Pair, Lead] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # column -> why
    in_step: dict[str, np.ndarray] = field(default_factory=dict)  # by camera, see `in_step.curves`


def summarise(
    survey: Survey,
    pairs: Sequence[Pair],
    period: float,
    labels: Mapping[str, Label] | None = None,
) -> RecordingSummary:
    """period [s]: of the commands, for the leads of `pairs`. labels: as `Labels.by_recording` has them."""
    rng = np.random.default_rng(zlib.crc32(survey.name.encode()))
    spoken = [s.stream.receipt for s in survey.signals.values() if len(s.stream)]
    begin = min((int(r[0]) for r in spoken), default=0)
    end = max((int(r[-1]) for r in spoken), default=0)
    starts = _starts(survey)
    return RecordingSummary(
        name=survey.name,
        seconds=(end - begin) * 1e-9,
        rows=max((len(r) for r in spoken), default=0),
        episodes=max(len(starts), 1) if spoken else 0,
        outcomes=_outcomes(survey, starts, labels or {}) if spoken else {},
        rate=survey.rate,
        stated=survey.stated,
        whole=survey.one_episode,
        content=_content(survey, begin),
        signals={k: _signal(s, begin, starts, rng) for k, s in survey.signals.items()},
        others=survey.others,
        rejected=survey.rejected,
        unread=survey.unread,
        unusable=survey.unusable,
        simulated=survey.simulated,
        leads=leads(survey, pairs, period),
        unreadable=survey.unreadable,
        in_step=curves(survey, starts),
    )


def _signal(
    signal: Signal, begin: int, starts: np.ndarray, rng: np.random.Generator
) -> SignalSummary:
    stream, kind = signal.stream, role(signal.topic, signal.type)
    size = rows_kept(len(signal.labels))
    # Between two episodes of a bag nobody has to speak, and everything may jump.
    before, steps, part = neighbours(signal, starts)
    last = np.fmin.reduce(steps, axis=1)  # a message follows those that have a number of its own
    middle = column_quantile(steps, 0.5)
    gaps: tuple[Gap, ...] = ()
    if kind in ("state", "command", "camera"):
        silent = (stream.receipt[:, None] - stream.receipt[before]) * 1e-9
        steady = (np.isfinite(steps).sum(axis=0) + 1 >= STEADY) & (middle > 0)
        spoken = part[[signal.labels.index(n) for n in positions(signal.labels)]]
        steady &= np.isin(np.arange(len(middle)), spoken)
        long = np.isfinite(steps) & steady & (silent > GAP_PERIODS * middle)
        gaps = tuple(
            Gap(float(s[g].max()), float(stream.receipt[k[g].min()] - begin) * 1e-9)
            for s, g, k in zip(silent, long, before)
            if g.any()
        )
    speeds = np.empty((0, len(signal.labels)))
    if kind == "command":  # two messages in one instant have no speed
        speeds = _speeds(stream.values, before, np.where(steps >= middle / 2, steps, np.nan), part)
    by_joint = signal.type in BY_JOINT
    kept = Sample.of(steps[np.isfinite(last)], size if by_joint else ROWS, rng)
    if by_joint:
        kept = Sample(kept.rows[:, part], kept.keys)
    absent = _absent(signal)
    return SignalSummary(
        topic=signal.topic,
        type=signal.type,
        labels=signal.labels,
        units=signal.units,
        role=kind,
        messages=len(stream),
        recordings=1,
        seconds=float(stream.receipt[-1] - stream.receipt[0]) * 1e-9 if len(stream) else 0.0,
        intervals=kept,
        latency=Sample.of((stream.receipt - stream.stamp)[:, None] * 1e-9, ROWS, rng),
        values=Sample.of(stream.values, size, rng),
        speeds=Sample.of(speeds, size, rng),
        absent=absent.sum(axis=0),
        missing=(~np.isfinite(stream.values) & ~absent).sum(axis=0),
        extremes=Extremes.of(stream.values, (stream.receipt - begin) * 1e-9),
        gaps=len(gaps),
        largest=_largest(gaps),
        backward=int((last < 0).sum()),
        repeated=int((last == 0).sum()),
        drift=_drift(stream),
        frames=Counter(signal.frames),
        unset=int(len(stream) > 0 and bool((stream.stamp == stream.receipt).all())),
        channels=signal.channels,
        pictures=signal.pictures,
    )


def neighbours(signal: Signal, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each message the row before it that has the same numbers, and how long ago that was stamped [s].

    Numbers that come in the same messages are a part: (N, parts) each, and the part of each number, (d,).
    NaN, and the row itself, where a message has no such number, or is the episode's first.
    """
    stream = signal.stream
    part, there = np.zeros(len(signal.labels), int), np.ones((len(stream), 1), bool)
    if signal.type in BY_JOINT and np.isnan(stream.values).any():
        given = ~np.isnan(stream.values)
        known = dict.fromkeys(column.tobytes() for column in given.T)
        order = {key: k for k, key in enumerate(known)}
        part = np.array([order[column.tobytes()] for column in given.T])
        there = given[:, np.unique(part, return_index=True)[1]]
    rows = np.arange(len(stream))[:, None]
    before = np.full(there.shape, -1)
    before[1:] = np.maximum.accumulate(np.where(there, rows, -1), axis=0)[:-1]
    episode = np.searchsorted(starts, stream.receipt, side="right")
    follows = there & (before >= 0) & (episode[before] == episode[:, None])
    before = np.where(follows, before, rows)
    steps = np.where(follows, (stream.stamp[:, None] - stream.stamp[before]) * 1e-9, np.nan)
    return before, steps, part


def _speeds(
    values: np.ndarray, before: np.ndarray, steps: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """|change| per s, (k, d); before, steps and part as `neighbours` gives them."""
    keep = np.flatnonzero(np.isfinite(steps).any(axis=1))
    speeds = np.empty((len(keep), len(part)))
    with np.errstate(invalid="ignore"):
        for i, k in enumerate(part):
            change = np.subtract(values[keep, i], values[before[keep, k], i], dtype=float)
            speeds[:, i] = np.abs(change) / steps[keep, k]
    return speeds


def _absent(signal: Signal) -> np.ndarray:
    """(N, d): messages that do not name the number's joint."""
    lacks = np.isnan(signal.stream.values)
    if signal.type not in BY_JOINT or not lacks.any():
        return np.zeros_like(lacks)
    names = [joint(n)[1] for n in signal.labels]
    for name in set(names):
        own = [i for i, n in enumerate(names) if n == name]
        lacks[:, own] = lacks[:, own].all(axis=1, keepdims=True)
    return lacks


def rows_kept(width: int) -> int:
    """Rows of `width` numbers that a sample keeps."""
    return int(np.clip(NUMBERS // max(width, 1), 64, ROWS))


def _drift(stream: Stream) -> float:
    """Latency at the end of a recording less that at its beginning [s]; medians, not single messages."""
    tenth = len(stream) // 10
    if tenth < STEADY:
        return 0.0
    latency = (stream.receipt - stream.stamp) * 1e-9
    return float(np.median(latency[-tenth:]) - np.median(latency[:tenth]))


def _largest(gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    return tuple(sorted(gaps, key=lambda g: -g.seconds)[:FEW_GAPS])


def _starts(survey: Survey) -> np.ndarray:
    """Receipt of the messages that begin an episode."""
    for topic, signal in survey.signals.items():
        if last_word(topic) == "episode_start":
            return signal.stream.receipt
    return np.empty(0, np.int64)


def _outcomes(survey: Survey, starts: np.ndarray, labels: Mapping[str, Label]) -> dict[str, int]:
    """Episodes per outcome: by label, else by a column or topic named success, or failure. A table
    that never says true ended in failure where its done column says that it ended."""
    said = {last_word(t): s.stream for t, s in survey.signals.items() if s.labels and len(s.stream)}
    ends = ["unknown"] * max(len(starts), 1)
    for name in ("success", "failure"):
        if name not in said:
            continue
        true = said[name].values[:, 0] > 0.5
        other = "failure" if name == "success" and not survey.one_episode else "unknown"
        at = np.maximum(np.searchsorted(starts, said[name].receipt, side="right") - 1, 0)
        for k in np.unique(at):
            ends[k] = name if true[at == k].any() else other if ends[k] == "unknown" else ends[k]
    done = said.get("done")
    if survey.one_episode and "success" in said and done is not None and ends == ["unknown"]:
        ends = ["failure"] if (done.values[:, 0] > 0.5).any() else ends
    for k in range(len(ends)):
        label = labels.get(f"#{k}", labels.get(""))
        ends[k] = label.outcome or ends[k] if label is not None else ends[k]
    return dict(Counter(e for e in ends if e != "exclude"))


def _content(survey: Survey, begin: int) -> str:
    digest = hashlib.sha256()
    for topic in sorted(t for t, s in survey.signals.items() if role(t, s.type) != "index"):
        signal = survey.signals[topic]
        digest.update(f"{topic} {signal.labels} {signal.stream.values.shape}".encode())
        digest.update((signal.stream.stamp - begin).data)
        digest.update(np.ascontiguousarray(signal.stream.values).data)
    return digest.hexdigest()
