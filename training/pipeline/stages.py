"""Versions of the stages of preparation: read -> align -> encode -> store.

What is prepared is kept by the versions of the stages that made it, the contract and the content of
the files. Whoever changes what a stage gives raises its version, or old results pass for new ones:
test/pipeline/test_stages.py notices. A reader has a version of its own, in its `version`.
"""

from __future__ import annotations

from typing import Any

ALIGN = 5  # alignment, resample, rewards, labels; and what the node believes (spaces/observations)
ENCODE = 1  # what a contract makes of a message's numbers (spaces/observations)
STORE = 2  # how arrays and index lie in the cache


def stages(reader: Any) -> str:
    """All of them, for the key of what one reader's recordings became."""
    return f"{type(reader).__name__} {reader.version} align {ALIGN} encode {ENCODE} store {STORE}"
