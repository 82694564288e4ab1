"""A replay's document as tables for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qgf_ros.console import say, table

WHAT = {
    "error": "RMSE of the executed chunk to the recorded commands, in widths of their range",
    "error_moving": "the same where the recorded command moves",
    "error_grasping": "the same around changes of a gripper's command",
    "error_ending": "the same in the last 2 s before an outcome",
    "error_by_guidance": "error less that of the unguided chunk from the same noise",
    "command_error": "RMSE of what the gate sent",
    "q_recorded": "Q of the recorded chunk",
    "q_unguided": "Q of the unguided chunk",
    "q_guided": "Q of the chunk that is executed",
    "q_gain": "Q executed less unguided",
    "q_over_recorded": "Q executed less recorded",
    "distance": "RMS from the executed to the recorded chunk, of numbers from -1 to 1",
    "farther": "distance less that of the unguided chunk",
    "disagreement": "standard deviation of the critics",
    "guidance_ratio": "w |grad Q| / |velocity|",
    "clipped": "share of a chunk's numbers at the normaliser's edge",
    "guarded": "share of samples on which a guard acted",
    "limited": "share of commands that a limit changed",
    "seam_jump": "largest jump between two chunks, in widths of the range",
    "jerk": "RMS, in widths of the range per s^3",
    "jerk_ratio": "jerk over that of the recorded commands",
    "held": "share of ticks that were not driven",
}


def show(document: Mapping[str, Any]) -> None:
    """Everything of the document that a person compares."""
    names = [p["name"] for p in document["policies"]]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, 1)]
    results = document["results"]
    say(
        f"{document['bag_seconds']:.1f} s of bags, {document['episodes'] or 'no marked'} episodes, "
        f"in {document['seconds']:.1f} s"
    )
    for number, name in enumerate(names):
        count = len(results) // len(names)
        own = results[number * count : (number + 1) * count]
        _figures(name, own)
        _joints(own)
        table(
            "Q gain by the distance to the recorded chunk (samples)",
            ("distance", *(_beta(r) for r in own)),
            list(_bands(own)),
        )
        table("Not in the figures, and how fast", ("", *(_beta(r) for r in own)), list(_rest(own)))
    for pair in document.get("compared", ()):
        table(
            f"beta {pair['beta']:g}: {names[0]} less {names[1]}, paired by segment",
            ("figure", "difference", f"{names[0]} is"),
            [(n, _text(v), v["first_is"]) for n, v in pair["figures"].items() if _known(v)],
        )
    if document["recorded_by_node"] is not None:
        _recorded(document["recorded_by_node"])
    rules = document.get("thresholds", ())
    if rules:
        columns = ("figure", "beta", "value", "min", "max", "")
        table("Thresholds", columns, [_rule(rule) for rule in rules])


def _recorded(found: Mapping[str, Any]) -> None:
    if found["other_policy"]:
        say("the node ran another policy than this one: its chunks and commands are not compared")
        return
    table(
        "What the node recorded, done again on its ticks",
        ("", "compared", "the same", "largest difference"),
        [
            (what + "s", str(found[f"{what}s"]), str(found[f"{what}s_same"]), f"{found[f'{what}_difference']:.3g}")
            for what in ("chunk", "command")
        ],
    )  # fmt: skip


def _rule(rule: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f"{rule[key]:.4g}" for key in ("beta", "value", "min", "max"))
    return rule["figure"], *numbers, "met" if rule["met"] else "NOT MET"


def _figures(policy: str, results: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (name, *(_text(r["figures"][name]) for r in results))
        for name in WHAT
        if any(_known(r["figures"][name]) for r in results)
    ]
    table(policy, ("figure", *(_beta(r) for r in results)), rows)
    for name, *_ in rows:
        say(f"{name}: {WHAT[name]}")


def _joints(results: Sequence[Mapping[str, Any]]) -> None:
    """RMSE per joint at the first and the last step of a chunk, in its unit."""
    rows = []
    for joint in results[0]["joints"]:
        cells = []
        for r in results:
            steps = r["joints"][joint]["error"]["all"]
            cells.append(f"{steps[0]:.3g} to {steps[-1]:.3g}")
        rows.append((joint, *cells))
    table("RMSE by joint, first to last step", ("joint", *(_beta(r) for r in results)), rows)


def _bands(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for rows in zip(*(r["gain_by_distance"] for r in results)):
        if any(row["samples"] for row in rows):
            yield (
                f"{rows[0]['from']:g} to {rows[0]['to']:g}",
                *(f"{row['q_gain']:.3f} ({row['samples']})" for row in rows),
            )


def _rest(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for key, unit in (
        ("seconds_not_driven", "s"),
        ("commands_refused", "commands refused"),
        ("guards", "samples guarded"),
    ):
        for why in dict.fromkeys(w for r in results for w in r[key]):
            yield (why, *(f"{r[key].get(why, 0):.4g} {unit}" for r in results))
    yield ("samples", *(str(r["samples"]) for r in results))
    for p in ("p50", "p99", "max"):
        yield (f"inference {p}", *(f"{r['inference_ms'][p]:.3g} ms" for r in results))


def _beta(result: Mapping[str, Any]) -> str:
    return f"beta {result['beta']:g}"


def _known(value: Mapping[str, float]) -> bool:
    return not math.isnan(value["mean"])


def _text(value: Mapping[str, float]) -> str:
    if math.isnan(value["low"]):
        return f"{value['mean']:.3g}"
    return f"{value['mean']:.3g} [{value['low']:.2g}, {value['high']:.2g}]"
