"""What a robot senses: a file per kind, and the table of them. A new kind is one line here."""

from __future__ import annotations

from qgf_ros.spaces.observations.base import ObservationKind, Observed
from qgf_ros.spaces.observations.image import Features, Image
from qgf_ros.spaces.observations.orientation import Orientation
from qgf_ros.spaces.observations.vector import Vector

# The first that claims a source has it; plain numbers are what nobody else claims.
KINDS: tuple[ObservationKind, ...] = (
    Image(),
    Features(),
    Orientation(),
    Vector(),
)


def kind_of(source: Observed) -> ObservationKind:
    """The kind of an observation."""
    return next(kind for kind in KINDS if kind.claims(source))


def encodings() -> tuple[str, ...]:
    """What `encoding` may be, of any kind."""
    return tuple(dict.fromkeys(e for kind in reversed(KINDS) for e in kind.encodings))
