"""One HTML file from a template: no network, prints well, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from qgf_ros.console import some

FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The page that `template`, a file below `training`, makes of `values`.

    Names in the data are somebody else's text: all is escaped but what a template calls `safe`.
    Raises jinja2.UndefinedError where a value is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((FOLDER, FOLDER.parents[1])),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["number"] = number
    environment.filters["some"] = some
    return environment.get_template(template).render(values)


def render_interactive(
    template: str, document: Mapping[str, Any], scripts: Sequence[Path], **values: Any
) -> str:
    """A page whose figures answer: the document, plotly (4.8 MB) and `scripts` are in it. Its scripts
    find the document in the element of that name."""
    own = "\n".join(script.read_text() for script in scripts)
    return render(template, document=document, plotly=get_plotlyjs(), own=own, **values)


def number(value: Any) -> str:
    """Three digits; a dash for what is not known."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.3g}"
