"""The lab's page: what guidance does to flows known in closed form, with every knob to turn.

In `lab/`: `flow.js` the mathematics, `plane.js` and `panels_*.js` what is drawn, `work.js` what
takes longer, the comparison with our own numbers among it, `knobs.js` the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.judge.pages.page import render_interactive

SCRIPTS = (
    "lab/flow.js",
    "plots.js",
    "sight.js",
    "lab/plane.js",
    "lab/panels_ask.js",
    "lab/panels_why.js",
    "lab/work.js",
    "lab/knobs.js",
)


def render_lab(document: Mapping[str, Any]) -> str:
    """The page (about 5.5 MB) of the document of `training.lab`."""
    return render_interactive("lab.html.j2", document, SCRIPTS)
