"""Versions of the stages of preparation: read -> align -> encode -> store.

What is prepared is kept by the versions of the stages that made it, the contract and the content of
the files, never by source files. Whoever changes what a stage gives raises its version, or old results
pass for new ones: test/pipeline/test_stages.py notices. The version of `read` is its reader's own.
"""

from __future__ import annotations

from training.pipeline.streams import Reader

VERSIONS = {
    # `align.align`: alignment, resample, rewards, labels; and what the node believes (spaces/observations)
    "align": 5,
    "encode": 1,  # `align.featured`: what a contract makes of a message's numbers (spaces/observations)
    "store": 3,  # `store`: how arrays and index lie in the cache
}


def stages(reader: Reader) -> str:
    """All of them, for the key of what one reader's recordings became."""
    kind = type(reader)
    ours = kind.__module__.startswith("training.")  # another package's may have the same name
    read = f"{kind.__name__ if ours else f'{kind.__module__}.{kind.__qualname__}'} {reader.version}"
    return " ".join([read, *(f"{stage} {version}" for stage, version in VERSIONS.items())])
