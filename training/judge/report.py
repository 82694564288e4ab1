"""A policy folder and data to the whole report: one document, one page."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from qgf_ros.console import plain, say
from qgf_ros.errors import UsageError
from qgf_ros.files.atomic import replaced_file
from qgf_ros.policy.folder import load_policy
from qgf_ros.spaces.contract import Contract
from training.judge.data import policy_episodes
from training.judge.pages.report_page import render_report
from training.judge.panels import OF_CAMERAS, PANELS
from training.judge.subject import Subject
from training.pipeline.episodes import EpisodeArrays, data_hash, outcomes


def report(
    policy_folder: Path,
    data: Path,
    out: Path,
    contract_path: Path | None = None,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, Any]:
    """Writes the page to the file `out`; returns its document, plain and finite.

    The same arguments give the same document, but for the times in it.

    Raises:
        UsageError, PolicyRefused, DataRefused: an argument, the policy or the data cannot be used.
    """
    if seed < 0:
        raise UsageError(f"seed is {seed}; allowed: at least 0")
    contract = Contract.load(contract_path) if contract_path else None
    policy = load_policy(policy_folder, contract)
    read = policy_episodes(policy, data, contract, workers)
    episodes = EpisodeArrays.of(read)
    del read  # one copy is enough
    began = time.monotonic()
    torch.set_num_threads(1)  # the same sums in the same order, and no slower on small networks
    subject = Subject.of(policy, episodes, seed)
    if policy.description.cameras:
        from training.judge.pictures import Pictures

        subject = replace(subject, pictures=Pictures(policy, data, contract))
    document = examine(subject)
    page = render_report(document).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as file:
        file.write(page)
    fit = document["fitness"]
    for line in (*fit["reasons"], *fit["todo"]):
        say(f"  {line}")
    say(f"{out}: {len(page) / 1e6:.1f} MB, {time.monotonic() - began:.0f} s")
    beta = document["about"]["beta"]
    say(f"verdict: {fit['verdict']}; beta: default {beta['default']}, floor {beta['min']}")
    return document | {"verdict": fit["verdict"]}


def examine(subject: Subject) -> dict[str, Any]:
    """Every panel of the page, of a subject that was put together elsewhere."""
    policy = subject.policy
    found: dict[str, Any] = {}
    without = () if policy.description.cameras else OF_CAMERAS
    for name in (panel for panel in PANELS if panel not in without):
        found[name] = import_module(f"training.judge.panels.{name}.figures").figures(
            subject, **found
        )
    about = {
        "policy": policy.name,
        "sha256": policy.sha256,
        "beta": policy.description.beta,
        "returns": policy.description.returns,
        "data_sha256": data_hash(subject.episodes),
        "episodes": len(subject.episodes),
        "ticks": sum(map(len, subject.episodes)),
        "outcomes": outcomes(subject.episodes),
        "select": len(subject.select.rows),
        "report": len(subject.report.rows),
        "why": subject.why,
        "seed": subject.seed,
    }
    document: dict[str, Any] = plain({"schema": 1, "about": about, **found})
    return document
