"""The program as a process: signals at any moment, standard output and error whatever becomes of them."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import singlestrip
from singlestrip.errors import InputError, ModelError, SingleStripError, describe_error, find_memory_error
from singlestrip.io import limits, memory

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
# The program with a command of the test's in place of `strip`.
PROGRAM = """
import sys
from singlestrip.cli.commands import strip

def run(args):
    {body}
    return 0

strip.run = run
from singlestrip.__main__ import main
sys.exit(main())
"""
LINE = ["strip", "-i", "image.nii", "-m", "mask.nii"]
INTERRUPTED = "singlestrip: interrupted\n"


def program(body: str, *options: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(body=body.strip().replace("\n", "\n    ")), *LINE, *options]


def run(body: str, *options: str, **keywords) -> subprocess.CompletedProcess:
    keywords = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | keywords
    return subprocess.run(program(body, *options), **keywords, check=False)


# Signals


def start(line: list[str], **keywords) -> subprocess.Popen:
    return subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )


def wait_for_handler(process: subprocess.Popen) -> None:
    """Until the process handles SIGTERM, which Python leaves to the system."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if int(fields["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


def test_signals_are_handled_before_slow_imports():
    body = "import sys; old = set(sys.modules); import singlestrip.interruption; print(*set(sys.modules) - old)"
    line = [sys.executable, "-c", body]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert not {"logging", "pathlib", "re", "signal", "typing"} & set(done.stdout.split())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is handled")
@pytest.mark.parametrize("seconds", [0, 0.02, 0.1, 0.5, 1.0])  # while Python imports the program, then libraries
@pytest.mark.parametrize("signals", [["SIGTERM"], ["SIGINT"], ["SIGINT", "SIGINT"]])
def test_signals_at_any_moment(signals, seconds, tmp_path):
    """The moments are no timing: whatever the program is doing then, it ends alike."""
    process = start([sys.executable, "-m", "singlestrip", "qc", "-m", "/dev/zero"], cwd=tmp_path)
    wait_for_handler(process)
    time.sleep(seconds)
    running = process.poll() is None
    for name in signals:
        process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out in ("", "zero  fail  could not be scored\n")  # it may be done by then
    if running:  # the signal comes before the sentence about the file, after it, or too late
        told, newline, rest = err.partition("\n")
        assert err == INTERRUPTED or (told.startswith("singlestrip: /dev/zero") and rest in ("", INTERRUPTED))
        assert newline


WAYS_TO_LOSE_AN_EXCEPTION = {
    "destructor": """
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
Thing()""",
    "bare except": """
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass""",
    "worker threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda number: os.kill(os.getpid(), signal.SIGTERM), range(2)))
time.sleep(60)""",
    "exit handlers": """
import atexit
atexit.register(time.sleep, 60)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGINT))
time.sleep(60)""",
}


@pytest.mark.parametrize("way", WAYS_TO_LOSE_AN_EXCEPTION)
def test_a_signal_is_not_lost(way):
    done = run(f"import os, signal, time\n{WAYS_TO_LOSE_AN_EXCEPTION[way]}\nprint('went on')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", INTERRUPTED)


def test_a_signal_after_the_end_changes_nothing():
    body = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    assert (run(body).returncode, run(body).stderr) == (0, "")


def test_a_signal_that_is_ignored_stays_so():
    """As `nohup` and a shell's & ask for."""
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('went on')"
    done = run(body, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_a_signal_removes_what_is_half_written(tmp_path):
    body = """
import os, signal
from pathlib import Path
from singlestrip.io.output import atomic_write
with atomic_write(Path("a.txt"), Path("b.txt")) as partial:
    partial[0].write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)"""
    Path(tmp_path, "b.txt").write_text("from before")
    assert run(body, cwd=tmp_path).returncode == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["from before"]


def test_a_signal_leaves_no_file_that_another_thread_makes(tmp_path):
    """The thread is about to make its file when the signal comes; the program ends some time after."""
    body = """
import os, signal, threading, time
from pathlib import Path
from singlestrip.io import output

create, begun = output.create_locked, threading.Event()

def create_slowly(path):
    begun.set()
    time.sleep(0.2)
    return create(path)

def write():
    with output.atomic_write(Path("a.txt")) as (partial,):
        time.sleep(60)

output.create_locked = create_slowly
os.isatty = lambda descriptor: time.sleep(0.4) or False
threading.Thread(target=write, daemon=True).start()
begun.wait()
os.kill(os.getpid(), signal.SIGTERM)"""
    assert run(body, cwd=tmp_path).returncode == 1
    assert list(tmp_path.iterdir()) == []


# Standard error


NOISE = """
import logging, os, sys, warnings
warnings.simplefilter("always")
warnings.warn("a warning")
logging.getLogger("library").error("a log line")
os.write(2, b"a line from C\\n")
class Thing:
    def __del__(self):
        raise ValueError("an error in a destructor")
Thing()
from singlestrip.cli.streams import tell
tell("our own line")"""


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_libraries_say_nothing(options):
    done = run(NOISE, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "singlestrip: our own line\n")


def test_with_debug_libraries_say_what_they_want():
    err = run(NOISE, "--debug").stderr
    for part in ("a warning", "a log line", "a line from C", "an error in a destructor", "our own line"):
        assert part in err


def test_errors_are_lines_without_control_characters():
    body = r"""
from singlestrip.errors import InputError
raise InputError("a\nb\x1b[31m\udcff\u2028\u202e.nii: é 脑")"""
    err = run(body).stderr
    assert err == "singlestrip: a\\nb\\x1b[31m\\xff\\u2028\\u202e.nii: é 脑\n"


def test_an_unforeseen_error_of_several_lines_is_one():
    err = run("raise RuntimeError('several\\n  lines\\nof text')").stderr
    assert err.startswith("singlestrip: unexpected RuntimeError: several lines of text;") and err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminal_cannot_show_is_escaped(encoding):
    done = run(
        "print('脑\\udcff')\nfrom singlestrip.cli.streams import tell\ntell('脑')",
        env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u8111\\udcff\n", "singlestrip: \\u8111\n")


def test_an_unwritable_home_is_not_mentioned(tmp_path):
    body = """
import numpy as np
from pathlib import Path
from singlestrip.io.pictures.figures import mask_figure
from singlestrip.space.scan import Scan
mask_figure(Scan(np.ones((4, 4, 4)), np.eye(4)), np.ones((4, 4, 4), bool), Path("out.png"), "脑\\udcff")"""
    nowhere = {"HOME": "/proc/nowhere", "MPLCONFIGDIR": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}
    done = run(body, cwd=tmp_path, env=ENVIRONMENT | nowhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Path(tmp_path, "out.png").is_file()


# Standard output


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams(closed, tmp_path):
    """Nor does the next file that is opened take their place."""
    body = """
file = open("out.txt", "w")
print("to standard output", flush=True)
from singlestrip.cli.streams import tell
tell("to standard error")
file.close()"""
    done = run(body, cwd=tmp_path, preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0
    assert Path(tmp_path, "out.txt").read_text() == ""
    assert done.stderr == ("" if 2 in closed else "singlestrip: to standard error\n")


def test_a_reader_that_goes_ends_nothing():
    """As `| head -1` does: the work goes on, and nothing is said."""
    body = "import os\nfor number in range(100_000):\n    print(number)\nos._exit(7)"
    process = start(program(body))
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (7, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_standard_output_that_is_full_is_an_error():
    with Path("/dev/full").open("w") as full:
        done = run("print('lost')", stdout=full)
    assert done.returncode == 1
    assert done.stderr == f"singlestrip: standard output cannot be written ({os.strerror(errno.ENOSPC)})\n"


def test_a_wrong_command_line_is_one_line_below_the_usage():
    done = subprocess.run(
        [sys.executable, "-m", "singlestrip", "strip", "-i", "a", "--border", "x\n\x1b"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    usage, error = done.stderr.splitlines()
    assert done.returncode == 2
    assert usage.startswith("usage: singlestrip strip ") and error.startswith("singlestrip: ")


# Memory


def out_of_memory_errors():
    yield MemoryError()
    with pytest.raises(MemoryError) as numpys_own:
        np.empty(10**15)
    yield numpys_own.value
    yield OSError(errno.ENOMEM, "Cannot allocate memory")
    yield ImportError("libtorch_cpu.so: failed to map segment from shared object")
    for text in (
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 123 bytes.",
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
        "can't start new thread",
    ):
        yield RuntimeError(text)


@pytest.mark.parametrize("error", list(out_of_memory_errors()), ids=lambda error: str(error)[:40])
def test_out_of_memory_is_one_sentence(error):
    told = describe_error(error)
    assert told.startswith("out of memory") and "use " in told and "unexpected" not in told
    assert ("GPU" in told) == ("CU" in str(error))
    wrapped = ModelError("model.safetensors: weights and configuration do not fit")
    wrapped.__cause__ = error
    assert find_memory_error(wrapped) is error
    assert describe_error(wrapped) == f"{wrapped}; {told}"


@pytest.mark.parametrize(
    "error", [InputError("a.nii: no such file"), RuntimeError("shape"), OSError(2, "no file")]
)
def test_other_errors_are_not_of_memory(error):
    assert find_memory_error(error) is None and "out of memory" not in describe_error(error)


def under_limit(name: str, mib: int):
    import resource

    return lambda: resource.setrlimit(getattr(resource, name), (mib * 2**20, mib * 2**20))


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process_count(name):
    body = """
from singlestrip.io import memory
first = memory.available()
block = bytearray(100 * 2**20)
print(first, first - memory.available())"""
    done = run(body, preexec_fn=under_limit(name, 2048))
    first, taken = map(int, done.stdout.split())
    assert 2**30 < first < 2 * 2**30
    assert 95 * 2**20 < taken < 120 * 2**20


def test_a_limit_too_low_for_the_libraries_is_said_at_once():
    done = run("print('went on')", preexec_fn=under_limit("RLIMIT_AS", 600))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("singlestrip: a limit of this process (ulimit -v or -d) leaves 0.5")
    assert done.stderr.count("\n") == 1


def test_without_a_limit_there_is_none(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert limits.memory_left() is None
    limits.check_memory_limit()
    monkeypatch.setattr(limits, "memory_left", lambda: 5 * 2**20)
    assert memory.available() == 5 * 2**20
    with pytest.raises(SingleStripError, match=r"0\.00 GiB"):
        limits.check_memory_limit()
