"""Files that are installed beside the package: configuration, launch files, shipped policies."""

from __future__ import annotations

from pathlib import Path

from qgf_ros.errors import PolicyRefused, UsageError


def share_folder() -> Path:
    """The source tree when this file belongs to one, else the prefix's share/qgf_ros.

    Raises:
        UsageError: neither is there; the installation is broken.
    """
    own = Path(__file__)
    source = own.resolve().parents[2]
    if (source / "package.xml").is_file():
        return source
    for prefix in own.parents:
        if (prefix / "share" / "qgf_ros" / "package.xml").is_file():
            return prefix / "share" / "qgf_ros"
    raise UsageError(f"share/qgf_ros was not found beside {own}; install the package again")


def find_policy(policy: str) -> Path:
    """A policy folder by its path, or a shipped one by its name.

    Raises:
        PolicyRefused: there is none, naming the shipped ones.
    """
    if not policy:
        raise PolicyRefused(
            f"no policy was given; give its folder, or one of {', '.join(shipped())}"
        )
    if "/" not in policy and policy not in (".", "..") and policy in shipped():
        return share_folder() / "config" / "policies" / policy
    path = Path(policy).expanduser()
    if not path.is_dir():
        raise PolicyRefused(
            f"{policy!r} is no policy folder, nor a shipped policy ({', '.join(shipped())})"
        )
    return path


def shipped() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(
        p.parent.name for p in (share_folder() / "config" / "policies").glob("*/policy.yaml")
    )
