"""The lab's page: what guidance does to flows known in closed form, with every knob to turn.

In `lab/`: `flow.js` the mathematics, `plots.js` the drawing, `panels_*.js` what is drawn, `work.js`
what takes longer, the comparison with our own numbers among it, `knobs.js` the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plotly.offline import get_plotlyjs

from qgf_ros.report.page import FOLDER, render

SCRIPTS = ("flow", "plots", "panels_ask", "panels_why", "work", "knobs")


def render_lab(document: Mapping[str, Any]) -> str:
    """The page (about 5.5 MB, of which plotly is 4.8) of the document of `training.lab`."""
    own = "\n".join((FOLDER / f"lab/{name}.js").read_text() for name in SCRIPTS)
    return render("lab.html.j2", document=document, plotly=get_plotlyjs(), own=own)
