"""`qgf data label`: who won, said by a person. What it does with a file is in `labels`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgf_ros.cli import ReadsData
from qgf_ros.console import console, say, table, track
from qgf_ros.errors import UsageError
from training.pipeline.readers.formats import Data

if TYPE_CHECKING:
    from training.pipeline.labels import Label, Labels

KEYS = {"s": "success", "f": "failure", "u": "unknown", "x": "exclude"}
LARGEST_CSV = 16 * 2**20  # bytes
REMOVE = "none"


@dataclass(frozen=True)
class Row:
    """One episode, or one recording where no contract says what an episode is."""

    name: str
    seconds: float | None
    told: bool | None  # by the topics
    label: Label | None

    @property
    def outcome(self) -> str:
        """What training takes it for."""
        if self.label is not None and self.label.outcome:
            return self.label.outcome
        return {True: "success", False: "failure", None: "unknown"}[self.told]


@dataclass(frozen=True)
class DataLabel(ReadsData):
    """Say which episodes succeeded: writes and edits labels.yaml beside a dataset."""

    data: Data
    contract: Path | None = None
    """contract.yaml: what is an episode, and what topics say of it. Without it, recordings are listed."""
    set: tuple[str, ...] = ()
    """NAME=success, =failure, =unknown (it was cut), =exclude, or =none, which takes a label away."""
    from_file: Path | None = None
    """CSV with the columns name, outcome and, where they are, from and to [s]."""
    interactive: bool = False
    """Ask for each episode of which nobody said anything."""
    list: bool = False
    """Only list; change nothing."""

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.spaces.contract import Contract
        from training.pipeline.labels import Labels, labels_path
        from training.pipeline.labels import load_labels as load

        if self.list and (self.set or self.from_file or self.interactive):
            raise UsageError(
                "--list changes nothing; leave it out, or --set, --from-file, --interactive"
            )
        contract = Contract.load(self.contract) if self.contract else None
        path = labels_path(self.data, contract)
        before = (load(self.data, contract) if path.exists() else None) or Labels(path)
        entries = dict(before.entries)
        for name, label in [*_from_csv(self.from_file), *map(_from_option, self.set)]:
            if label is None and name not in entries:
                raise UsageError(f"{name!r} has no label to take away in {path}")
            old = entries.pop(name, None)
            if label is not None:
                trimmed = old is not None and label == replace(label, begin=0.0, end=float("inf"))
                entries[name] = replace(old, outcome=label.outcome) if old and trimmed else label
        labels = Labels(path, entries)
        rows = _rows(self.data, contract, labels)  # raises UsageError for names that there are not
        if entries != before.entries:
            labels.write()
        if self.interactive:
            labels, rows = _ask(labels, rows)
        _show(path, rows)
        counts = {o: sum(r.outcome == o for r in rows) for o in KEYS.values()}
        say(f"{path}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.items()))
        return {
            "labels": path,
            "changed": labels.entries != before.entries,
            "outcomes": counts,
            "episodes": [
                {
                    "name": r.name,
                    "seconds": r.seconds,
                    "told": {True: "success", False: "failure", None: ""}[r.told],
                    "label": r.label.to_value() if r.label is not None else "",
                    "outcome": r.outcome,
                }
                for r in rows
            ],
        }


def _rows(data: Path, contract: Any, labels: Labels) -> list[Row]:
    """Every episode, in the dataset's order. Raises UsageError for a label that none has."""
    from training.pipeline.align import check_numbers, endings
    from training.pipeline.labels import short_names
    from training.pipeline.readers.load import find_reader

    reader = find_reader(data)
    names = reader.recordings(data)
    found = labels.by_recording(data, names)
    short = short_names(data, names)
    if contract is None:
        return [
            Row(short[n] + number, None, None, label)
            for n in names
            for number, label in {"": None, **found.get(n, {})}.items()
        ]
    rows = []
    for name in track(names, len(names), "reading"):
        mine = found.get(name, {})
        episodes = endings(reader.read(data, name, contract), contract)
        check_numbers(short[name], mine, len(episodes))
        for number, seconds, end in episodes:
            label = mine.get(number or "#0", mine.get(""))
            rows.append(Row(short[name] + number, seconds, end.won, label))
    return rows


def _ask(labels: Labels, rows: list[Row]) -> tuple[Labels, list[Row]]:
    """Asks and writes after every answer, so that none is lost."""
    from rich.prompt import Prompt

    from training.pipeline.labels import Label

    say("s success, f failure, u unknown (it was cut), x exclude, n next, q quit")
    answered = []
    waiting = True
    for row in rows:
        if waiting and row.label is None and row.told is None:
            length = "" if row.seconds is None else f" ({row.seconds:.1f} s)"
            question, keys = f"{row.name}{length}", [*KEYS, "n", "q"]
            try:
                key = Prompt.ask(question, console=console, choices=keys, default="n")
            except EOFError:
                key = "q"
            waiting = key != "q"
            if key in KEYS:
                label = Label(KEYS[key])
                row = replace(row, label=label)
                labels = replace(labels, entries={**labels.entries, row.name: label})
                labels.write()
        answered.append(row)
    return labels, answered


def _show(path: Path, rows: list[Row]) -> None:
    table(
        "Episodes",
        ("name", "seconds", "topic says", "label", "outcome"),
        [
            (
                r.name,
                "" if r.seconds is None else f"{r.seconds:.2f}",
                {True: "success", False: "failure", None: ""}[r.told],
                "" if r.label is None else r.label,
                r.outcome,
            )
            for r in rows
        ],
    )


def _from_option(text: str) -> tuple[str, Label | None]:
    from training.pipeline.labels import parse_label

    name, equals, outcome = text.rpartition("=")
    if not equals or not name:
        raise UsageError(
            f"--set {text!r} must be NAME=success, failure, unknown, exclude or {REMOVE}"
        )
    return name, None if outcome == REMOVE else parse_label(outcome, f"--set {name}")


def _from_csv(path: Path | None) -> Iterable[tuple[str, Label | None]]:
    import csv

    from training.pipeline.labels import parse_label

    if path is None:
        return
    try:
        if path.stat().st_size > LARGEST_CSV:
            raise UsageError(f"{path} is larger than {LARGEST_CSV} bytes; it is no list of labels")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            wrong = [c for c in columns if c not in ("name", "outcome", "from", "to")]
            if wrong or len(set(columns)) < len(columns) or not {"name", "outcome"} <= set(columns):
                raise UsageError(
                    f"{path} has the columns {list(columns)[:8]}; it needs name and outcome, and may have from and to"
                )
            seen: set[str] = set()
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values() or not row["name"]:
                    raise UsageError(f"{where} must have {', '.join(columns)}, and nothing else")
                if row["name"] in seen:
                    raise UsageError(f"{where}: {row['name']!r} is there twice")
                seen.add(row["name"])
                value: dict[str, Any] = {"outcome": row["outcome"]} if row["outcome"] else {}
                for key in ("from", "to"):
                    if row.get(key):
                        try:
                            value[key] = float(row[key])
                        except ValueError:
                            raise UsageError(
                                f"{where}: {key} is {row[key]!r}, not seconds"
                            ) from None
                yield (
                    row["name"],
                    None if value.get("outcome") == REMOVE else parse_label(value, where),
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
