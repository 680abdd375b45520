"""The command killed at random moments, then run again: what is lost, what differs, what is left over.

    python benchmarks/kills.py --kills 200 --seed 1 [--commands strip train ...] [--keep FOLDER]

Each kill is one run of the real command in a folder of its own, from the start of the process on: a signal at a
moment drawn over the time that an unbroken run takes, SIGKILL, SIGTERM, SIGINT, or SIGINT twice. Then the same
command runs to its end (those that can, with --resume), and the folder is compared with that of the unbroken run.
Counted are

- wrong statuses: not 1 after SIGTERM and SIGINT, not -9 after SIGKILL, or anything said but `singlestrip: ` lines.
  A run that ended all the same has status 0 and all files. A signal before Python hands over to the program (it
  does not handle SIGTERM then) is counted apart: the program can say nothing about it;
- half-written files: what stands under a final name after the signal and cannot be read;
- partial files: hidden ones left by a signal other than SIGKILL, and by any once the next run has ended;
- lost and different files: against the unbroken run, but for the seconds that are on record in some.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors import safe_open
from tiny import make_heads, make_images, make_models

from singlestrip.io.images import volume
from singlestrip.io.partial_files import PARTIAL

COMMANDS = {  # each with --resume where there is one; all write below out/
    "strip": "strip --list scans.txt --out-dir out --save mask brain sdt --qc --resume",
    "bids": "bids raw out participant --save brain --qc --resume",
    "fit-gmm": "fit-gmm -i image.nii -m mask.nii -o out/labels.nii.gz --picture out/labels.png",
    "train": "train -l labels.nii --init untrained -o out/model.safetensors --steps 20 --save-every 5 --amp off "
    "--batch 1 --no-quality --resume",
    "train-qc": "train-qc -m mask.nii -o out/quality.safetensors --epochs 1 --kind slices --resume",
    "self-train": "self-train -i image.nii -m mask.nii --list scans.txt -o out --model untrained --qc-model "
    "quality --rounds 2 --keep 2 --steps 4 --save-every 2 --batch 1 --threshold 1e-6 --resume",
}
SIGNALS = {  # the signals sent, in order
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
}
BETWEEN_SECONDS = 0.3  # at most, between the first and the second
UNEQUAL_KEYS = ("seconds",)  # of records, from run to run
COLUMNS = ("status", "half-written", "partial", "lost", "different")


@dataclass
class Kill:
    """One kill. moment: seconds after the start; early: before the program began; wrong: what, by column."""

    number: int
    command: str
    signals: str
    moment: float
    status: int = 0
    early: bool = False
    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    @property
    def is_fault(self) -> bool:
        return any(self.wrong.values())


# Running


def prepare(folder: Path) -> None:
    """What every run begins with: six scans, a labelled one, a BIDS data set of three, models."""
    folder.mkdir()
    make_models(folder / "models")
    make_images(folder)
    scans = make_heads(folder, 6)
    (folder / "scans.txt").write_text("".join(f"{path.name}\n" for path in scans))
    for number, scan in enumerate(scans[:3], start=1):
        name = f"raw/sub-{number}/anat/sub-{number}_T1w.nii.gz"
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(scan, folder / name)
    (folder / "raw/dataset_description.json").write_text('{"Name": "heads", "BIDSVersion": "1.10.0"}')


def fresh(base: Path, folder: Path, command: str) -> Path:
    """A copy of the base, with the folder that the command writes to where it makes none."""
    shutil.copytree(base, folder)
    if "out/" in COMMANDS[command]:
        (folder / "out").mkdir()
    return folder


def start(command: str, folder: Path) -> subprocess.Popen:
    """The real command; what it says goes to a file beside its folder."""
    environment = os.environ | {"SINGLESTRIP_MODELS": str(folder / "models"), "OMP_NUM_THREADS": "1"}
    with folder.with_suffix(".err").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "singlestrip", *COMMANDS[command].split()],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )


def run_to_end(command: str, folder: Path) -> float:
    """Seconds that the command takes. Raises RuntimeError with what it said unless it ends with status 0."""
    began = time.monotonic()
    if start(command, folder).wait() != 0:
        raise RuntimeError(f"{command}: {folder.with_suffix('.err').read_text()}")
    return time.monotonic() - began


def has_begun(process: subprocess.Popen) -> bool:
    """Whether the program has set what it does about SIGTERM, which Python does not. True if it has ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    handled = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
    return bool(handled >> (signal.SIGTERM - 1) & 1) or "zombie" in fields["State"]


def send(kill: Kill, process: subprocess.Popen, gap: float) -> None:
    """Send the signals of a kill at its moment, and wait for the end."""
    time.sleep(kill.moment)
    for number, sent in enumerate(SIGNALS[kill.signals]):
        if number:
            time.sleep(gap)
        if process.poll() is None:
            kill.early |= not has_begun(process)
            process.send_signal(sent)
    kill.status = process.wait()


def run_kill(kill: Kill, gap: float, base: Path, unbroken: Path, work: Path) -> Kill:
    """Kill a run, look, run it to its end, and look again."""
    folder = fresh(base, work / f"kill{kill.number}", kill.command)
    send(kill, start(kill.command, folder), gap)
    kill.wrong["status"] = list(wrong_status(kill, folder))
    kill.wrong["half-written"] = [str(path) for path in final_files(folder) if not is_readable(folder, path)]
    if kill.signals != "SIGKILL" and not kill.early:
        kill.wrong["partial"] = list(partial_files(folder))
    try:
        run_to_end(kill.command, folder)
    except RuntimeError as error:
        kill.wrong["lost"] = [str(error)]
        return kill
    kill.wrong["partial"] += partial_files(folder)
    wanted, found = set(final_files(unbroken)), set(final_files(folder))
    kill.wrong["lost"] = sorted(map(str, wanted - found))
    kill.wrong["different"] = sorted(
        [str(path) for path in wanted & found if content(unbroken, path) != content(folder, path)]
        + [f"{path} (more)" for path in found - wanted]
    )
    return kill


def wrong_status(kill: Kill, folder: Path) -> Iterator[str]:
    said = folder.with_suffix(".err").read_text(errors="backslashreplace").splitlines()
    if kill.early:
        return
    allowed = -signal.SIGKILL if kill.signals == "SIGKILL" else 1
    if kill.status not in (0, allowed):
        yield f"status {kill.status}"
    yield from (line for line in said if not line.startswith("singlestrip: "))


# Files


def _files(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in (folder / "out").rglob("*") if path.is_file())


def final_files(folder: Path) -> list[Path]:
    """All that a command wrote under names to stay, relative to the folder."""
    return [path for path in _files(folder) if not PARTIAL.match(path.name)]


def partial_files(folder: Path) -> list[str]:
    return [str(path) for path in _files(folder) if PARTIAL.match(path.name)]


def is_readable(folder: Path, name: Path) -> bool:
    try:
        content(folder, name)
    except Exception:
        return False
    return True


def content(folder: Path, name: Path) -> Any:
    """What a file of a run in `folder` says, without times and the folder's name. Raises if it is not whole."""
    path = folder / name
    if volume.suffix_of(path):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        return array.tobytes(), array.shape, image.header.binaryblock
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            records = {
                name: _without_times(json.loads(text)) for name, text in file.metadata().items() if "{" in text
            }
            return records, {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    if path.suffix == ".checkpoint":
        return _without_times(torch.load(path, weights_only=True))
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text().replace(str(folder), "")))
    if path.name.endswith(".metrics.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError(f"{path}: a row is cut short")
        return _without_times(rows)
    data = path.read_bytes()
    if path.suffix == ".png" and not data.endswith(b"IEND\xaeB`\x82"):
        raise ValueError(f"{path}: cut short")
    if path.suffix == ".html" and not data.rstrip().endswith(b"</html>"):
        raise ValueError(f"{path}: cut short")
    if path.suffix == ".tsv" and not data.endswith(b"\n"):
        raise ValueError(f"{path}: cut short")
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in UNEQUAL_KEYS}
    if isinstance(value, list | tuple):
        return [_without_times(part) for part in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


# All kills


def run_kills(count: int, seed: int, commands: list[str], jobs: int, keep: Path | None = None) -> Iterator[Kill]:
    """Kills in order, commands and signals in turn, moments at random."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child ignores what its parent ignores
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as name, ThreadPoolExecutor(jobs) as pool:
        work = Path(name)
        base = work / "base"
        prepare(base)
        unbroken, seconds = {}, {}
        for command in commands:
            unbroken[command] = fresh(base, work / f"unbroken-{command.replace(' ', '')}", command)
            seconds[command] = run_to_end(command, unbroken[command])
        kills, gaps = [], []
        for number in range(count):
            command = commands[number % len(commands)]
            signals = list(SIGNALS)[number // len(commands) % len(SIGNALS)]
            kills.append(Kill(number, command, signals, float(random.uniform(0, seconds[command]))))
            gaps.append(float(random.uniform(0, BETWEEN_SECONDS)))
        for kill in pool.map(lambda k, gap: run_kill(k, gap, base, unbroken[k.command], work), kills, gaps):
            folder = work / f"kill{kill.number}"
            if kill.is_fault and keep is not None:
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder)
            yield kill


def table(kills: list[Kill]) -> str:
    """A row a command and one of all, as Markdown: kills by what became of them, and what is wrong."""
    titles = ["command", "kills", "status 1", "status -9", "ended before", "before the program began"]
    titles += ["wrong status", "half-written", "partial files", "lost", "different"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for command in [*dict.fromkeys(kill.command for kill in kills), "all"]:
        rows = [kill for kill in kills if command in (kill.command, "all")]
        statuses = Counter("early" if kill.early else kill.status for kill in rows)
        counts = [len(rows), statuses[1], statuses[-9], statuses[0], statuses["early"]]
        counts += [sum(bool(kill.wrong[column]) for kill in rows) for column in COLUMNS]
        lines.append(f"| {command} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="kills at a time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for what faults left")
    args = parser.parse_args()
    began, kills = time.monotonic(), []
    for kill in run_kills(args.kills, args.seed, args.commands, args.jobs, args.keep):
        kills.append(kill)
        if kill.is_fault:
            wrong = {name: found for name, found in kill.wrong.items() if found}
            print(
                f"kill {kill.number}, {kill.command}, {kill.signals} at {kill.moment:.2f} s: {wrong}", flush=True
            )
    print(f"\n{table(kills)}\n\nseed {args.seed}, {time.monotonic() - began:.0f} s")
    return int(any(kill.is_fault for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
