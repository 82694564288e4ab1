"""A first contract from what a recording holds. Every guess says where it came from.

The draft is meant to be read: what the recording cannot say (which units, whether every episode
succeeded, what a robot can do beyond what it did) is written as `# confirm:`, and what this
version cannot use is listed with the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qgf_ros.console import track
from qgf_ros.errors import UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.files.strict_yaml import FILL_IN, parse_yaml
from qgf_ros.spaces.contract import Contract
from training.doctor.dataset import Dataset, survey_dataset
from training.doctor.roles import last_word
from training.doctor.summary import SignalSummary
from training.draft.outcome import table_outcome
from training.draft.poses import named
from training.draft.sources import Lines, Notes, actions, observations
from training.draft.text import MARK, comment, scalar


@dataclass(frozen=True)
class Draft:
    """The text of a contract, and what only a person can say."""

    text: str
    to_fill_in: tuple[str, ...]
    loads: bool

    @property
    def guesses(self) -> int:
        return self.text.count(MARK)


def draft(
    path: Path, out: Path, period: float | None = None, horizon: int = 8, workers: int = 1
) -> Draft:
    """Drafts a contract from all recordings of a dataset and writes it to `out`.

    Raises:
        UsageError: `out` exists, or period or horizon are out of range.
        DataRefused: there is no dataset, or none of its recordings can be read.
    """
    if out.exists():
        raise UsageError(f"{out} exists already; choose another --out, or remove it")
    if period is not None and not 1e-4 <= period <= 10:
        raise UsageError(f"period is {period} s; allowed: 0.0001 to 10 s")
    if not 1 <= horizon <= 256:
        raise UsageError(f"horizon is {horizon}; allowed: 1 to 256")
    drafted = drafted_from(survey_dataset(path, None, workers, track), period, horizon)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as file:
        file.write(drafted.text.encode())
    return drafted


def drafted_from(data: Dataset, period: float | None, horizon: int) -> Draft:
    """The draft, tried: it says of itself whether it loads."""
    said, why = _period(data, period)
    notes, pace = Notes(), said if data.timeless else 1.0
    commands, measured = actions(data, pace, notes)
    states = observations(data, said, pace, measured, notes)
    body = [
        "contract: 1",
        f"robot: {scalar(_robot(data.path))}   {MARK} taken from the folder's name",
        "",
        "time:",
        f"  period: {said!r}   {why}",
        f"  horizon: {horizon}   {MARK} actions per chunk, {horizon * said:.2g} s; half a second to a second is usual",
        "",
        "observations:   # in the order of the network's input",
        *(states or ["  []"]),
        "",
        "actions:   # in the order of the network's output",
        *(commands or ["  []"]),
        "",
        *(table_outcome(data) or _outcome(data)),
    ]
    if notes.left:
        body += ["", "# Left out:", *(f"# - {comment(line)}" for line in notes.left)]
    text = "\n".join(body)
    for topic, name in notes.names.items():
        text = text.replace(named(topic), scalar(name))
    body = text.split("\n")
    waits = FILL_IN in re.sub(r"#.*", "", text)
    # What else is wrong shows when somebody has filled in what is open.
    # Where limits and what measures a pose are open, nothing stands in for them.
    open_ones = re.search(rf"(?m)^      \S+: {FILL_IN}|pose: {FILL_IN}|home: {FILL_IN}", text)
    problem = "" if open_ones else _problem(_as_filled_in(text))
    length = "" if data.timeless else f", {sum(r.seconds for r in data.readable):.4g} s"
    head = [
        f"# Drafted from {comment(str(data.path))}: {len(data.readable)} recordings, "
        f"{data.episodes} episodes{length}.",
        "# Every `confirm` is a guess. Confirm limits against the robot before anything moves.",
    ]
    to_fill_in = [*notes.open, *([f"it does not load yet: {problem}"] if problem else [])]
    head += ["#", "# FILL IN:"] * bool(to_fill_in) + [f"# - {comment(p)}" for p in to_fill_in]
    return Draft("\n".join(head + body) + "\n", tuple(to_fill_in), not problem and not waits)


def _as_filled_in(text: str) -> str:
    text = re.sub(rf"(?m)^  - {FILL_IN}.*\n", "", text)
    text = re.sub(rf"(frame: ){FILL_IN}", r"\1base_link", text)
    return text.replace(f": {FILL_IN}", ": velocity")


def _problem(text: str) -> str:
    """Why it does not load; "" if it does."""
    try:
        Contract.from_dict(parse_yaml(text.encode(), "contract"))
    except UsageError as error:
        return str(error)
    return ""


def _period(data: Dataset, given: float | None) -> tuple[float, str]:
    """[s], and where it is from."""
    if given is not None:
        return given, "# s"
    if data.timeless:
        return data.period, f"{MARK} s; nothing in the recording says it"
    stated = any(r.rate for r in data.readable)
    if not stated and not data.of("command"):
        return data.period, f"{MARK} s; nothing is commanded in the recording"
    # Of several recordings the first that was looked at need not be as most are.
    rate = data.rate if data.stated else 1 / data.period
    near = round(rate)
    close = 0.001 if data.stated else 0.01
    period = 1 / near if near and abs(rate - near) < close * near else float(f"{1 / rate:.4g}")
    why = "as the dataset says" if stated else "median of the commands"
    if data.stated:
        why = f"by the timestamps; the dataset says {data.stated:g} fps, which is not so"
    return period, f"{MARK} s; {why}, {1 / period:.4g} Hz"


def _robot(path: Path) -> str:
    return path.resolve().name or "robot"


def _outcome(data: Dataset) -> Lines:
    """Where reward and success come from: topics and columns of those names."""
    found = {
        last_word(s.topic): s for s in data.signals.values() if s.role == "outcome" and s.messages
    }
    success, reward = found.get("success"), found.get("reward") or found.get("rewards")
    lines = ["outcome:"]
    if reward is not None and _varies(reward):
        lines.append(f"  objective: reward   {MARK} a reward is recorded, and varies")
    else:
        reward = None
        lines.append(f"  objective: time_to_success   {MARK} 1 at success, worth less the later")
    if reward is not None:
        lines.append(f"  reward: {_number_source(reward, 'reward', 'std_msgs/Float64')}")
    if success is not None:
        lines.append(f"  success: {_number_source(success, 'success', 'std_msgs/Bool')}")
    elif reward is None:
        lines.append(
            f"  assume_success: true   {MARK} nothing says how episodes ended: did all of them succeed?"
        )
    for topic, kind in {**data.others, **{s.topic: s.type for s in data.signals.values()}}.items():
        if last_word(topic) == "episode_start" and kind == "std_msgs/Header":
            lines.append(
                f"  episode_start: {{topic: {scalar(topic.strip('/'))}, type: std_msgs/Header}}"
            )
    return lines


def _varies(s: SignalSummary) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(
            len(s.labels) == 1 and np.nanmin(s.extremes.values) < np.nanmax(s.extremes.values)
        )


def _number_source(s: SignalSummary, name: str, type_name: str) -> str:
    kind, topic = s.type or type_name, s.topic.strip("/") if s.type else name
    column = "" if s.type else f", column: {scalar(s.topic)}"
    return f"{{topic: {scalar(topic)}, type: {kind}, fields: [data]{column}}}"
