"""Damaged inputs by the thousand: what the command does with each.

    python benchmarks/fuzz.py --cases 10000 --seed 1 [--kinds gzip models ...] [--only NUMBER] [--keep FOLDER]

Each case is one damaged input of a kind of fuzz_inputs.py and a command line that reads it. It runs the program in
a forked process whose libraries are loaded, so that a case takes milliseconds, and a share of cases as commands of
their own; under a limit on memory and one on time. It ends in one of these:

- success: status 0, nothing on standard error but lines of the program, and all outputs there, whole, on the grid
  of the image, and no mask of the background;
- clean: status 1 or 2, and a sentence a line that begins with `singlestrip: `;
- anything else is a fault: a traceback, an "unexpected" error, memory that ran out rather than being known
  beforehand, a signal, more than the time or memory allowed, a wrong output, an input changed, a file left over.

The cases of a seed are the same each time: a plain generator makes them. (A library such as hypothesis looks for
the smallest input that fails, which takes many runs of a process and says little about a damaged header.) Prints a
table, and what each fault was; inputs of faults stay in --keep, and --only runs one again.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import fuzz_inputs
import nibabel as nib
import numpy as np
from fuzz_inputs import KINDS, Trial

from singlestrip.io.images import volume
from singlestrip.io.partial_files import PARTIAL
from singlestrip.networks import checkpoint
from singlestrip.threads import set_thread_limit

GIB = 2**30
MAPPED_GIB = 3.0  # most that a case may map; libraries take 0.7 of it
ALLOWED_GIB, ALLOWED_SECONDS = 2.0, 20.0  # seconds of the processor: others may use the machine too
HANGING_SECONDS = 120.0
REAL_SHARE = 0.01  # of cases that run as a command of their own
MASK_TISSUE = 0.5  # least share of a mask that is brighter than the darkest voxel
SUCCESS, CLEAN = "success", "clean"


@dataclass(frozen=True)
class Result:
    """What became of a case. verdict: SUCCESS, CLEAN or what is wrong; line: the first said."""

    number: int
    kind: str
    verdict: str
    line: str
    seconds: float
    gib: float

    @property
    def is_fault(self) -> bool:
        return self.verdict not in (SUCCESS, CLEAN)


# Running


def start_case(number: int, kind: str, seed: int, folder: Path) -> int:
    """Make and run a case in a child process; returns its number. What it says lies in folder.parent."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        random = np.random.default_rng([seed, number])
        folder.mkdir(parents=True)
        os.chdir(folder)
        trial = fuzz_inputs.KINDS[kind][0](random, folder)
        record = asdict(trial) | {"inputs": _checksums(folder)}
        folder.with_suffix(".json").write_text(json.dumps(record))
        _enter_limits(folder)
        run_program(trial.arguments, own_process=random.random() < REAL_SHARE)
    except BaseException:
        folder.with_suffix(".broken").write_text(traceback.format_exc())  # the fuzzer's own fault
    finally:
        os._exit(99)


def _enter_limits(folder: Path) -> None:
    for descriptor, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(folder.with_suffix(ending), os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    mapped = int(MAPPED_GIB * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (mapped, mapped))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, HANGING_SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (int(ALLOWED_SECONDS) + 5,) * 2)


def run_program(arguments: list[str], own_process: bool) -> None:
    """The program as `python -m singlestrip` runs it; does not return."""
    if own_process:
        line = [sys.executable, "-m", "singlestrip", *arguments]
        os.execv(sys.executable, [os.fsencode(word) for word in line])
    from singlestrip.__main__ import main

    sys.argv = ["singlestrip", *arguments]
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def run_cases(numbers: list[int], kinds: list[str], seed: int, work: Path, jobs: int, keep: Path | None):
    """Results of cases, as they end; at most `jobs` run at a time."""
    waiting, running = list(reversed(numbers)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop()
            kind = draw_kind(number, kinds, seed)
            folder = work / str(number) / "files"
            folder.parent.mkdir()
            running[start_case(number, kind, seed, folder)] = (number, kind, folder)
        child, code, used = os.wait4(-1, 0)
        number, kind, folder = running.pop(child)
        seconds, gib = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
        verdict, line = judge(os.waitstatus_to_exitcode(code), folder, seconds, gib)
        result = Result(number, kind, verdict, line, seconds, gib)
        if result.is_fault and keep is not None:
            shutil.rmtree(keep / str(number), ignore_errors=True)
            shutil.copytree(folder.parent, keep / str(number), symlinks=True)
        shutil.rmtree(folder.parent, ignore_errors=True)
        yield result


def draw_kind(number: int, kinds: list[str], seed: int) -> str:
    weights = np.array([KINDS[kind][1] for kind in kinds])
    return kinds[np.random.default_rng([seed, number, 1]).choice(len(kinds), p=weights / weights.sum())]


# Judging


class Wrong(Exception):
    """What is wrong with an output."""


def judge(status: int, folder: Path, seconds: float, gib: float) -> tuple[str, str]:
    """The verdict on a case that ended, and the first line that it said."""
    broken = folder.with_suffix(".broken")
    if broken.exists():
        return "the fuzzer itself failed", broken.read_text().strip().split("\n")[-1]
    said = folder.with_suffix(".err").read_bytes().decode(errors="backslashreplace").split("\n")
    lines = [line for line in said if line]
    first = next((line for line in lines if not line.startswith("usage: ")), "")
    verdict = _fault_in_words(status, lines) or _fault_in_use(status, seconds, gib)
    if verdict is None:
        record = json.loads(folder.with_suffix(".json").read_text())
        inputs = record.pop("inputs")
        logging.disable()  # what NiBabel says of files is no news here
        try:
            check_files(Trial(**record), folder, inputs, status)
        except Wrong as error:
            verdict = str(error)
        except Exception as error:
            verdict = f"an output that cannot be read, {type(error).__name__}"
        finally:
            logging.disable(logging.NOTSET)
    return verdict or (SUCCESS if status == 0 else CLEAN), first


def _fault_in_use(status: int, seconds: float, gib: float) -> str | None:
    if seconds > ALLOWED_SECONDS:
        return f"over {ALLOWED_SECONDS:g} s"
    if gib > ALLOWED_GIB:
        return f"over {ALLOWED_GIB:g} GiB"
    return None


def _fault_in_words(status: int, lines: list[str]) -> str | None:
    """What is wrong with an exit status and the lines said with it."""
    if status == -signal.SIGALRM:
        return "hangs"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"over {ALLOWED_SECONDS:g} s"
    if status not in (0, 1, 2):
        return f"status {status}"
    text = "\n".join(lines)
    if "Traceback" in text:
        return "traceback"
    own = [line for line in lines if line.startswith("singlestrip: ")]
    allowed = len(own) + (sum(line.startswith("usage: ") for line in lines) if status == 2 else 0)
    if len(lines) > allowed:
        return "a line that is not the program's"
    unforeseen = re.search(r"unexpected \w+(?=: .*report it)", text)
    if unforeseen:
        return unforeseen.group()
    if "out of memory" in text:
        return "out of memory"
    if status != 0 and not own:
        return "no sentence"
    return None


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_files(trial: Trial, folder: Path, inputs: dict[str, str], status: int) -> None:
    """Raise Wrong if an input changed, an output is missing, damaged or nonsense, or something else is left."""
    found = _checksums(folder)
    for name, digest in inputs.items():
        rewritten = name.endswith((".checkpoint", ".safetensors")) or name.startswith("run/")  # resumed runs
        if found.get(name) != digest and not rewritten:
            raise Wrong("an input changed")
    if "pickle-ran" in found:
        raise Wrong("a checkpoint ran code")
    if any(PARTIAL.match(Path(name).name) for name in found):
        raise Wrong("a half-written file is left")
    missing = [name for name in trial.outputs if name not in found]
    if status == 0 and missing:
        raise Wrong("an output is missing")
    for name in sorted(found.keys() - inputs.keys()):
        _check_output(folder / name, None if trial.image is None else folder / trial.image)


def _check_output(path: Path, image_path: Path | None) -> None:
    name, suffix = path.name, volume.suffix_of(path)
    if suffix:
        array = np.asanyarray(nib.load(path).dataobj)
        image = None if image_path is None else volume.read(image_path)
        if image is not None:
            _check_grid(path, image)
        if name.endswith("_mask" + suffix):
            _check_mask(array, image)
        if name.endswith("_sdt" + suffix) and not np.isfinite(array).all():
            raise Wrong("a distance is not finite")
        if name.endswith("_labels" + suffix) and not ((array >= 1) & (array <= 190)).all():
            raise Wrong("a label is out of range")
    elif name.endswith(".tsv") and "run" not in path.parts:
        rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        if len({row.count("\t") for row in rows}) > 1 or "\r" in "".join(rows):
            raise Wrong("a table is torn")
    elif name.endswith(".json"):
        json.loads(path.read_text())
    elif name.endswith(".safetensors"):
        checkpoint.load_model(path)


def _check_grid(path: Path, image: volume.Volume) -> None:
    written = volume.read(path)
    if written.stored.shape != image.stored.shape:
        raise Wrong("an output has another shape than its image")
    if not np.allclose(written.vox2world, image.vox2world, rtol=1e-4, atol=1e-3):
        raise Wrong("an output lies elsewhere than its image")


def _check_mask(array: np.ndarray, image: volume.Volume | None) -> None:
    if array.dtype != np.uint8 or not set(np.unique(array)) <= {0, 1}:
        raise Wrong("a mask is not of 0 and 1")
    if not array.any():
        raise Wrong("a mask is empty")
    if image is not None and array.size == image.stored.size:
        inside = image.stored.reshape(array.shape, order="F")[array > 0]
        finite = image.stored[np.isfinite(image.stored)]
        lowest = finite.min() if image.slope > 0 else finite.max()
        if np.mean(inside != lowest) < MASK_TISSUE:
            raise Wrong("a mask of the background")


# Report


def table(results: list[Result]) -> str:
    """A row a kind and one of all, as Markdown."""
    lines = [
        "| input | cases | successes | clean sentences | anything else | peak GiB | slowest s |",
        "|" + "---|" * 7,
    ]
    kinds = [kind for kind in KINDS if any(r.kind == kind for r in results)]
    for kind in [*kinds, "all"]:
        rows = [r for r in results if kind in (r.kind, "all")]
        counts = [sum(r.verdict == v for r in rows) for v in (SUCCESS, CLEAN)]
        peak, slowest = max(r.gib for r in rows), max(r.seconds for r in rows)
        numbers = " | ".join(map(str, [len(rows), *counts, len(rows) - sum(counts)]))
        lines.append(f"| {kind} | {numbers} | {peak:.2f} | {slowest:.1f} |")
    return "\n".join(lines)


def faults(results: list[Result]) -> str:
    """A line for each sort of fault: how often, an example's number, what it said."""
    sorts = Counter((r.kind, r.verdict) for r in results if r.is_fault)
    lines = []
    for (kind, verdict), count in sorts.most_common():
        example = min((r for r in results if (r.kind, r.verdict) == (kind, verdict)), key=lambda r: r.number)
        lines.append(f"{count:5d} {kind}: {verdict}; case {example.number}: {example.line[:160]}")
    return "\n".join(lines)


def load_libraries() -> None:
    """All that a command imports, before cases are forked."""
    import matplotlib.figure  # noqa: F401
    import sklearn.mixture  # noqa: F401

    from singlestrip.training import cascade  # noqa: F401


def fuzz(cases: int, seed: int, kinds: list[str], jobs: int, only: int | None = None, keep: Path | None = None):
    """Results of all cases, with a folder made for them and removed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        work = Path(name)
        base = work / "base"
        os.environ["SINGLESTRIP_MODELS"] = str(base / "models")
        before = Path.cwd()
        set_thread_limit(1)
        load_libraries()
        fuzz_inputs.BASE = base
        fuzz_inputs.prepare(base)
        os.chdir(before)
        gc.freeze()  # collected in a child, what is here would be copied
        numbers = list(range(cases)) if only is None else [only]
        yield from run_cases(numbers, kinds, seed, work, jobs, keep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at a time")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one case, with what it said")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the inputs of faults")
    args = parser.parse_args()
    start, results = time.monotonic(), []
    for result in fuzz(args.cases, args.seed, args.kinds, args.jobs, args.only, args.keep):
        results.append(result)
        if args.only is not None:
            print(result)
        if sys.stderr.isatty():
            print(f"\r{len(results)}", end="", file=sys.stderr)
    print(table(results))
    print(f"\nseed {args.seed}, {time.monotonic() - start:.0f} s; faults:\n{faults(results) or 'none'}")
    return int(any(r.is_fault for r in results))


if __name__ == "__main__":
    sys.exit(main())
