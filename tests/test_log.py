"""What the library logs, as a command shows it: one line each, no warning twice, nothing of other libraries."""

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from phantoms import make_head

import singlestrip
from singlestrip.cli.log import PACKAGE, show_log
from singlestrip.cli.main import main

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
PROGRAM = """
import sys
from singlestrip.cli.commands import strip

def run(args):
    import logging
    logging.basicConfig(format="LIBRARY %(message)s")
    log = logging.getLogger("singlestrip.io.images.volume")
    for _ in range(2):
        log.warning("a\\x1b[31m.nii: %d bytes\\nmore", 7)
        log.info("round 1")
    log.debug("for developers")
    logging.getLogger("nibabel").error("a library's record")
    logging.getLogger("singlestripped").error("of another package")
    logging.error("of the root")
    return 0

strip.run = run
from singlestrip.__main__ import main
sys.exit(main())
"""
LINE = [sys.executable, "-c", PROGRAM, "strip", "-i", "image.nii", "-m", "mask.nii"]
OWN_LINES = [r"singlestrip: a\x1b[31m.nii: 7 bytes\nmore", "singlestrip: round 1", "singlestrip: round 1"]


def error_lines(*options):
    done = subprocess.run([*LINE, *options], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_warning_is_one_line_and_said_once():
    assert error_lines() == OWN_LINES


def test_quiet_says_nothing():
    assert error_lines("--quiet") == []


def test_debug_lets_other_libraries_speak_and_says_nothing_twice():
    lines = error_lines("--debug")
    assert [line for line in lines if line.startswith("singlestrip:")] == OWN_LINES
    assert [line for line in lines if not line.startswith("singlestrip:")] == [
        "LIBRARY a library's record",
        "LIBRARY of another package",
        "LIBRARY of the root",
    ]


def test_a_warning_of_a_file_through_the_command(tmp_path, capsys):
    image, mask, _ = make_head(24, 6.0).save(tmp_path)
    image.write_bytes(image.read_bytes() + b"garbage")
    line = ["fit-gmm", "-i", str(image), "-m", str(mask), "-o", str(tmp_path / "labels.nii.gz"), "--inside", "2"]
    assert main(line) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"singlestrip: {image}: bytes that are not gzip data")
    assert main([*line, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_logging_is_as_before_when_a_command_has_ended(quiet):
    before = PACKAGE.level, PACKAGE.propagate, list(PACKAGE.handlers)
    with pytest.raises(ZeroDivisionError), show_log(quiet):
        assert PACKAGE.isEnabledFor(logging.WARNING) != quiet
        raise ZeroDivisionError
    assert (PACKAGE.level, PACKAGE.propagate, PACKAGE.handlers) == before


def test_a_line_of_progress_gives_way_to_a_warning():
    body = """
from singlestrip.cli.streams import show_progress, tell
show_progress("step 1")
show_progress("step 2\\x1b[31m")
tell("a warning")
show_progress("step 3", keep=True)
tell("another")
"""
    own, other = pty.openpty()
    subprocess.run([sys.executable, "-c", body], env=ENVIRONMENT, stderr=other, check=True)
    os.close(other)
    clear = "\r\x1b[K"
    text = f"step 1{clear}step 2\\x1b[31m{clear}singlestrip: a warning\nstep 3\nsinglestrip: another\n"
    assert os.read(own, 10_000).decode().replace("\r\n", "\n") == text
    os.close(own)
