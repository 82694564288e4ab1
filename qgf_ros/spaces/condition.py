"""Field tests: "wrench.force.z > 3 N for 0.5 s", parsed by hand and never evaluated as code.

    test        comparison {"and" comparison} ["for" NUMBER "s"]
    comparison  NAME ("<" | "<=" | ">" | ">=") NUMBER [UNIT]

The unit is for people: the number is in the message's own. The duration is of all comparisons
together.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LONGEST_TEXT = 500  # characters
LONGEST = 3600.0  # s
GRAMMAR = "NAME < | <= | > | >= NUMBER [unit] [and ...] [for SECONDS s]"
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TOKEN = re.compile(r"[<>]=?|[^\s<>]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Comparison:
    """One number of a message against a threshold."""

    index: int  # of the number in the source's labels
    operator: str
    threshold: float
    unit: str = ""


@dataclass(frozen=True)
class Condition:
    """Comparisons that must all hold, for `seconds` without a break."""

    comparisons: tuple[Comparison, ...]
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str, names: Mapping[str, int]) -> Condition:
        """Reads a test.

        Args:
            names: what may be compared, and the index of its number.

        Raises:
            ValueError: it is none; says where, and what is allowed.
        """
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"test has {len(text)} characters; at most {LONGEST_TEXT}")
        tokens = _TOKEN.findall(text)[::-1]  # taken from the end

        def take(what: str) -> str:
            if not tokens:
                raise ValueError(f"test {text!r} ends where {what} is expected: {GRAMMAR}")
            return tokens.pop()

        comparisons, seconds = [], 0.0
        while True:
            name = take("a name")
            if name not in names:
                raise ValueError(f"test {text!r}: {name!r} is not known; allowed: {_listed(names)}")
            sign = take("<, <=, > or >=")
            if sign not in _OPERATORS:
                raise ValueError(f"test {text!r}: {sign!r} is none of <, <=, >, >=")
            threshold, unit = _number(text, take("a number")), ""
            if tokens and tokens[-1] not in ("and", "for"):
                unit = take("a unit")
                if not (unit[0].isalpha() or unit[0] in "%°"):
                    raise ValueError(f"test {text!r}: {unit!r} is no unit, nor and, nor for")
            comparisons.append(Comparison(names[name], sign, threshold, unit))
            rest = tokens.pop() if tokens else ""
            if rest == "and":
                continue
            if rest == "for":
                seconds = _number(text, take("a duration"))
                if take("s") != "s" or not 0 <= seconds <= LONGEST:
                    raise ValueError(f"test {text!r}: the duration is 0 to {LONGEST:g} s, in s")
                rest = tokens.pop() if tokens else ""
            if rest:
                raise ValueError(f"test {text!r}: {rest!r} stands where it cannot: {GRAMMAR}")
            return cls(tuple(comparisons), seconds)

    def holds(self, values: np.ndarray) -> np.ndarray:
        """(N, d) numbers of messages -> (N,) bool. Never where a number is NaN."""
        each = [_OPERATORS[c.operator](values[:, c.index], c.threshold) for c in self.comparisons]
        return np.logical_and.reduce(each)


def _number(text: str, token: str) -> float:
    if not _NUMBER.fullmatch(token) or not math.isfinite(float(token)):
        raise ValueError(
            f"test {text!r}: {token!r} is no finite number; a space comes before its unit"
        )
    return float(token)


def _listed(names: Mapping[str, int]) -> str:
    return ", ".join(list(names)[:12]) + (", ..." if len(names) > 12 else "")
