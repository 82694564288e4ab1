"""Reads golden vectors (`data/README.md`) into our networks and configurations.

Weights are in Flax naming, kernels (in, out), members stacked first; all sizes are in `meta`.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.learn.critics.iql import IQLConfig
from training.learn.models import LAYER_NORM_EPS, Architecture


class NotGolden(ValueError):
    """The file is not a golden vector, or one that our networks cannot represent."""


class Golden:
    """A golden file: arrays by name, sizes from its `meta`, networks with its weights."""

    def __init__(self, path: Path):
        if not zipfile.is_zipfile(path):
            raise NotGolden("it is no npz archive")
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = {name: file[name] for name in file.files}
            meta: dict[str, Any] = json.loads(self.arrays["meta"].tobytes())
            self.architecture = Architecture(
                "critic",
                obs_dim=meta["obs_dim"],
                horizon=meta["horizon"],
                action_dim=meta["action_dim"],
                hidden=meta["hidden"],
                members=meta["num_q"],
            )
            self.config = IQLConfig(
                discount=meta["discount"],
                horizon=meta["horizon"],
                expectile=meta["expectile"],
                target_rate=meta["tau"],
                learning_rate=meta["lr"],
                aggregation=meta["aggregation"],
            )
            self.steps, self.candidates = int(meta["denoise_steps"]), int(meta["num_candidates"])
            self.candidate_weight = float(meta["best_of_n_guidance_weight"])
            eps = float(meta.get("layer_norm_eps", LAYER_NORM_EPS))
        except KeyError as missing:
            raise NotGolden(f"it has no {missing}") from None
        except Exception as error:  # whatever numpy, zipfile and json say of a foreign file
            raise NotGolden(" ".join(str(error).split()) or type(error).__name__) from None
        if eps != LAYER_NORM_EPS:
            raise NotGolden(f"layer_norm_eps is {eps}; our networks have {LAYER_NORM_EPS}")

    def get(self, name: str, *shape: int) -> Tensor:
        """A float32 array by name; refused where it has another shape (-1: any size)."""
        try:
            array = torch.from_numpy(np.array(self.arrays[name], dtype=np.float32))
        except (KeyError, ValueError):
            raise NotGolden(f"it has no numbers called {name!r}") from None
        sizes = zip(array.shape, shape, strict=False)
        if array.dim() != len(shape) or any(w not in (-1, n) for n, w in sizes):
            raise NotGolden(f"{name} has shape {tuple(array.shape)}; meta and obs say {shape}")
        return array

    def members(self, name: str, *shape: int) -> Tensor:
        """As `get`, for ensembles: a single member may come without its leading axis."""
        if name in self.arrays and self.arrays[name].ndim == len(shape) - 1 and shape[0] == 1:
            return self.get(name, *shape[1:]).unsqueeze(0)
        return self.get(name, *shape)

    def load(self, net: nn.Module, prefix: str) -> nn.Module:
        """Fills a network from Flax naming below `prefix`, e.g. `critic/value_net`."""
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                key, shape = f"{prefix}/{self._flax_name(name, prefix)}", parameter.shape
                parameter.copy_(self.members(key, *shape))
        return net

    def _flax_name(self, name: str, prefix: str) -> str:
        _, kind, index, leaf = name.split(".")
        if kind == "norms":
            flax = f"LayerNorm_{index}/" + ("scale" if leaf == "weight" else leaf)
        else:
            flax = f"Dense_{index}/" + ("kernel" if leaf == "weight" else leaf)
        if not prefix.endswith("policy"):
            return flax
        # The flow's hidden layers are a module of their own, its output layer is not.
        output = kind == "layers" and int(index) == len(self.architecture.hidden)
        return flax.replace(f"Dense_{index}", "Dense_0") if output else f"MLP_0/{flax}"

    def networks(self, prefix: str = "") -> dict[str, Any]:
        """The four networks, with the weights before (`""`) or after (`after5/`) the updates."""
        critic, flow = self.architecture, replace(self.architecture, kind="velocity", members=1)
        value = replace(flow, kind="value")
        return {
            "policy": self.load(flow.build(), f"{prefix}policy"),
            "critic": self.load(critic.build(), f"{prefix}critic/value_net"),
            "target_critic": self.load(critic.build(), f"{prefix}target_critic/value_net"),
            "value": self.load(value.build(), f"{prefix}value/value_net"),
        }
