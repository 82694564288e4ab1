"""What is in a dataset on one page, drawn from the document of `qgf data inspect` alone: the words by
`doctor_page.html.j2`, the figures by `doctor_page.js`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.judge.pages.page import FOLDER, render_interactive

MOST = 60  # rows of a figure; what comes after stands in the document


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """One self-contained HTML file."""
    scripts = [FOLDER / name for name in ("plots.js", "sight.js", "doctor_page.js")]
    drawn = figures(document)
    path.write_text(
        render_interactive("doctor_page.html.j2", {"figures": drawn}, scripts, d=document)
    )


def figures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{kind, title, about, rows, ...} of every figure that there is something to draw for."""
    told = [s for s in document["signals"] if s["role"] in ("state", "command") and s["numbers"]]
    drawn = [_recordings(document)]
    timed = [s for s in told if s["interval_ms"]][:MOST]
    if timed:
        drawn.append(
            {
                "kind": "intervals",
                "title": "Intervals between messages",
                "about": "Median and 99 % quantile; the cross is the longest gap.",
                "rows": [
                    {
                        "name": s["topic"],
                        **s["interval_ms"],
                        "gap": s["largest_gaps"][0]["seconds"] * 1e3 if s["largest_gaps"] else None,
                    }
                    for s in timed
                ],
            }
        )
    leads = [c for c in document["commands"] if c["lead_ms"] is not None][:MOST]
    if leads:
        drawn.append(
            {
                "kind": "leads",
                "title": "Command lead",
                "about": "How long before the state its command came: median over recordings, and "
                "quartiles. Grey: the two hardly go together.",
                "rows": [
                    {
                        "name": c["name"],
                        "lead": c["lead_ms"],
                        "quartiles": c["lead_ms_quartiles"],
                        "clear": c["correlation"] is not None and c["correlation"] >= 0.5,
                    }
                    for c in leads
                ],
            }
        )
    for signal in told[:MOST]:
        rows, count = signal["numbers"][:MOST], len(signal["numbers"])
        drawn.append(
            {
                "kind": "ranges",
                "title": f"Ranges of {signal['topic']}",
                "about": "Bar: middle half; line: 98 %; marks: smallest and largest."
                + (f" The first {MOST} of {count}." if count > MOST else ""),
                "unit": signal["units"] or "as recorded",
                "rows": [
                    {
                        "name": n["name"],
                        "quantiles": list(n["quantiles"].values()),
                        "ends": [n["min"], n["max"]],
                    }
                    for n in rows
                ],
            }
        )
    return drawn


def _recordings(document: Mapping[str, Any]) -> dict[str, Any]:
    where = {r["name"]: k for k, r in enumerate(document["lengths"])}
    return {
        "kind": "recordings",
        "title": "Recordings",
        "about": "Length of each; a mark is a gap, as long as it is tall.",
        "rows": [r["seconds"] for r in document["lengths"]],
        "gaps": [
            [where[g["recording"]], g["at"], g["at"] + g["seconds"]]
            for s in document["signals"]
            for g in s["largest_gaps"]
        ],
    }
