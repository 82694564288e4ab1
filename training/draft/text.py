"""Text of YAML: names that are somebody else's, numbers, comments."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

WIDTH = 100
MARK = "# confirm:"  # behind what is a guess


def identifier(text: str) -> str:
    """A ROS name out of any text."""
    found = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    return found if re.match(r"[A-Za-z_]", found) else f"column_{found}"


def scalar(text: str) -> str:
    """A string as YAML, quoted where it must be."""
    return yaml.safe_dump([text], default_flow_style=True, width=10**6).strip()[1:-1]


def comment(text: str) -> str:
    """One printable line."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def flow_list(names: Iterable[str]) -> str:
    """Strings as [a, b], broken into lines that are indented enough for any place in a contract."""
    text = yaml.safe_dump(list(names), default_flow_style=True, width=WIDTH - 8).strip()
    return text.replace("\n", "\n      ")


def digits(value: float) -> str:
    """Four digits, as a float of YAML 1.1: with a dot, also before an exponent."""
    mantissa, e, exponent = f"{float(value):.4g}".partition("e")
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{e}{exponent}"
