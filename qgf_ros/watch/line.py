"""A running node in one line, for pipes and terminals that draw nothing. ASCII but for what the node
itself says."""

from __future__ import annotations

import math

from qgf_ros.watch.heard import Heard, clean, remedy

MOST_WARNINGS = 3


def line(heard: Heard, now: float) -> str:
    """State, beta, Q, latency, gate, then what is wrong."""
    node, life = heard.node, heard.node.life(now)
    if node.said is None:
        return f"{node.name}: waits for {', '.join(heard.waits_for(now))}"
    if life != "live":
        how = {"ended": "has ended", "gone": "is silent"}.get(life, "is late")
        text = f"{node.name} {how}: no word for {node.age(now):.1f} s, was {node.state}"
        return " | ".join([text, *_gate(heard, now)])
    s = node.said.msg
    parts = [f"{node.name} {node.state}"]
    asked = heard.beta_asked
    to = f" -> {asked:.3g}" if asked == asked and asked != s.beta else ""
    parts.append(f"beta {_number(s.beta)}{to} {heard.zone}")
    if heard.q is not None and not heard.q_is_old(now):
        q = heard.q.msg
        parts.append(
            f"Q {_number(q.q_sampled)} gain {_number(q.q_gain)} ratio {_number(q.guidance_ratio)}"
        )
    parts.append(
        f"p50 {_number(s.inference_p50_ms)} p99 {_number(s.inference_p99_ms)} "
        f"of {_number(heard.budget_ms)} ms"
    )
    parts.append(f"{s.achieved_rate:.1f} Hz")
    parts += _gate(heard, now)
    if s.reason:
        fix = remedy(s.reason)
        parts.append(f"{clean(s.reason)}: {clean(s.detail)}{f' -> {fix}' if fix else ''}")
    parts += [f"! {clean(w)}" for w in s.warnings[:MOST_WARNINGS]]
    return " | ".join(parts)


def _gate(heard: Heard, now: float) -> list[str]:
    gate, life = heard.gate, heard.gate.life(now)
    if gate.said is None:
        return ["gate announced, not heard"] if heard.gate_announced else []
    if life != "live":
        return [f"gate: no word for {gate.age(now):.1f} s"]
    reason = clean(gate.said.msg.reason)
    return [f"gate {gate.state}{f' {reason}' if reason else ''}"]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
