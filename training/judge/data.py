"""Recorded episodes as a policy would have seen them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qgf_ros.console import track
from qgf_ros.policy.folder import Policy
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.image import OF_POLICY, EncoderSpec
from training.pipeline.episodes import Episode
from training.pipeline.readers.load import load_episodes


def policy_episodes(
    policy: Policy, data: Path, contract: Contract | None, workers: int
) -> list[Episode]:
    """Every episode of a dataset, images encoded by the policy's own encoders.

    contract: another one than the policy's, which fits it. Raises as `load_episodes`.
    """
    read, _ = load_episodes(data, encoded(policy, contract), workers, track)
    return read


def encoded(policy: Policy, contract: Contract | None = None) -> Contract:
    """The contract by which recordings are read: of cameras the encoder is the policy's file."""
    own = contract or policy.contract.recorded
    files = {c.camera: str(policy.folder / c.file) for c in policy.description.cameras}

    def by_file(source):  # type: ignore[no-untyped-def]
        if source.name not in files:
            return source
        spec = EncoderSpec(OF_POLICY, source.encoder.features, files[source.name])
        return dataclasses.replace(source, encoder=spec)

    return dataclasses.replace(own, observations=tuple(map(by_file, own.observations)))
