"""Every code with which a node says what is wrong, with its meaning and what to do.

Inside, a reason is a `Problem`; what is known about its code stands in the table. Only on the wire and
in a log is it text, "STATE_STALE:joint_states", and `Problem.parse` alone reads that again. A test
finds every code that the package raises in the table, and docs/safety.md shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Code = Literal[
    "STATE_MISSING", "STATE_STALE", "STATE_SKEW", "STATE_SCHEMA", "STATE_NONFINITE",
    "STATE_FUTURE", "STATE_FROZEN", "STATE_OOD", "FROZEN", "OOD", "STAMP_ZERO",
    "CLOCK_JUMP", "CLOCK_STOPPED", "DISABLED", "TAKEOVER", "PROCESS_STALLED", "ESTOP",
    "ESTOP_MISSING", "ESTOP_LOST", "COMMAND_CONFLICT", "CALLBACK", "DUPLICATE_NAME",
    "TYPE_MISMATCH", "QOS_INCOMPATIBLE", "OVERRUN", "INFERENCE", "INFER_HUNG",
    "ACTION_NONFINITE", "ACTION_SCHEMA", "DEVICE", "SAMPLER_SLOW", "Q_INVALID",
    "GUIDANCE_SATURATED", "GATE_MISSING", "GATE_REFUSES", "GATE_RESTARTED",
    "IMAGE_MISSING", "IMAGE_ENCODING", "IMAGE_DAMAGED", "IMAGE_SIZE", "IMAGE_BLACK", "IMAGE_CONFLICT",
    "FEATURES_POLICY",
    "CANDIDATES_STOPPED", "EXPLICIT_HOLD", "OWNER", "EPOCH", "SEQUENCE", "DEADLINE",
    "FUTURE", "NAMES", "NONFINITE", "RANGE", "WORKSPACE", "TYPE", "START", "COMMAND_SCHEMA", "ERROR",
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Why there is no observation, no command, or a warning."""

    code: Code
    subject: str  # topic or number that it is about, several with "," between; "": none
    detail: str  # a sentence for people

    @property
    def code_text(self) -> str:
        """As Status.reason has it: "STATE_STALE:joint_states", "ESTOP", "ERROR_4"."""
        between = "_" if self.code == "ERROR" else ":"
        return f"{self.code}{between}{self.subject}" if self.subject else self.code

    def __str__(self) -> str:
        """As Status.warnings have it: "CODE:subject: sentence"."""
        return f"{self.code_text}: {self.detail}"

    @property
    def row(self) -> Reason:
        """What the table knows about the code."""
        return REASONS[self.code]

    @property
    def subjects(self) -> list[str]:
        """Topics or numbers that it is about."""
        return self.subject.split(",") if self.subject else []

    @classmethod
    def parse(cls, text: str, detail: str = "") -> Problem | None:
        """What came from the wire as `code_text`, with its detail apart, or as `str`. None: nothing
        is wrong, or the code is none of this version's."""
        head, _, sentence = text.partition(": ")
        name, _, subject = head.partition(":")
        if name.startswith("ERROR_"):
            name, subject = "ERROR", name.removeprefix("ERROR_")
        code = next((code for code in REASONS if code == name), None)
        return None if code is None else cls(code, subject, detail or sentence)


@dataclass(frozen=True)
class Reason:
    """A row of the table."""

    leads_to: Literal["warning", "HOLD", "FAULT"]  # the worst that follows at once
    meaning: str
    remedy: str
    # No sign of trouble by itself: ~/enable goes on from it. Three HOLDs of another code, or about
    # one subject, within 10 s become a FAULT; these do not count.
    by_a_person: bool = False
    is_stop: bool = False  # an emergency stop: a person has to release it, and to enable again


# Said by the process that encodes images.
OF_IMAGES: tuple[Code, ...] = (
    "IMAGE_MISSING", "IMAGE_ENCODING", "IMAGE_DAMAGED", "IMAGE_SIZE", "IMAGE_BLACK", "IMAGE_CONFLICT",
)  # fmt: skip

REASONS: dict[Code, Reason] = {
    "STATE_MISSING": Reason(
        "HOLD",
        "A topic of the contract has not been heard since activation or since the clock jumped.",
        "Start its publisher; compare name, type and QoS with `ros2 topic info -v`.",
    ),
    "STATE_STALE": Reason(
        "HOLD",
        "The newest good message of a topic is older than its max_age.",
        "Look for a sensor, driver or network that stopped; a slow topic needs a larger max_age.",
    ),
    "STATE_SKEW": Reason(
        "HOLD",
        "A message came further behind the newest topic than two periods, a third of its max_age and "
        "33 ms (features: further than that and the camera's latency): two moments are no state.",
        "Compare the stamps of the topics; where one is late by nature, give it a max_age of at least "
        "three times that; of a camera measure its latency (`qgf latency`).",
    ),
    "STATE_SCHEMA": Reason(
        "HOLD",
        "A message does not have the numbers that the contract names.",
        "The detail says which are missing, twice there, or of another length.",
    ),
    "STATE_NONFINITE": Reason(
        "HOLD",
        "A topic has only brought NaN, Inf, numbers beyond float32 or no rotation for its max_age.",
        "Repair the sensor or its driver.",
    ),
    "STATE_FUTURE": Reason(
        "HOLD",
        "A stamp lies more than 0.1 s ahead of the node's clock.",
        "Synchronise the machines' clocks; give all nodes the same use_sim_time.",
    ),
    "STATE_FROZEN": Reason(
        "HOLD",
        "As FROZEN, with the parameter hold_if_frozen.",
        "Restart the sensor or its driver.",
    ),
    "STATE_OOD": Reason(
        "HOLD",
        "A number of the state lies further outside of what was recorded than state_bound.",
        "Check its unit, sign and frame; bring the robot back to where it was recorded.",
    ),
    "FROZEN": Reason(
        "warning",
        "A sensor repeats identical numbers with fresh stamps although motion is commanded.",
        "Look whether the robot moves; if it does, the sensor is stuck.",
    ),
    "OOD": Reason(
        "warning",
        "A number of the state lies outside of what was recorded.",
        "The policy extrapolates: watch it, or record there.",
    ),
    "STAMP_ZERO": Reason(
        "warning",
        "Messages carry no stamp; the time of their arrival counts.",
        "Let the driver stamp them, or delays stay unseen.",
    ),
    "CLOCK_JUMP": Reason(
        "HOLD",
        "The control clock jumped; what was buffered belongs to another time.",
        "Nothing after a restart of a simulation; else look for what sets the clock.",
    ),
    "CLOCK_STOPPED": Reason(
        "HOLD",
        "The simulated clock stands still.",
        "Unpause the simulation; check that /clock is published.",
    ),
    "DISABLED": Reason(
        "HOLD",
        "Somebody called ~/enable with false.",
        "Call ~/enable with true.",
        by_a_person=True,
    ),
    "TAKEOVER": Reason(
        "HOLD",
        "Somebody else commands the robot through the gate.",
        "When they are done, call ~/enable with true.",
        by_a_person=True,
    ),
    "PROCESS_STALLED": Reason(
        "HOLD",
        "The node stood still or was kept busy, and has heard nothing for 0.3 s: a press of ~/estop "
        "may be over. Where anybody ever spoke there, only ~/enable goes on.",
        "Call ~/enable with true; if it comes again, look at the machine's load.",
        by_a_person=True,
    ),
    "ESTOP": Reason(
        "FAULT",
        "Somebody published true on ~/estop.",
        "Release it, then call ~/reset.",
        is_stop=True,
    ),
    "ESTOP_MISSING": Reason(
        "HOLD",
        "estop_required or estop_timeout is set, and nobody has spoken on ~/estop.",
        "Start the emergency stop's node; it has to publish false once.",
    ),
    "ESTOP_LOST": Reason(
        "FAULT",
        "The publisher of ~/estop is gone (without estop_required no more than a warning), or was silent "
        "for longer than estop_timeout.",
        "Start it again, let it publish false, then call ~/reset.",
        is_stop=True,
    ),
    "COMMAND_CONFLICT": Reason(
        "HOLD",
        "Somebody else publishes on the robot's command topics (with qgf_gate: a warning).",
        "Stop it; or let qgf_gate decide between both (gate: outside).",
    ),
    "CALLBACK": Reason(
        "HOLD",
        "A callback raised an error; the node goes on after a second without one.",
        "The detail has the error; please report it.",
    ),
    "DUPLICATE_NAME": Reason(
        "warning",
        "A second live node has this node's name.",
        "Give one another name or namespace.",
    ),
    "TYPE_MISMATCH": Reason(
        "warning",
        "A peer uses a topic with another message type, so that DDS does not connect it.",
        "Correct the type in the contract, or remap the topic.",
    ),
    "QOS_INCOMPATIBLE": Reason(
        "warning",
        "A peer's QoS is incompatible, so that DDS does not connect it.",
        "Change the policy that is named; the README's table of topics has this node's.",
    ),
    "OVERRUN": Reason(
        "HOLD",
        "No valid action for this tick (a warning), or for more than two in a row (HOLD).",
        "A smaller num_candidates, a faster device, or a less busy machine.",
    ),
    "INFERENCE": Reason(
        "HOLD",
        "The sampler raised an error; three within 10 s are a FAULT.",
        "The detail has the error; export the policy again with `qgf export`, which compares its samplers.",
    ),
    "INFER_HUNG": Reason(
        "FAULT",
        "The sampler has not answered for 1 s.",
        "Restart the node; look at the device.",
    ),
    "ACTION_NONFINITE": Reason(
        "HOLD",
        "The sampler gave NaN or Inf; three within 10 s are a FAULT.",
        "Train or export the policy again.",
    ),
    "ACTION_SCHEMA": Reason(
        "FAULT",
        "The sampler gave something of another shape or type than a chunk.",
        "Export the policy again.",
    ),
    "DEVICE": Reason(
        "HOLD",
        "The sampler's device was lost. It is made again once, on the same device; a second loss "
        "within 60 s, or no such device, is a FAULT.",
        "Look at the device (`nvidia-smi`, the kernel log); restart the node with another `device`.",
    ),
    "SAMPLER_SLOW": Reason(
        "HOLD",
        "A sample takes longer than there is time between two: the robot does not start.",
        "A faster device, a smaller num_candidates, or a policy that executes more of each chunk.",
    ),
    "Q_INVALID": Reason(
        "HOLD",
        "Q or its gradient is not finite, or beyond what was seen in training: that sample is not "
        "guided (a warning). Ten in a row are a HOLD.",
        "If it persists: beta inf, and train the critic again.",
    ),
    "GUIDANCE_SATURATED": Reason(
        "warning",
        "The gate changed more than a fifth of the last second's commands.",
        "Raise beta.",
    ),
    "GATE_MISSING": Reason(
        "HOLD",
        "With gate outside: no status of qgf_gate for 1 s.",
        "Start qgf_gate, as the launch file does, or start the node with gate:=inside.",
    ),
    "GATE_REFUSES": Reason(
        "HOLD",
        "qgf_gate lives, and has passed none of the node's commands for 1 s: the robot stands.",
        "Read its reason and warnings: another owner, other clocks, no measured positions.",
    ),
    "GATE_RESTARTED": Reason(
        "HOLD",
        "qgf_gate ended and began anew while the node ran.",
        "Look why it ended; then call ~/enable with true.",
        by_a_person=True,
    ),
    "IMAGE_MISSING": Reason(
        "HOLD",
        "A camera of the policy has not been heard, or not for its max_age.",
        "Start the camera's driver; the detail has its topic: compare type and name with "
        "`ros2 topic info -v`.",
    ),
    "IMAGE_ENCODING": Reason(
        "HOLD",
        "A camera sends an encoding that cannot be read, or another kind (colour, grey, depth) than the "
        "contract asks for.",
        "Set the driver to one of those that the detail names.",
    ),
    "IMAGE_DAMAGED": Reason(
        "HOLD",
        "An image is cut short or damaged.",
        "Look for a full network or disk, and for a driver that lost frames.",
    ),
    "IMAGE_SIZE": Reason(
        "HOLD",
        "A camera sends images of another size than those that the policy was trained on.",
        "Set the camera to the size that the detail names.",
    ),
    "IMAGE_BLACK": Reason(
        "HOLD",
        "Nothing is to be seen: the image is black, or no distance was measured.",
        "Look at the lens, the light and the exposure.",
    ),
    "IMAGE_CONFLICT": Reason(
        "HOLD",
        "Several publishers send images on one camera's topic by turns.",
        "Stop all but the camera that the policy was trained with; the detail names their nodes.",
    ),
    "FEATURES_POLICY": Reason(
        "HOLD",
        "Features come from another policy's encoder than the one that drives.",
        "Give qgf_encoder the policy of the node, or load the policy again by ~/load_policy.",
    ),
    "CANDIDATES_STOPPED": Reason(
        "HOLD",
        "qgf_gate has heard no candidate of the owner in command for command_timeout.",
        "Look whether its process lives and keeps its rate; its own status says more.",
    ),
    "EXPLICIT_HOLD": Reason(
        "HOLD",
        "The owner in command asks qgf_gate for a hold.",
        "Its own status says why.",
    ),
    "OWNER": Reason(
        "warning",
        "A candidate of somebody who has no say while another one commands.",
        "Nothing, if the takeover is meant; else stop one of the two.",
    ),
    "EPOCH": Reason(
        "warning",
        "A candidate of an epoch that is over, or in which another owner took over.",
        "Call ~/enable of the node that sends it.",
    ),
    "SEQUENCE": Reason(
        "warning",
        "A candidate that is not newer than the last one of its owner.",
        "Look for two processes under one name.",
    ),
    "DEADLINE": Reason(
        "warning",
        "A candidate came after its deadline.",
        "Look at the machine's load and the network; synchronise the machines' clocks.",
    ),
    "FUTURE": Reason(
        "warning",
        "A candidate is to be executed more than 0.1 s ahead of the gate's clock.",
        "Synchronise the machines' clocks; give all nodes the same use_sim_time.",
    ),
    "NAMES": Reason(
        "HOLD",
        "A candidate does not have the contract's names, in the contract's order.",
        "Give the gate and its owners the same policy.",
    ),
    "NONFINITE": Reason(
        "HOLD", "A candidate holds NaN or Inf.", "Repair who sends it; its own status says more."
    ),
    "RANGE": Reason(
        "HOLD",
        "A candidate asks for more than a whole range beyond its limits: that is no action.",
        "Look for a unit or a sign that is wrong in who sends it.",
    ),
    "WORKSPACE": Reason(
        "HOLD",
        "A pose is, or could not stop before it is, in a keep-out box, tilted further than allowed, or too far from "
        "where it is measured.",
        "Move the robot away by hand, or see what holds it; the contract's workspace says what is allowed.",
    ),
    "TYPE": Reason("HOLD", "A candidate's values are no real numbers.", "Repair who sends it."),
    "START": Reason(
        "HOLD",
        "A position is commanded that was never measured: where the motion would begin is unknown.",
        "Look for the topic that measures it.",
    ),
    "COMMAND_SCHEMA": Reason(
        "warning",
        "What came on an owner's topic is too large or no command.",
        "Look for what else publishes there.",
    ),
    "ERROR": Reason(
        "FAULT",
        "The node could not start or go on; the number is the process's exit code.",
        "The detail says what, where and how to fix it.",
    ),
}
