"""`qgf data inspect`: the document, its tables, its page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qgf_ros.console import plain, say, table, track
from qgf_ros.spaces.contract import Contract
from training.doctor.check import Check
from training.doctor.check_timing import TRUSTED, combined
from training.doctor.check_values import constants, saturation
from training.doctor.checks import checks, worst
from training.doctor.dataset import Dataset, rate, survey_dataset
from training.doctor.sample import column_quantile
from training.doctor.summary import SignalSummary
from training.judge.pages.doctor_page import write_page

DOCUMENT, PAGE = "inspect.json", "inspect.html"
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
SHOWN_CONSTANTS = 3
DEPTHS = (0.01, 0.99)  # quantiles between which the depths of pictures are told apart
NEAREST = 40  # of 255: no grey of what was measured is the black of what was not


def examine(
    path: Path, out: Path, contract_path: Path | None = None, workers: int = 1
) -> dict[str, Any]:
    """Inspects a dataset, prints tables, writes `out`/inspect.json and inspect.html.

    Returns the document: plain, with null for what is not known.

    Raises:
        UsageError: the contract is none.
        DataRefused: there is no dataset, or none of its recordings can be read.
    """
    contract = Contract.load(contract_path) if contract_path else None
    data = survey_dataset(path, contract, workers, track)
    found = checks(data)
    content = plain(document(data, found))
    out.mkdir(parents=True, exist_ok=True)
    (out / DOCUMENT).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_page(out / PAGE, content)
    show(content)
    say(f"written: {out / DOCUMENT}, {out / PAGE}")
    return content


def document(data: Dataset, found: Sequence[Check]) -> dict[str, Any]:
    """Everything that is known, for JSON and for the page."""
    lengths = [r.rows for r in data.readable if r.whole] or [r.rows for r in data.readable]
    return {
        "data": data.path,
        "format": data.format,
        "recordings": len(data.recordings),
        "episodes": data.episodes,
        "hours": None if data.timeless else sum(r.seconds for r in data.readable) / 3600,
        "rate_hz": None if data.timeless else data.rate,
        "rows": {"all": sum(lengths), "shortest": min(lengths), "longest": max(lengths)},
        "outcomes": data.outcomes,
        "verdict": worst(found),
        "checks": [asdict(c) for c in found],
        "command_lead_ms": {p.name: combined(x).seconds * 1e3 for p, x in data.leads.items()},
        "commands": [_command(data, pair, leads) for pair, leads in data.leads.items()],
        "signals": [_signal(s, data) for s in data.signals.values()],
        "others": data.others,
        "unread": data.unusable | data.undecoded,
        "contract": _contract(data),
        "rejected": dict(data.rejected),
        "noticed": dict(data.noticed),
        "refused": {r.name: r.refused for r in data.refused},
        "lengths": [{"name": r.name, "seconds": r.seconds, "rows": r.rows} for r in data.readable],
    }


def _command(data: Dataset, pair: Any, found: Sequence[Any]) -> dict[str, Any]:
    all_of = combined(found)
    clear = [x.seconds for x in found if x.correlation >= TRUSTED]
    spread = np.quantile(clear, (0.25, 0.75)) if clear else (np.nan, np.nan)
    return {
        "name": pair.name,
        "command": pair.command,
        "label": pair.label,
        "state": pair.state,
        "state_label": pair.state_label,
        "matched_by": pair.by,
        "lead_ms": all_of.seconds * 1e3,
        "lead_ms_quartiles": [float(x) * 1e3 for x in spread],
        "correlation": all_of.correlation,
        "steady_offset": all_of.offset,
    }


def _signal(s: SignalSummary, data: Dataset) -> dict[str, Any]:
    middle, late = s.pace()
    ages = s.latency.quantile((0.5, 0.99))[:, 0]
    values = column_quantile(s.values.rows, QUANTILES)
    low, high = (f.reduce(s.extremes.values) for f in (np.fmin, np.fmax))
    timed = not data.timeless
    return {
        "topic": s.topic,
        "type": s.type,
        "role": s.role,
        "units": s.units,
        "messages": s.messages,
        "recordings": s.recordings,
        "rate_hz": rate(s) if timed else None,
        "interval_ms": {"median": middle * 1e3, "p99": late * 1e3} if timed and rate(s) else None,
        "gaps": s.gaps,
        "largest_gaps": [
            {"seconds": g.seconds, "at": g.at, "recording": data.recordings[g.recording].name}
            for g in s.largest
        ],
        "age_ms": {"median": ages[0] * 1e3, "p99": ages[1] * 1e3},
        "stamps_back": s.backward,
        "stamps_repeated": s.repeated,
        "constant": [] if s.role == "camera" else constants(s),
        "pictures": [_uri(picture) for picture in strip(s)],
        "numbers": [
            {
                "name": label,
                "min": low[i],
                "max": high[i],
                "quantiles": dict(zip(map(str, QUANTILES), values[:, i])),
                "missing": s.missing[i],
                "saturated": saturation(s, i)[0],
            }
            for i, label in enumerate(s.labels)
        ],
    }


def strip(s: SignalSummary) -> list[np.ndarray]:
    """A camera's pictures as people look at them: a depth from black, which was not measured, over dark, the
    nearest that all of them show, to white, the farthest. Of the 10 m that are looked at, the work is a part
    in which nobody could tell one grey from another."""
    if s.channels != "depth":
        return list(s.pictures)
    measured = [p[p > 0] for p in s.pictures if (p > 0).any()]
    if not measured:
        return list(s.pictures)
    near, far = np.quantile(np.concatenate(measured), DEPTHS)
    greys = [NEAREST + (255 - NEAREST) * (p - near) / max(far - near, 1) for p in s.pictures]
    return [
        np.where(p > 0, np.clip(grey, NEAREST, 255), 0).astype(np.uint8)
        for p, grey in zip(s.pictures, greys)
    ]


def _uri(picture: np.ndarray) -> str:
    """A small picture for a page, in colour where there is one: red and blue that changed places are seen."""
    import simplejpeg

    space = "RGB" if picture.shape[2] == 3 else "GRAY"
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 80, space)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _contract(data: Dataset) -> dict[str, Any] | None:
    part = data.aligned
    if part is None or data.contract is None:
        return None
    totals = [e.total for e in part.episodes]
    return {
        "robot": data.contract.robot,
        "episodes": part.report.episodes,
        "ticks": part.report.ticks,
        "dropped": {why: n for why, n in part.report.dropped.items() if n},
        "refused": part.refused,
        "success_assumed": data.contract.outcome.assume_success,
        "reward": list(part.rewards) if totals else None,
        "return": [min(totals), max(totals)] if totals else None,
        "ages_ms": {
            name: dict(zip(("median", "p99"), sample.quantile((0.5, 0.99))[:, 0] * 1e3))
            for name, sample in part.ages.items()
            if len(sample.rows)
        },
    }


def show(content: dict[str, Any]) -> None:
    """Three tables for a person."""
    said = ", ".join(f"{k} {v}" for k, v in content["outcomes"].items())
    said += "" if content["outcomes"]["failure"] else "; no failures are recorded"
    table(
        f"{content['data']}",
        ("figure", "value"),
        [
            ("format", content["format"]),
            ("recordings", content["recordings"]),
            ("episodes", content["episodes"]),
            ("hours", _number(content["hours"])),
            ("Hz", _number(content["rate_hz"])),
            ("outcomes", said),
        ],
    )
    table(
        "Signals",
        ("signal", "role", "Hz", "jitter ms", "longest gap s", "numbers", "constant"),
        [_row(s) for s in content["signals"]],
    )
    if content["commands"]:
        table(
            "Commands",
            ("number", "lead ms", "correlation", "offset at rest", "follows", "matched by"),
            [
                (
                    c["name"],
                    *(_number(c[k]) for k in ("lead_ms", "correlation", "steady_offset")),
                    c["state"]
                    if c["state_label"] == c["name"]
                    else f"{c['state']} {c['state_label']}",
                    c["matched_by"],
                )
                for c in content["commands"]
            ],
        )
    table(
        "Checks",
        ("check", "verdict", "found", "fix"),
        [(c["name"], c["verdict"], c["found"], c["fix"]) for c in content["checks"]],
    )


def _row(s: dict[str, Any]) -> tuple[Any, ...]:
    still = s["constant"]
    names = ", ".join(still[:SHOWN_CONSTANTS]) + (" ..." if len(still) > SHOWN_CONSTANTS else "")
    gaps = s["largest_gaps"]
    return (
        s["topic"],
        s["role"],
        _number(s["rate_hz"]),
        _number(s["interval_ms"] and s["interval_ms"]["p99"] - s["interval_ms"]["median"]),
        f"{gaps[0]['seconds']:.3g}" if gaps else "-",
        "-" if s["role"] == "camera" else len(s["numbers"]),
        "-" if s["role"] == "camera" else f"{len(still)}: {names}" if still else 0,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
