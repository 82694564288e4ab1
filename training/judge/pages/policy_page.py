"""The report's page: what a policy, its critic and its data say before a robot moves.

In `policy/` each panel has its words (`*.html.j2`) and its figures (`*.js`), which draw from the
document of `training.judge.report` alone; `page.js` has what they share: which moment is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.judge.pages.page import render_interactive

SCRIPTS = (
    "plots.js",
    "sight.js",
    "policy/page.js",
    "policy/fitness.js",
    "policy/sweep.js",
    "policy/timeline.js",
    "policy/landscape.js",
    "policy/paths.js",
    "policy/estimators.js",
)


def render_report(document: Mapping[str, Any]) -> str:
    """The page (below 6 MB, of which plotly is 4.8) of the document of `training.judge.report`."""
    return render_interactive("report.html.j2", document, SCRIPTS)
