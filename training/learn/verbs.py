"""The verbs of `qgf` that train. Heavy imports stay inside `run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qgf_ros.cli import ReadsData
from qgf_ros.console import say, table
from qgf_ros.errors import DataLost
from training.learn.config import FitConfig
from training.pipeline.readers.formats import Data


@dataclass(frozen=True)
class Train(ReadsData):
    """Train flow policy and critic on recorded data, and export the policy."""

    data: Data
    contract: Path
    """contract.yaml: which topics and fields are state, action and outcome."""
    out: Path
    """Run folder: policy/, metrics.csv and tensorboard/ are written there."""
    resume: bool = False
    """Go on where a run in --out was interrupted; from the start where there is none."""
    strict: bool = False
    """Refuse data of which messages or episodes were lost, instead of training without them."""
    fit: FitConfig = field(default_factory=FitConfig)

    def run(self) -> Mapping[str, Any]:
        from qgf_ros.policy.folder import load_policy
        from training.export.write import export, guidance, summary
        from training.learn.distributed import joined
        from training.learn.fit import fit

        with joined() as world:
            fitted = fit(
                self.data, self.contract, self.out, self.fit, self.resume, self.strict, world
            )
            if not world.first:
                return {}
        say("export: writing sampler.onnx and comparing the samplers, about half a minute")
        parity = export(fitted.policy)
        beta = load_policy(fitted.policy).description.beta
        table(
            "Held-out episodes",
            ("figure", "value"),
            [(k, f"{v:.4g}") for k, v in fitted.metrics.items()],
        )
        say(f"export: {summary(parity)}")
        say(f"policy: {fitted.policy}")
        say(guidance(beta))
        document = {
            "policy": fitted.policy,
            "metrics": fitted.metrics,
            "parity": vars(parity),
            "beta": beta,
        }
        if fitted.lost:
            raise DataLost(
                f"trained, but {fitted.lost} recorded messages or episodes could not be used (counted above)",
                document,
            )
        return document
