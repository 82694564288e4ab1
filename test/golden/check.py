"""Holds our networks, samplers and training step to golden vectors of the authors' code.

    python test/golden/check.py [--json] FILE.npz ...

Everything (sizes, ensemble, aggregation, T, candidates) comes from the file; the format is that
of `test/golden/data`. Prints the largest absolute error per quantity. Where the two smallest members
of the ensemble are closer than 1e-5 at a point where Q is differentiated, the min may switch:
such samples are left out and counted; so are observations whose two best candidates are as close.
Exit codes: 0 all within 1e-4, 2 usage, 5 not a golden vector, 8 an error above 1e-4.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # the repository's own code, installed or not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golden_file import Golden, NotGolden

from training import estimators
from training.export.explicit import INPUTS, GuidedSampler, export_onnx
from training.learn.critics.batch import ChunkBatch
from training.learn.critics.iql import Learner
from training.sampling import CriticFn, best_of_n, sample

TOLERANCE = 1e-4
TIE = 1e-5


@dataclass(frozen=True)
class Row:
    """One compared quantity. `error` is None where every sample had to be left out."""

    quantity: str
    error: float | None
    left_out: int = 0
    of: int = 0

    @property
    def ok(self) -> bool:
        """Within the tolerance; NaN is not, nor is a quantity of which nothing was compared."""
        return self.error is not None and self.error <= TOLERANCE


class TieWatch:
    """A critic that remembers, per row, how close its two smallest members came where it was
    differentiated (elsewhere min is continuous, and a switch does no harm)."""

    def __init__(self, critic: CriticFn, aggregation: str):
        self.critic, self.on = critic, aggregation == "min"
        self.gap: Tensor | None = None

    def __call__(self, obs: Tensor, action: Tensor) -> Tensor:
        q = self.critic(obs, action)
        if self.on and torch.is_grad_enabled() and len(q) > 1:
            two = q.detach().sort(dim=0).values
            gap = two[1] - two[0]
            self.gap = gap if self.gap is None else torch.minimum(self.gap, gap)
        return q

    def ties(self, rows: int) -> Tensor:
        """(rows,) bool; more queried rows than that are blocks of candidates of one row."""
        if self.gap is None:
            return torch.zeros(rows, dtype=torch.bool)
        return (self.gap < TIE).view(rows, -1).any(dim=1)


def check(path: Path) -> list[Row]:
    """All quantities of one golden file. Raises NotGolden where it is none."""
    golden = Golden(path)
    nets = golden.networks()
    return [*_probes(golden, nets), *_samples(golden, nets), *_updates(golden, nets)]


def _compare(quantity: str, ours: Tensor, theirs: Tensor, ties: Tensor | None = None) -> Row:
    error = (ours - theirs).detach().abs()
    if ties is None:
        return Row(quantity, float(error.max()), 0, len(theirs))
    kept = error[~ties]
    return Row(quantity, float(kept.max()) if len(kept) else None, int(ties.sum()), len(theirs))


def _probes(golden: Golden, nets: dict[str, Any]) -> Iterator[Row]:
    obs = golden.get("obs", -1, golden.architecture.obs_dim)
    D = golden.architecture.action_size
    action, time = golden.get("probe/action", len(obs), D), golden.get("probe/time", len(obs))
    velocity = nets["policy"](obs, action, time)
    yield _compare("velocity", velocity, golden.get("probe/velocity", len(obs), D))
    q = nets["target_critic"](obs, action)
    yield _compare("q members", q.T, golden.members("probe/q_members", *q.shape).T)
    yield _compare("v", nets["value"](obs), golden.get("probe/v", len(obs)))


def _samples(golden: Golden, nets: dict[str, Any]) -> Iterator[Row]:
    velocity, critic = nets["policy"], nets["target_critic"]
    D, how = golden.architecture.action_size, golden.config.aggregation
    obs = golden.get("obs", -1, golden.architecture.obs_dim)
    rows, n = len(obs), golden.candidates
    noise, weights = golden.get("noise", rows, D), golden.get("guidance_weights", -1).tolist()
    options: dict[str, Any] = {"steps": golden.steps, "aggregation": how}
    explicit = GuidedSampler(velocity, critic, **options)
    backends = {"explicit": explicit, "onnx": _onnx(explicit)}
    unguarded = explicit.unguarded()
    found = {name.split("/")[1] for name in golden.arrays if name.startswith("sample/")}
    unknown = found - estimators.ESTIMATORS.keys()
    if unknown:
        raise NotGolden(f"it has samples of an estimator unknown here: {sorted(unknown)}")
    for name in [e for e in estimators.ESTIMATORS if e in found | {"qgf"}]:
        for i, w in enumerate(weights):
            watch, theirs = TieWatch(critic, how), golden.get(f"sample/{name}/{i}", rows, D)
            ours = sample(velocity, watch, obs, noise, w, estimator=name, **options)
            ties = watch.ties(rows)
            yield _compare(f"{name} w={w:g}", ours.action, theirs, ties)
            for backend, run in backends.items() if name == "qgf" else ():
                if run is not None:
                    with torch.no_grad():
                        action = run(obs, noise, torch.full((rows,), w), *unguarded)[0]
                    yield _compare(f"qgf ({backend}) w={w:g}", action, theirs, ties)

    noise = golden.get("best_of_n/noise", rows * n, D)
    for kind, w in (("unguided", 0.0), ("guided", golden.candidate_weight)):
        watch, theirs = TieWatch(critic, how), golden.get(f"best_of_n/{kind}", rows, D)
        ours = best_of_n(velocity, watch, obs, noise, n, w, **options)
        ties = watch.ties(rows)
        if n > 1:  # the choice among candidates has ties of its own
            every = sample(velocity, critic, obs.repeat_interleave(n, 0), noise, w, **options)
            two = every.q.view(-1, n).topk(2).values
            ties |= two[:, 0] - two[:, 1] < TIE
        yield _compare(f"best of {n} {kind} w={w:g}", ours.action, theirs, ties)


def _updates(golden: Golden, nets: dict[str, Any]) -> Iterator[Row]:
    arch, config = golden.architecture, golden.config
    H, A, D = arch.horizon, arch.action_dim, arch.action_size
    obs = golden.get("batch/observations", -1, arch.obs_dim)
    rows = len(obs)
    batch = ChunkBatch(
        obs=obs,
        action=golden.get("batch/actions", rows, H, A).flatten(1),
        reward=golden.get("batch/rewards", rows, H)[:, -1],
        mask=golden.get("batch/masks", rows, H)[:, -1],
        next_obs=golden.get("batch/next_observations", rows, H, arch.obs_dim)[:, -1],
        valid=golden.get("batch/valid", rows, H)[:, -1],
    )
    learner = Learner(nets["policy"], nets["critic"], nets["value"], config, nets["target_critic"])
    theirs = golden.get("update/losses_bc_critic_value", -1, 3)
    losses, names = [], ("flow_loss", "critic_loss", "value_loss")
    for k in range(len(theirs)):
        noise, time = golden.get(f"update/{k}/noise", rows, D), golden.get(f"update/{k}/time", rows)
        metrics = learner.update(batch, noise, time)
        losses.append([metrics[name] for name in names])
    for i, name in enumerate(names):
        yield _compare(name, torch.tensor(losses)[:, i], theirs[:, i])
    for name, after in golden.networks(f"after{len(theirs)}/").items():
        flat = [torch.cat([p.flatten() for p in n.parameters()]) for n in (nets[name], after)]
        yield _compare(f"{name} after {len(theirs)} updates", *flat)


def _onnx(module: GuidedSampler) -> Any:
    """The exported sampler as a function of tensors, or None without ONNX Runtime."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(module, path := Path(folder) / "sampler.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*values: Tensor) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(INPUTS, values, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, feed)]

    return run


def table(path: Path, rows: list[Row]) -> str:
    """The rows as text, one line each, and a summary of what was left out."""
    lines = [f"{path}", f"{'quantity':36} {'max abs error':>13}  left out"]
    for row in rows:
        error = "none left" if row.error is None else f"{row.error:.2e}"
        out = f"{row.left_out} of {row.of}" if row.left_out else "-"
        lines.append(f"{row.quantity:36} {error:>13}  {out}{'' if row.ok else '   FAILED'}")
    out_of = "left out because of a tie: {} of {} samples ({:.1%})".format(*left_out(rows))
    return "\n".join([*lines, out_of, ""])


def left_out(rows: list[Row]) -> tuple[int, int, float]:
    """Samples left out because of a tie, of how many, and their share; backends not counted."""
    sampled = [r for r in rows if " w=" in r.quantity and "(" not in r.quantity]
    out, of = sum(r.left_out for r in sampled), sum(r.of for r in sampled)
    return out, of, out / max(of, 1)


def document(path: Path, rows: list[Row]) -> dict[str, Any]:
    """The same for `--json`. An error that is not a finite number is null."""
    out, of, share = left_out(rows)
    entries: list[dict[str, Any]] = [asdict(row) | {"ok": row.ok} for row in rows]
    for entry in entries:
        if entry["error"] is None or not np.isfinite(entry["error"]):
            entry["error"] = None
    ok = all(row.ok for row in rows)
    ties = {"left_out": out, "of": of, "share": share}
    return {"file": str(path), "ok": ok, "ties": ties, "quantities": entries}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"qgf: error[2]: {message}; {self.prog}; see --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Checks the files named on the command line; returns the exit code."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(arguments)
    for path in args.files:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    torch.set_num_threads(1)
    documents, last, code = [], "", 0
    for path in args.files:
        try:
            rows = check(path)
        except NotGolden as why:
            last, code = f"{why}; {path}; give a file of the golden format", 5
            documents.append({"file": str(path), "ok": False, "refused": str(why)})
            continue
        documents.append(document(path, rows))
        failed = [row.quantity for row in rows if not row.ok]
        if failed and code != 5:
            last, code = f"{', '.join(failed)}: above {TOLERANCE:g}; {path}; see the table", 8
        if not args.json:
            print(table(path, rows))
    if args.json:
        print(json.dumps({"tolerance": TOLERANCE, "ok": code == 0, "files": documents}, indent=1))
    if code:
        print(f"qgf: error[{code}]: {last}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
