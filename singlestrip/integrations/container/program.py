"""The program: reads its own options, and runs the engine to the end."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from typing import Dict, List, Optional, Sequence

from .engines import DEFAULT_IMAGE, choose_engine, engine_command
from .options import OPTIONS
from .places import Refusal

MANUAL = """\
Runs a singlestrip command in a container of docker, podman, apptainer or singularity, as the current
user and without network. Options of the container come before the command, those of singlestrip after it:

    singlestrip-container --engine podman strip -i t1.nii.gz -o brain.nii.gz -m mask.nii.gz
    singlestrip-container --image singlestrip.sif --gpu strip --list scans.txt --out-dir masks
    singlestrip-container strip --help"""
STATUS = """\
The exit status is that of singlestrip (0 all went well, 1 something failed, 2 the command line is wrong) or of
the engine (such as 125 to 127); 137 stands for a process that was killed, most often for want of memory."""
KILLED = 137


def build_parser() -> argparse.ArgumentParser:
    """The parser of the options before the command."""
    parser = argparse.ArgumentParser(
        "singlestrip-container",
        usage="singlestrip-container [OPTIONS] COMMAND ...",
        description=MANUAL,
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        default=os.environ.get("SINGLESTRIP_ENGINE"),
        help="docker, podman, apptainer or singularity (default $SINGLESTRIP_ENGINE, or the first that is found)",
    )
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        default=os.environ.get("SINGLESTRIP_IMAGE"),
        help=f"image, or SIF file (default $SINGLESTRIP_IMAGE, or for docker and podman {DEFAULT_IMAGE})",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="let the container use the GPUs; --device cuda and --gpu in COMMAND do too",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the engine's command and stop")
    return parser


def run_engine(command: Sequence[str], environment: Dict[str, str]) -> int:
    """Run a command to its end and hand signals on once; returns the exit status as a shell gives it."""
    # In a session of its own the engine gets Ctrl-C from here alone: a second one would stop singlestrip at once.
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, lambda number, frame: process.send_signal(number))
    status = process.wait()
    return 128 - status if status < 0 else status


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the program with the process's arguments, or with others; returns the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    parser = build_parser()
    start = 0
    while start < len(arguments) and arguments[start].startswith("-"):
        start += 2 if arguments[start] in ("--engine", "--image") else 1
    args = parser.parse_args(arguments[:start])
    if start >= len(arguments):
        parser.error(f"name a command: {', '.join(OPTIONS)}")
    command, *rest = arguments[start:]
    if command not in OPTIONS:
        parser.error(f"{command}: no such command; choose from {', '.join(OPTIONS)}")
    try:
        engine = choose_engine(args.engine, args.image)
        line, environment = engine_command(engine, args.image, command, rest, args.gpu, create=not args.dry_run)
    except Refusal as refusal:
        print(f"singlestrip-container: {refusal}", file=sys.stderr)
        return 1
    if args.dry_run:
        settings = [f"{name}={value}" for name, value in sorted(environment.items())]
        print(" ".join(map(shlex.quote, (["env", *settings] if settings else []) + line)))
        return 0
    status = run_engine(line, environment)
    if status == KILLED:
        print(
            "singlestrip-container: the process was killed (status 137), most often because memory ran out: give "
            "the job or the engine more",
            file=sys.stderr,
        )
    return status
