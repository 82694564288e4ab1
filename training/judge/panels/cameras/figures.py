"""Cameras: what each is worth over held-out ticks, and at the timeline's moments what it saw, what masking it
changes there, and where on the image Q and the action hang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgf_ros.images.fit import fit, window
from qgf_ros.spaces.observations.image import ImageSpec
from training.judge.analysis.base import States
from training.judge.cameras import Asked, columns_of, masked, worth
from training.judge.panels.cameras.saliency import GRID, PATCHES, cells, features_behind, usual
from training.judge.panels.timeline.figures import pick
from training.judge.panels.timeline.packing import pack, short
from training.judge.pictures import Pictures, Views
from training.judge.subject import Subject
from training.learn.batches import tensors
from training.pipeline.chunks import ChunkTable

TICKS = 1024  # held-out ones over which a camera's worth is taken
ENCODED = 10_000  # images that are encoded for maps, at most
ENOUGH = 3  # moments, of which what is usually there can be told
LONGEST = (224, 176, 136, 104, 80)  # of a picture's side in pixels, the first with which all keep within
TEXT = 1_200_000  # characters of the page
QUALITY = 85  # of JPEG


@dataclass(frozen=True, eq=False)
class Moments:
    """The timeline's moments, M of all its episodes behind each other."""

    counts: tuple[int, ...]  # of each episode
    seen: np.ndarray  # (M, O) observations in robot units
    states: States
    of: tuple[tuple[Any, int], ...]  # episode and tick of each

    @classmethod
    def on(cls, subject: Subject, timeline: Mapping[str, Any]) -> Moments:
        """timeline: what the panel of that name found."""
        policy, parts = subject.policy, []
        of: list[tuple[Any, int]] = []
        picked = pick(subject.episodes, subject.report.rows, subject.seed)
        for number, told in zip(picked, timeline["episodes"]):
            episode = subject.episodes[number]
            ticks = [told["tick"][moment["at"]] for moment in told["moments"]]
            of += [(episode, tick) for tick in ticks]
            table = ChunkTable([episode], policy.horizon, policy.description.returns.discount)
            chunks = table.cut(np.array(ticks), to_go=False)
            batch = tensors(chunks, policy.codec, policy.description.returns.scale)
            parts.append((chunks.obs, batch.obs, batch.action, np.full(len(ticks), number)))
        seen, obs, action, number = zip(*parts)
        states = States(torch.cat(obs), torch.cat(action), torch.from_numpy(np.concatenate(number)))
        return cls(tuple(map(len, seen)), np.concatenate(seen), states, tuple(of))

    def __len__(self) -> int:
        return len(self.seen)


def figures(
    subject: Subject, timeline: Mapping[str, Any], held_out: Mapping[str, Any], **_: Any
) -> dict[str, Any]:
    """{worth, names, grid, patches, frames, maps, said}, plain but for NaN.

    worth: `training.judge.cameras.worth` of the report group. frames: for each of the timeline's episodes and
    moments, by camera, `q` and `action`, what masking it changes there in the same units; `picture`, a data
    URI, None where it was not found; and `map`, {q, action} of GRID x GRID cells from the upper left, None
    where it was not made. maps: moments that have one. said: why there are no pictures, or "".
    """
    policy, held = subject.policy, subject.report.held
    columns, beta = columns_of(policy.contract), policy.description.beta.default
    mean = held.recorded.obs.mean(0)
    found = held_out.get("cameras") or worth(
        subject.model, held.pool[:TICKS].obs, held.pool[:TICKS].action, held.pool[:TICKS].episode, mean,
        columns, beta, subject.seed,
    )  # fmt: skip
    spread = float(found["q_spread"] or np.nan)
    moments = Moments.on(subject, timeline)
    random = torch.Generator().manual_seed(subject.seed)  # the timeline's noise
    noise = torch.randn(1, policy.flat_dim, generator=random).expand(len(moments), -1)
    states = moments.states
    asked = Asked(subject.model, states.obs, states.action, noise, beta)
    told: list[dict[str, Any]] = [{} for _ in range(len(moments))]
    for name, part in columns.items():
        change = asked(masked(states.obs, mean, part))
        for one, q, action in zip(told, short(change.q / spread), short(change.action)):
            one[name] = {"q": q, "action": action, "picture": None, "map": None}
    maps, said = 0, ""
    if subject.pictures is None:
        said = "the recordings are not at hand"
    else:
        views = _views(subject.pictures, moments)
        for name in columns:
            images = {i: view for i, one in enumerate(views) if (view := one[name]) is not None}
            made = _maps(subject, moments, noise, beta, spread, name, images, len(columns))
            maps = max(maps, len(made))
            for i, drawn in made.items():
                told[i][name]["map"] = drawn
        for i, name, picture in _drawn(views, subject.pictures.specs):
            told[i][name]["picture"] = picture
    ends = np.cumsum(moments.counts)
    return {
        "worth": found,
        "names": list(columns),
        "grid": GRID,
        "patches": PATCHES,
        "maps": maps,
        "moments": len(moments),
        "said": said,
        "frames": [told[end - count : end] for end, count in zip(ends, moments.counts)],
    }


def spaced(count: int, most: int) -> list[int]:
    """Of 0..count-1 at most so many, evenly."""
    return sorted(set(np.linspace(0, count - 1, min(count, max(most, 1))).round().astype(int).tolist()))


def _views(pictures: Pictures, moments: Moments) -> list[Views]:
    """Of each moment; none where there are more than can be held."""
    views: list[Views] = [dict.fromkeys(pictures.columns) for _ in range(len(moments))]
    kept = spaced(len(moments), pictures.most)
    for i, view in zip(kept, pictures.of(moments.of[i] for i in kept)):
        views[i] = view
    return views


def _maps(
    subject: Subject,
    moments: Moments,
    noise: Tensor,
    beta: float,
    spread: float,
    camera: str,
    images: Mapping[int, np.ndarray],
    cameras: int,
) -> dict[int, dict[str, Any]]:
    """By moment. images: this camera's, by moment."""
    assert subject.pictures is not None
    spec, encode = subject.pictures.specs[camera], subject.pictures.encoders[camera]
    part, normalizer = subject.pictures.columns[camera], subject.policy.normalizer
    if len(images) < ENOUGH:
        return {}
    there = usual(list(images.values()))
    known = list(images)
    made = {}
    for k in spaced(len(known), ENCODED // (PATCHES * cameras)):
        i = known[k]
        seen = np.repeat(moments.seen[i : i + 1], PATCHES, 0)
        seen[:, part] = features_behind(images[i], there, spec, encode)
        state = moments.states[i : i + 1]
        asked = Asked(subject.model, state.obs, state.action, noise[i : i + 1], beta)
        change = asked(torch.from_numpy(normalizer.normalize_obs(seen)), PATCHES)
        both = cells(change.q.abs() / spread), cells(change.action)
        made[i] = {name: pack(of, 8) for name, of in zip(("q", "action"), both)}
    return made


def _drawn(
    views: Sequence[Views], specs: Mapping[str, ImageSpec]
) -> list[tuple[int, str, str]]:
    """Moment, camera and picture as a data URI: what the encoder looks at, not larger than it was sent."""
    drawn: list[tuple[int, str, str]] = []
    for longest in LONGEST:
        drawn = [
            (i, name, _uri(specs[name], image, longest))
            for i, view in enumerate(views)
            for name, image in view.items()
            if image is not None
        ]
        total = sum(len(uri) for _, _, uri in drawn)
        if total <= TEXT:
            return drawn
    return [drawn[k] for k in spaced(len(drawn), len(drawn) * TEXT // total)]


def _uri(spec: ImageSpec, image: np.ndarray, longest: int) -> str:
    import base64

    import simplejpeg

    rows, columns = (window(spec, n, axis) for axis, n in enumerate(image.shape[:2]))
    height, width = rows.stop - rows.start, columns.stop - columns.start
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = np.ascontiguousarray(fit(replace(spec, size=size), image))
    order = "RGB" if shown.shape[2] == 3 else "GRAY"
    data = simplejpeg.encode_jpeg(shown, QUALITY, order)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
