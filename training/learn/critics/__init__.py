"""Kinds of critics, one file each; what they share is in `base.py`, the batch they read in `batch.py`.

    iql.py          the value of better than the data: what is seen is stitched together
    sarsa.py        the value of the data's own behaviour, by bootstrapping
    monte_carlo.py  the same from the returns of whole episodes, without bootstrapping

A new kind is a file with a `Learner`, which says what it learns and what it needs from the data, and
its name in `Kind`. Importable without torch: the command line shows the names at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from training.learn.critics.base import Learner

Kind = Literal["iql", "sarsa", "monte_carlo"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Settings of training that only some kinds have.
OWN: dict[str, tuple[Kind, ...]] = {"expectile": ("iql",)}


def learner_of(kind: Kind) -> type[Learner]:
    """The class that trains such a critic."""
    found: type[Learner] = import_module(f"{__name__}.{kind}").Learner
    return found
