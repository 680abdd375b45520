"""The folders that a container is given, and the places at which they are mounted."""

import os
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from .places import (
    MAX_LINKS,
    Refusal,
    can_be_mounted,
    check_place,
    deepest_mount,
    follow_links,
    host_path,
    host_target,
    lies_in,
)

SCRATCH_FOLDERS = ("/tmp", "/var/tmp")  # always writable: programs write there unasked
MAX_MOUNTS = 64  # with more, parents are mounted in place of the folders that are only read


class Mount(NamedTuple):
    """A folder of the host and the place at which the container has it."""

    host: str
    inside: str
    writable: bool


class Mounts:
    """Collects the paths of a command line, and makes the list of mounts with which each leads to the same file.

    working_folder: the absolute path that relative paths start from.
    """

    def __init__(self, working_folder: str) -> None:
        self.working_folder = working_folder
        self._folders: Dict[str, str] = {}  # host folder, links followed, of each place inside
        self._writable: Set[str] = set()  # host folders
        self._named_folders: List[str] = []  # as the user wrote them
        # Each file as the user wrote it, and the host paths that its links lead through; the last one is no link.
        self._named_files: List[Tuple[str, List[str]]] = []

    def absolute(self, path: str, base: Optional[str] = None) -> str:
        """The absolute path without dots, from `base` or the working folder.

        As in the kernel, the links in what precedes a `..` are followed before it.
        """
        parts = os.path.join(base or self.working_folder, path).split("/")
        if ".." in parts:
            after_dots = len(parts) - parts[::-1].index("..")
            parts = [os.path.realpath("/".join(parts[:after_dots])), *parts[after_dots:]]
        return os.path.normpath("/".join(parts))

    def add_folder(self, path: str, writable: bool = False) -> None:
        """Add a folder."""
        host = os.path.realpath(path)
        self._folders[host] = host
        self._named_folders.append(path)
        if writable:
            self._writable.add(host)

    def add_file(self, path: str) -> None:
        """Add a file to read, with all links on the way to it. Without its folder nothing is added."""
        host = path
        chain: List[str] = []
        for _ in range(MAX_LINKS):
            host = os.path.join(os.path.realpath(os.path.dirname(host)), os.path.basename(host))
            folder = os.path.dirname(host)
            if not os.path.isdir(folder):
                break
            self._folders[folder] = folder
            chain.append(host)
            if not os.path.islink(host):
                break
            host = os.path.join(folder, os.readlink(host))
        if chain:
            self._named_files.append((path, chain))

    def add_new_file(self, path: str, create: bool) -> None:
        """Add a file to write. `create` makes its folder if that is missing."""
        self.add_new_folder(os.path.dirname(path), create)
        if os.path.islink(path):
            self.add_file(path)

    def add_new_folder(self, path: str, create: bool) -> None:
        """Add a folder to write in. `create` makes it if it is missing."""
        if create:
            try:
                os.makedirs(path, exist_ok=True)
            except OSError as error:
                raise Refusal(f"{path}: cannot be made ({error.strerror})") from error
        self.add_folder(path, writable=True)

    def add_linked_folder(self, path: str) -> None:
        """Add a folder to read, with everything outside it that links below it lead to."""
        if not os.path.isdir(path):
            return
        self.add_folder(path)
        top = os.path.realpath(path)
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not name.startswith(".")]
            for name in names + files:
                entry = os.path.join(folder, name)
                if os.path.islink(entry) and not lies_in(os.path.realpath(entry), top):
                    self.add_file(entry)
                    if os.path.isdir(entry):
                        self.add_folder(entry)

    def as_list(self) -> List[Mount]:
        """The mounts, each after those that hold it. Raises Refusal if there is no way to mount something."""
        self._merge_into_parents()
        for path in self._named_folders:
            self._lead_to(path, os.path.realpath(path))
        for path, chain in self._named_files:
            if host_target(path, self._folders) != chain[-1]:
                self._lead_along(path, chain)
        for place in self._folders:
            check_place(place)
        needed = sorted(self._needed_folders().items())
        return [Mount(host, place, self._may_write(host)) for place, host in needed]

    def _merge_into_parents(self) -> None:
        """If there are very many folders that are only read, replace the deepest of them by their parents."""
        while len(self._folders) > MAX_MOUNTS:
            read = [f for f in self._folders if f not in self._writable and can_be_mounted(os.path.dirname(f))]
            if not read:
                break
            depth = max(folder.count("/") for folder in read)
            for folder in read:
                if folder.count("/") == depth:
                    del self._folders[folder]
                    self._folders[os.path.dirname(folder)] = os.path.dirname(folder)

    def _lead_along(self, path: str, chain: List[str]) -> None:
        """Make a file's path in the container lead through the same links as on the host."""
        for host in chain:
            folder = os.path.dirname(path)
            self._lead_to(folder, os.path.dirname(host))
            if os.path.islink(host):  # a relative link starts from where it lies in the container
                path = os.path.normpath(os.path.join(follow_links(folder, self._folders), os.readlink(host)))

    def _lead_to(self, path: str, host: str) -> None:
        """Make a path in the container lead to a host folder."""
        place = follow_links(path, self._folders)
        if host_path(place, self._folders) == host:
            return
        if deepest_mount(place, self._folders) is not None:
            raise Refusal(f"{path}: leads to {host} by links that mean something else in a container")
        self._folders[place] = host

    def _needed_folders(self) -> Dict[str, str]:
        """The mounts without those that another one, which may be written just as much, already shows."""
        needed: Dict[str, str] = {}
        for place in sorted(self._folders, key=lambda place: (place != self._folders[place], place)):
            host = self._folders[place]
            above = deepest_mount(place, needed)
            same_rights = above is not None and self._may_write(needed[above]) == self._may_write(host)
            if not (same_rights and host_target(place, needed) == host):
                needed[place] = host
        return needed

    def _may_write(self, host: str) -> bool:
        return host in self._writable or host in SCRATCH_FOLDERS
