"""The report's page: what a policy, its critic and its data say before a robot moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.judge.pages.page import FOLDER, render_interactive
from training.judge.panels import FOLDER as OF_PANELS
from training.judge.panels import PANELS


def render_report(document: Mapping[str, Any]) -> str:
    """The page (below 6 MB, of which plotly is 4.8; with cameras below 8) of the document of
    `training.judge.report`."""
    panels = [name for name in PANELS if name in document]
    shared = [FOLDER / name for name in ("plots.js", "sight.js", "report.js")]
    own = [
        script
        for name in panels
        for script in sorted((OF_PANELS / name).glob("*.js"), key=lambda f: f.name != "panel.js")
    ]
    return render_interactive("report.html.j2", document, [*shared, *own], panels=panels)
