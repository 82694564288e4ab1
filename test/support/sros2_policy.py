"""What config/sros2/qgf.policy.xml allows a node, and how rclpy is asked what it has."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

FILE = Path(__file__).parents[2] / "config" / "sros2" / "qgf.policy.xml"
# What the policy calls it, and what rclpy calls it.
RIGHTS = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}


def allowed(node: str, what: str, right: str, profile: int = 1) -> set[str]:
    """Full names, expanded as sros2 does it. profile: of the enclave's; the second one is for cameras."""
    path = f"enclaves/enclave[@path='/{node}']/profiles/profile[{profile}]/{what}"
    names = {
        (name.text or "").strip()
        for group in ElementTree.parse(FILE).getroot().findall(path)
        if group.get(right) == "ALLOW"
        for name in group
    }
    return {n if n.startswith("/") else f"/{n.replace('~', node)}" for n in names}
