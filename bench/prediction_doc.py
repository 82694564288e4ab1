"""Writes the figures of docs/prediction.md: what `prediction.py` found, counted and correlated.

    python bench/prediction_doc.py --collect DIR --out bench/results/prediction-DATE.json
    python bench/prediction_doc.py

With --collect, results are put together from the folder of the study first. Between the document's
marks `begin: FILE` and `end` stands what `FILE` gives. A test holds them together.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from qgf_ros.console import say
from qgf_ros.errors import UsageError, exit_codes
from qgf_ros.statistics import TAILS, Interval, interval
from training.judge.evaluate import Rate

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "prediction.md"
BLOCK = re.compile(r"<!-- begin: (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
DEVELOPED = (0, 1)  # training seeds whose pairs could be looked at while the verdict was made
WORDS = ("unfit", "doubtful", "fit")
GROUPED = (("select", "report"), ("own labels", "true labels"))  # figures that stand side by side
DEFAULT, MIDDLE = "gentlest", "middle"  # suggestions; the first is the default of a policy
CHOICES = (DEFAULT, MIDDLE, "strongest", "floor")
RESAMPLES = 2000
Row = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """Writes the tables of docs/prediction.md."""

    collect: Path | None = None
    """Folder of the study; its results are put together first."""
    out: Path | None = None
    """File for them, below bench/results; needed with --collect."""

    def run(self) -> None:
        text = DOC.read_text()
        if self.collect is not None:
            if self.out is None:
                raise UsageError("--collect needs --out, a file below bench/results")
            self.out.write_text(json.dumps(collected(self.collect), indent=0) + "\n")
            name = self.out.resolve().relative_to(ROOT).as_posix()
            text = re.sub(r"begin: \S+ -->", f"begin: {name} -->", text)
        DOC.write_text(BLOCK.sub(lambda m: block(m[1]), text))
        say(f"written: {DOC}")


def collected(folder: Path) -> dict[str, Any]:
    """One row per pair: what was known, in numbers, and what happened."""
    said = {v.pop("pair"): v for path in folder.glob("verdicts-*.jsonl") for v in lines(path)}
    rows = []
    for path in sorted(folder.glob("[!v]*.jsonl")):
        for row in lines(path):
            offline, verdict = row.pop("offline"), said[row["pair"]]
            beta = max(row["beta"]["suggested"])
            known = {name: figures(offline[name], beta) for name in offline}
            for labels, its in verdict.items():
                checked = its.pop("figures")
                known[f"{labels} labels"] = {n: round(x, 5) if x else x for n, x in checked.items()}
            rows.append(
                {k: row[k] for k in row if k != "seconds"} | {"known": known, "verdict": verdict}
            )
    rows.sort(key=lambda r: (r["task"], r["seed"]))
    return {"pairs": rows}


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def figures(found: dict[str, Any], beta: float) -> dict[str, float | None]:
    """Of one group of episodes, by name, at that beta; None where the data cannot say."""

    def at(*path: str) -> float | None:
        value: Any = found
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        value = value.get("mean") if isinstance(value, dict) else value
        return round(value, 5) if isinstance(value, float) else None

    said = {
        "calibration slope": at("judge", "calibration", "slope"),
        "calibration bias": at("judge", "calibration", "bias"),
        "calibration correlation": at("judge", "calibration", "pearson"),
        "calibration rank correlation": at("judge", "calibration", "spearman"),
        "separation at the start": at("judge", "separation", "start"),
        "separation half-way": at("judge", "separation", "middle"),
        "TD error": at("judge", "td_error"),
        "disagreement, recorded": at("judge", "disagreement", "recorded"),
        "disagreement elsewhere, ratio": at("judge", "disagreement", "elsewhere_ratio"),
        "disagreement of noise, ratio": at("judge", "disagreement", "uniform_ratio"),
        "gradient over velocity": at("judge", "guidance", "ratio"),
    }
    if "reach" not in found:
        return said
    reached, moved = (
        next((p for p in points if math.isclose(p["beta"], beta)), {})
        for points in (found["reach"]["at_policy_betas"], found["beside"]["at"])
    )
    found = found | {"reached": reached, "moved": moved}
    return said | {
        "smallest stable beta": at("stability", "stable_beta"),
        "noise sensitivity, cosine": at("sensitivity", "qgf", "overall"),
        "spread of the gradient": at("sensitivity", "qgf", "norm_spread"),
        "agreement of the members' gradients": at("beside", "agreement"),
        "Q gain": at("reached", "gain"),
        "distance to the data": at("reached", "distance"),
        "outside the data": at("reached", "outside"),
        "guided sample moved by": at("moved", "moved"),
        "farther from what was recorded": at("moved", "farther"),
        "jerk, guided over recorded": at("moved", "jerk_ratio"),
        "toward what succeeded": at("moved", "toward_success"),
    }


def block(path: str) -> str:
    """The marks, and between them what that results file gives."""
    parts = tables(json.loads((ROOT / path).read_text())["pairs"])
    return f"<!-- begin: {path} -->\n" + "\n\n".join(parts) + "\n<!-- end -->\n"


def tables(rows: list[Row]) -> list[str]:
    return [
        counts(rows),
        "### Harm",
        harm(rows),
        "### The verdict, by what happened at the default beta",
        verdicts(rows, DEFAULT),
        "### The verdict, by what happened at the middle suggestion",
        verdicts(rows, MIDDLE),
        "### Rank correlation with the gain in success",
        correlations(rows),
        "### Misses",
        misses(rows),
        "### Every pair",
        every(rows),
    ]


def played(row: Row, choice: str) -> Row | None:
    """What happened at one of `CHOICES`; None where the policy names no such beta."""
    beta, suggested = row["beta"], sorted(row["beta"]["suggested"])
    named = {"floor": beta["min"]} | dict(zip(("strongest", MIDDLE, DEFAULT), suggested))
    return next((p for p in row["played"] if p["beta"] == named.get(choice)), None)


def successes(one: Row) -> np.ndarray:
    return np.array([int(x) for x in one["success"]])


def gain(row: Row, choice: str = DEFAULT) -> Interval:
    """In success over the unguided policy, on the same episodes, with a 95 % interval from a
    bootstrap over them; 0 where guidance is off."""
    one = played(row, choice)
    if one is None:
        return Interval(0.0, 0.0, 0.0)
    guided = successes(one)
    difference = guided - successes(row["played"][0])[: len(guided)]
    return _resampled(difference.astype(float).tobytes())


@cache
def _resampled(difference: bytes) -> Interval:
    """Of float64, one per episode: each row is asked for in many tables."""
    values = np.frombuffer(difference)
    return interval(values, np.arange(len(values)))


def harmful(row: Row, choice: str = DEFAULT) -> bool:
    """Beyond doubt."""
    return gain(row, choice).high < 0


def helpful(row: Row, choice: str = DEFAULT) -> bool:
    return gain(row, choice).low > 0


def developed(row: Row) -> bool:
    return row["seed"] in DEVELOPED


GROUPS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "development": developed,
    "fresh": lambda row: not developed(row),
}


def share(rows: Sequence[Row], of: Callable[[Row], bool]) -> str:
    count, total = sum(map(of, rows)), len(rows)
    if not total:
        return "none"
    low, high = Rate(count, total).interval
    return f"{count}/{total} ({low:.0%} to {high:.0%})"


def counts(rows: list[Row]) -> str:
    """What was run."""
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        of = [r for r in rows if r["task"] == task]
        for kind in dict.fromkeys(r["kind"] for r in of):
            mine = [r for r in of if r["kind"] == kind]
            rate = partial(_pooled, mine)
            lines.append(
                [task, kind, str(len(mine)), rate(lambda r: r["played"][0])]
                + [rate(lambda r, c=c: played(r, c)) for c in CHOICES[:3]]
                + [rate(lambda r: played(r, "floor")), f"{np.median(list(map(rougher, mine))):.1f}"]
                + [f"{sum(map(helpful, mine))} / {sum(map(harmful, mine))}"]
            )
    episodes = sum(len(p["success"]) for r in rows for p in r["played"][1:])
    heads = ["task", "critic", "pairs", "unguided", *CHOICES[:3], "floor", "rougher"]
    return (
        f"{len(rows)} pairs, {episodes} guided episodes. Success, over all training seeds; rougher: second "
        "differences of the commands at the default beta, as multiples of those unguided, median over "
        "pairs; better / worse: pairs that are so at the default beta beyond doubt (the 95 % interval of "
        "the paired difference is above / below 0).\n\n"
        + _table([*heads, "better / worse"], lines, 2)
    )


def rougher(row: Row) -> float:
    one = played(row, DEFAULT)
    return one["rough"] / row["played"][0]["rough"] if one else 1.0


def _pooled(rows: list[Row], at: Callable[[Row], Row | None]) -> str:
    won = [successes(one) for r in rows if (one := at(r)) is not None]
    return f"{np.concatenate(won).mean():.0%}" if won else ""


def harm(rows: list[Row]) -> str:
    lines = []
    for name, belongs in _followed(rows).items():
        for choice in CHOICES:
            mine = [r for r in rows if belongs(r)]
            point = share(mine, lambda r, c=choice: gain(r, c).mean < 0)
            lines.append([name, choice, point, share(mine, partial(harmful, choice=choice))])
    return _table(["pairs", "beta", "worse than unguided", "worse beyond doubt"], lines, 2)


def _followed(rows: list[Row]) -> dict[str, Callable[[Row], bool]]:
    """Of whom harm is counted: everybody, and those who do what the report says."""
    groups = dict(GROUPS)
    for word, within in (("fit", "all"), ("fit", "fresh"), ("doubtful", "all")):
        of = GROUPS[within]
        groups[f"called {word}, {within}"] = lambda r, w=word, of=of: of(r) and called(r) == w
    return {name: belongs for name, belongs in groups.items() if any(map(belongs, rows))}


def called(row: Row, labels: str = "own") -> str:
    """By the owner's labels, which are as spoilt as what the critic learnt from, or the true ones."""
    return str(row["verdict"][labels]["called"])


def verdicts(rows: list[Row], choice: str) -> str:
    """What the pairs had been called that turned out harmful or helpful at that beta."""
    lines = []
    for name, belongs in GROUPS.items():
        mine = [r for r in rows if belongs(r)]
        kinds = {
            "harmful": [r for r in mine if harmful(r, choice)],
            "neither": [r for r in mine if not harmful(r, choice) and not helpful(r, choice)],
            "helpful": [r for r in mine if helpful(r, choice)],
        }
        for kind, of in kinds.items():
            said = [share(of, lambda r, w=w: called(r) == w) for w in WORDS]
            lines.append([name, kind, *said, share(of, lambda r: called(r, "true") == "unfit")])
    heads = ["pairs", "in simulation", "called unfit", "doubtful", "fit"]
    return _table([*heads, "unfit by true labels"], lines, 2)


def correlations(rows: list[Row]) -> str:
    """Spearman's, of each figure with the gain at the default beta."""
    return "\n\n".join(_correlated(rows, groups) for groups in GROUPED)


def _correlated(rows: list[Row], groups: Sequence[str]) -> str:
    """ "both": of ranks within the task, so that the tasks' different levels do not count."""
    tasks = {t: [r for r in rows if r["task"] == t] for t in dict.fromkeys(r["task"] for r in rows)}
    if len(tasks) > 1:
        tasks["both"] = rows
    names = dict.fromkeys(n for r in rows for n in r["known"][groups[0]])
    lines = [[n, *(_correlation(of, g, n) for g in groups for of in tasks.values())] for n in names]
    return _table(["", *(f"{g}, {t}" for g in groups for t in tasks)], lines)


def _correlation(rows: list[Row], group: str, name: str) -> str:
    there = [r for r in rows if r["known"][group].get(name) is not None]
    if len(there) < 5:
        return ""
    task = np.array([r["task"] for r in there])
    x = np.array([r["known"][group][name] for r in there])
    y = np.array([gain(r).mean for r in there])
    rng = np.random.default_rng(20291)
    picks = rng.integers(len(there), size=(RESAMPLES, len(there)))
    counts = np.zeros((RESAMPLES, len(there)))  # how often each row was drawn
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], picks), 1)
    low, high = np.nanquantile(_ranked(x, y, task, counts), TAILS)
    whole = _ranked(x, y, task, np.ones((1, len(there))))[0]
    return f"{whole:.2f} ({low:.2f} to {high:.2f})"


def _ranked(x: np.ndarray, y: np.ndarray, task: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R,) correlations of the ranks within each task, which are centred and of one width; NaN where
    one of them does not vary.

    x, y, task: (n,). counts: (R, n), how often a resample has each row. All resamples at once: the
    rank of a row is how many are below it, and half of those that tie with it.
    """
    same = task[:, None] == task
    size = np.maximum(counts @ same, 1)  # rows of its task

    def centred(values: np.ndarray) -> np.ndarray:
        below, tied = same & (values[:, None] < values), same & (values[:, None] == values)
        ranks = (counts @ below + (counts @ tied + 1) / 2) / size
        return ranks - (counts * ranks) @ same / size

    u, v = centred(x), centred(y)
    norm = np.sqrt((counts * u * u).sum(1) * (counts * v * v).sum(1))
    varies = norm > 1e-9
    return np.where(varies, (counts * u * v).sum(1) / np.where(varies, norm, 1), np.nan)


def misses(rows: list[Row]) -> str:
    """By name, with what was said of them."""
    lines = []
    for row in rows:
        found = gain(row)
        bad = harmful(row) and called(row) != "unfit"
        alarm = helpful(row) and called(row) == "unfit"
        if bad or alarm:
            what = "harmful, not called unfit" if bad else "helpful, called unfit"
            reasons = " ".join(row["verdict"]["own"]["reasons"])
            lines.append([row["pair"], what, _signed(found), called(row), reasons])
    if not lines:
        return "None."
    return _table(["pair", "miss", "gain at the default beta", "called", "because"], lines, 5)


def every(rows: list[Row]) -> str:
    lines = [
        [r["pair"], str(max(r["beta"]["suggested"])), f"{successes(r['played'][0]).mean():.0%}"]
        + [_signed(gain(r, c)) for c in CHOICES[:3]]
        + [called(r)]
        for r in rows
    ]
    heads = ["pair", "default beta", "unguided", "gain, gentlest", MIDDLE, "strongest", "called"]
    return _table(heads, lines)


def _signed(i: Interval) -> str:
    return f"{100 * i.mean:+.0f} ({100 * i.low:+.0f} to {100 * i.high:+.0f})"


def _table(heads: list[str], lines: list[list[str]], left: int = 1) -> str:
    rule = ["---" if i < left else "---:" for i in range(len(heads))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


if __name__ == "__main__":
    with exit_codes():
        tyro.cli(Document, description=(__doc__ or "").splitlines()[0]).run()
    sys.exit(0)
