"""The analysis of a policy in one picture, drawn from the document of `qgf analyze` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {
    "qgf": "#0072b2",
    "qgf_chain": "#009e73",
    "qgf_jacobian": "#e69f00",
    "bptt": "#d55e00",
    "ood": "#cc79a7",
}
GREY, BLACK = "#8a8f98", "#1b1d21"


def draw(path: Path, document: Mapping[str, Any]) -> None:
    """Three panels: cosine against flow time, Q against distance to the data, stability."""
    figure, axes = plt.subplots(1, 3, figsize=(17, 5.6))
    _cosine(axes[0], document["sensitivity"])
    _reach(axes[1], document["reach"])
    _stability(axes[2], document["stability"])
    for axis in axes:
        axis.grid(color="#e6e8eb", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    data = document["data"]
    figure.suptitle(
        f"{document['policy']['name']}: {data['states']} states of {data['states_episodes']} episodes; "
        "bands and bars are 95 % intervals, those of Q for the gain over unguided",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _cosine(axis: plt.Axes, part: Mapping[str, Any]) -> None:
    middle = len(part["sigmas"]) // 2
    for name in COLORS:
        curve = part["estimators"][name]["by_time"][middle]
        mean, low, high = (_numbers(curve, key) for key in ("mean", "low", "high"))
        axis.plot(part["times"], mean, "o-", ms=4, color=COLORS[name], label=name)
        axis.fill_between(part["times"], low, high, color=COLORS[name], alpha=0.13, lw=0)
    axis.set(
        title=f"Noise sensitivity, sigma = {part['sigmas'][middle]:g}",
        xlabel="flow time t (0 noise, 1 action)",
        ylabel="cosine of the gradients at $a_t$ and $a_t$ + eps",
    )
    axis.legend(frameon=False, loc="lower left")


def _reach(axis: plt.Axes, part: Mapping[str, Any]) -> None:
    for name, color in COLORS.items():
        _line(axis, part["guided"][name], color, name, "o")
    _line(axis, part["best_of_n"], BLACK, "best of N", "s")
    for p in part["best_of_n"]:
        _note(axis, p, f"{p['candidates']}", BLACK, (-9, -3), "right")
    _line(axis, [part["recorded"]], GREY, "recorded", "D")
    own = part["at_policy_betas"]
    if own:
        x, y = (_numbers([p[key] for p in own], "mean") for key in ("distance", "q"))
        axis.plot(
            x, y, "*", ms=12, color=COLORS["qgf"], mec="white", label="the policy's beta", zorder=5
        )
        for p in own:
            _note(axis, p, f"{p['beta']:.2g}", COLORS["qgf"], (7, -11), "left")
    axis.axvline(part["radius"], color=GREY, ls="--", lw=1)
    _upright(axis, part["radius"], "99 % of recorded", GREY, 0.25)
    axis.set(
        title="Q reached, guidance ratio rho = 1/8 to 8",
        xlabel="distance to the nearest recorded chunk (RMS, normalised)",
        ylabel="Q of the action, by the critic that guides [scaled return]",
    )
    axis.legend(loc="lower right", edgecolor="none", framealpha=0.9)


def _line(axis: plt.Axes, points: list[Any], color: str, name: str, marker: str) -> None:
    if not points:
        return
    bars = {}
    # States differ in Q far more than samples do, so the bar is that of the paired gain.
    for which, key in (("xerr", "distance"), ("yerr", "gain")):
        low, mean, high = (
            _numbers([p[key] for p in points], end) for end in ("low", "mean", "high")
        )
        bars[which] = np.clip(np.stack([mean - low, high - mean]), 0, None)
    x, y = (_numbers([p[key] for p in points], "mean") for key in ("distance", "q"))
    axis.errorbar(
        x,
        y,
        **bars,
        fmt=f"{marker}-",
        ms=4,
        lw=1.4,
        elinewidth=0.8,
        ecolor=to_rgba(color, 0.3),
        color=color,
        label=name,
    )


def _note(
    axis: plt.Axes,
    point: Mapping[str, Any],
    text: str,
    color: str,
    offset: tuple[int, int],
    side: str,
) -> None:
    if point["distance"]["mean"] is not None:
        axis.annotate(
            text,
            (point["distance"]["mean"], point["q"]["mean"]),
            xytext=offset,
            textcoords="offset points",
            ha=side,
            fontsize=8,
            color=color,
        )


def _stability(axis: plt.Axes, part: Mapping[str, Any]) -> None:
    smallest = np.asarray(part["beta_sorted"])
    named: dict[float, list[str]] = {}
    for beta in part["policy"]:
        if not isinstance(beta["beta"], str):  # "inf": guidance is off
            names = named.setdefault(beta["beta"], [])
            names += [beta["name"]] if beta["name"] not in names else []
    axis.set(
        title="Stability of the Euler steps",
        xlabel="beta (guides harder to the left)",
        ylabel="share of states with w $\\lambda$ / T $\\geq$ 2",
        ylim=(-0.03, 1.03),
        xscale="log",
    )
    if smallest[-1] > 0:
        # Of the states, sorted by their smallest stable beta, those right of beta are unstable.
        share = 1 - (np.arange(len(smallest)) + 1) / len(smallest)
        shown = smallest > 0
        first = shown.argmax()
        x = [smallest[first] / 2, *smallest[shown], max([smallest[-1], *named]) * 2]
        y = [1 - first / len(smallest), *share[shown], 0]
        axis.step(x, y, where="post", color=COLORS["qgf"], lw=1.8)
        axis.axvline(part["stable_beta"], color=COLORS["qgf"], ls="--", lw=1)
        text = f"stable at 99 %: {part['stable_beta']:.2g}"
        _upright(axis, part["stable_beta"], text, COLORS["qgf"], 0.98)
    else:
        axis.text(
            0.5,
            0.5,
            "no peak of Q met:\nstable at every beta",
            transform=axis.transAxes,
            ha="center",
        )
    for value, names in named.items():
        axis.axvline(value, color=BLACK if "floor" in names else GREY, ls=":", lw=1.2)
        _upright(axis, value, f"{', '.join(names)}: {value:g}", BLACK, 0.98)


def _upright(axis: plt.Axes, x: float, text: str, color: str, y: float) -> None:
    axis.text(
        x,
        y,
        f" {text} ",
        rotation=90,
        ha="right",
        va="top",
        fontsize=8,
        color=color,
        transform=axis.get_xaxis_transform(),
    )


def _numbers(rows: list[Any], key: str) -> np.ndarray:
    """(N,) floats; null, which stands for "no value", as NaN."""
    return np.array([np.nan if row[key] is None else row[key] for row in rows], float)
