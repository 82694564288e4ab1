"""Why a topic or column gives no numbers to learn from: what is there and cannot be seen is no less
there."""

from __future__ import annotations

from training.doctor.check import SHOWN, Check
from training.doctor.dataset import Dataset

CAMERAS = ("sensor_msgs/Image", "sensor_msgs/CompressedImage", "image", "video", "ffmpeg_image_transport")  # fmt: skip
CLOUDS = ("sensor_msgs/PointCloud2", "sensor_msgs/PointCloud")
WORDS = ("std_msgs/String", "std_msgs/Header", "std_msgs/Empty", "string", "large_string")


def is_camera(kind: str) -> bool:
    return any(kind == k or kind.startswith(f"{k}/") for k in CAMERAS)


def why_not_numbers(kind: str) -> str:
    """kind: a message type, or the type of a column."""
    if is_camera(kind):
        return "a camera whose images could not be read: sensor_msgs/Image and CompressedImage (JPEG, PNG) can"
    if kind in CLOUDS:
        return "a point cloud: the policy of this version does not see it"
    if kind.startswith("qgf_ros/"):
        return "what the node says of itself"
    if kind in WORDS:
        return "holds no numbers"
    return (
        "nothing was read of it: it holds no numbers, or too many, or arrays that change their length, "
        "or a type that the bag does not define"
        if "/" in kind
        else f"nothing was read of it: {kind or 'its type'} is not one number or one row of numbers per tick"
    )


def unread_cameras(data: Dataset) -> Check | None:
    found = [t for t, kind in data.others.items() if is_camera(kind)]
    if not found:
        return None
    return Check(
        "unread cameras",
        "warn",
        f"no image of {len(found)} cameras could be read: {', '.join(found[:SHOWN])}",
        "record sensor_msgs/Image, or CompressedImage as JPEG or PNG; or see that the numbers alone say what "
        "the task needs (where the object is), or nothing can learn it",
        tuple(found[:SHOWN]),
    )
