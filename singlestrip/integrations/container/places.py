"""Places in the container: where a path leads there, and where no folder may be mounted.

`folders` is always a table of mounts: the host folder, its links followed, of each place inside the container.
"""

import os
from typing import Dict, Optional

# The container needs these itself: nothing may be mounted on or below one, nor on a folder that holds one.
SYSTEM_FOLDERS = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/dev/pts", "/dev/mqueue"),
    *("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/share"),
    *("/usr/local/bin", "/usr/local/lib", "/var/lib", "/opt/singlestrip"),
)
MAX_LINKS = 40  # links that one path may lead through; the kernel's own limit


class Refusal(Exception):
    """A mistake that the user can put right, described in one sentence."""


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def can_be_mounted(place: str) -> bool:
    """Whether a mount at this place leaves the container's own files visible."""
    return not any(lies_in(place, folder) or lies_in(folder, place) for folder in SYSTEM_FOLDERS)


def check_place(place: str) -> None:
    """Raise Refusal if a mount at this place would hide the container's own files."""
    if not can_be_mounted(place):
        raise Refusal(f"{place}: mounted there it would hide the container's own files; work in another folder")


def follow_links(path: str, folders: Dict[str, str]) -> str:
    """The place at which a path ends in the container, after all links that are visible there."""
    parts, place, links = path.split("/"), "/", 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        place = os.path.dirname(place) if part == ".." else os.path.join(place, part)
        host = host_path(place, folders)
        if host is not None and os.path.islink(host) and links < MAX_LINKS:
            links += 1
            target = os.readlink(host)
            parts = target.split("/") + parts
            place = "/" if target.startswith("/") else os.path.dirname(place)
    return place


def host_target(path: str, folders: Dict[str, str]) -> Optional[str]:
    """The host path that a path in the container leads to, links followed; None if nothing is mounted there."""
    return host_path(follow_links(path, folders), folders)


def host_path(place: str, folders: Dict[str, str]) -> Optional[str]:
    """The host path at a place in the container, links not followed; None if nothing is mounted there."""
    mounted = deepest_mount(place, folders)
    return None if mounted is None else os.path.normpath(folders[mounted] + "/" + place[len(mounted) :])


def deepest_mount(place: str, folders: Dict[str, str]) -> Optional[str]:
    """The deepest mounted place that is, or holds, `place`; None if there is none."""
    while place not in folders:
        if place == "/":
            return None
        place = os.path.dirname(place)
    return place
