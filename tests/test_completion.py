"""Completion of the command line, asked for in the shells themselves."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from singlestrip.cli.completion import script
from singlestrip.cli.interface import command_options
from singlestrip.cli.main import main
from singlestrip.cli.parser import COMMANDS, SHELLS, build_parser
from singlestrip.networks.model_files import MODELS_VARIABLE, shipped_folder

SHIPPED = {path.stem for path in shipped_folder().glob("*.safetensors")}


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with t1.nii.gz, t2.nii.gz, the text file found.txt and the folder folder."""
    for name in ("t1.nii.gz", "t2.nii.gz", "found.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def models(folder, tmp_path_factory, monkeypatch):
    """Two folders of models on the search path, and one that is missing."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second of two")
    for path in (first / "mouse.safetensors", second / "mole.v2.safetensors", second / "notes.txt"):
        path.touch()
    monkeypatch.setenv(MODELS_VARIABLE, f"{first}:{first / 'missing'}::{second}")


@pytest.fixture
def bash(folder, tmp_path_factory):
    """What bash offers for the last word of a line."""
    path = tmp_path_factory.mktemp("bash") / "script"
    path.write_text(script(build_parser(), "bash"))

    def offers(line: str) -> set[str]:
        words = line.split(" ")
        code = f"""
            source {path}
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _shtab_singlestrip
            printf '%s\\n' "${{COMPREPLY[@]}}"
            """
        done = subprocess.run(
            ["bash", "--norc", "-c", code, "bash", *words], capture_output=True, text=True, check=True
        )
        assert "command not found" not in done.stderr
        return set(done.stdout.split())

    return offers


@needs("bash")
def test_bash_knows_the_subcommands(bash):
    assert bash("singlestrip ") == set(COMMANDS)
    assert bash("singlestrip s") == {name for name in COMMANDS if name.startswith("s")}
    assert bash("singlestrip --print-completion ") == set(SHELLS)


@needs("bash")
@pytest.mark.parametrize("command", COMMANDS)
def test_bash_knows_every_option(bash, command):
    flags = {flag for option in command_options(build_parser(), command) for flag in option.flags}
    assert bash(f"singlestrip {command} -") == flags | {"-h", "--help", "-v", "--version"}
    assert bash(f"singlestrip {command} --m") == {flag for flag in flags if flag.startswith("--m")}


@needs("bash")
@pytest.mark.parametrize("command", COMMANDS)
def test_bash_knows_every_choice(bash, command):
    for option in command_options(build_parser(), command):
        if option.flags and option.action.choices is not None:
            assert bash(f"singlestrip {command} {option.flags[-1]} ") == set(option.action.choices)


@needs("bash")
@pytest.mark.parametrize("command", COMMANDS)
def test_bash_completes_paths_by_their_role(bash, command):
    for option in command_options(build_parser(), command):
        if not option.flags:
            continue
        found = bash(f"singlestrip {command} {option.flags[0]} fo")
        if option.role == "folder":
            assert found == {"folder"}, option.name
        elif option.role not in ("value", "none"):
            assert found == {"folder", "found.txt"}, option.name


@needs("bash")
def test_bash_knows_the_names_of_models(bash, models):
    for line in ("singlestrip strip --model ", "singlestrip qc --qc-model ", "singlestrip models "):
        assert bash(line) == SHIPPED | {"mouse", "mole.v2", "folder", "found.txt", "t1.nii.gz", "t2.nii.gz"}
        assert bash(f"{line}mo") == {"mouse", "mole.v2"}


@needs("bash")
def test_bash_knows_what_is_told_by_its_place(bash):
    assert bash("singlestrip bids fo") == bash("singlestrip bids folder fo") == {"folder"}
    assert bash("singlestrip bids folder folder ") == {"participant", "group"}


@needs("bash")
def test_bash_knows_options_after_files(bash):
    assert bash("singlestrip strip -i t1.nii.gz --out-") == {"--out-dir"}
    assert bash("singlestrip strip -i t1.nii.gz t2.nii.gz --out-") == {"--out-dir"}


class Terminal:
    """A shell in a pseudo-terminal, whose Tab key completes."""

    def __init__(self, *command: str, **environment: str):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | environment, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, ready) -> None:
        """Read what it prints until `ready()`; fails after half a minute."""
        limit = time.monotonic() + 30
        while not ready():
            assert time.monotonic() < limit, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@needs("zsh")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("singlestrip fit", "singlestrip fit-gmm "),
        ("singlestrip strip --out-d", "singlestrip strip --out-dir "),
        ("singlestrip strip --save pic", "singlestrip strip --save picture "),
        ("singlestrip strip --out-dir f", "singlestrip strip --out-dir folder/"),
        ("singlestrip strip --list foun", "singlestrip strip --list found.txt "),
        ("singlestrip strip --model foun", "singlestrip strip --model found.txt "),
        ("singlestrip strip --model mou", "singlestrip strip --model mouse "),
        ("singlestrip models mol", "singlestrip models mole.v2 "),
        ("singlestrip models qua", "singlestrip models quality "),
        ("singlestrip strip -i t1.nii.gz --out-d", "singlestrip strip -i t1.nii.gz --out-dir "),
        ("singlestrip self-train --rank tr", "singlestrip self-train --rank truth "),
    ],
)
def test_zsh_completes(models, tmp_path_factory, typed, completed):
    home = tmp_path_factory.mktemp("zsh")
    (home / "completion").write_text(script(build_parser(), "zsh"))
    (home / ".zshrc").write_text(
        "autoload -Uz compinit; compinit -u -d $ZDOTDIR/dump\n"
        'eval "$(<$ZDOTDIR/completion)"\n'
        'tell() { print -rn -- "$BUFFER" >$ZDOTDIR/part; mv $ZDOTDIR/part $ZDOTDIR/line }\n'
        "zle -N tell; bindkey '^T' tell; PS1='READY'\n"
    )
    terminal = Terminal("zsh", "-d", "-i", ZDOTDIR=str(home), TERM="dumb")
    try:
        terminal.wait_for(lambda: "READY" in terminal.seen)
        terminal.type(f"{typed}\t\x14")
        terminal.wait_for((home / "line").exists)
    finally:
        terminal.close()
    assert (home / "line").read_text() == completed


@needs("fish")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("singlestrip ", set(COMMANDS)),
        ("singlestrip strip --out-", {"--out-dir"}),
        ("singlestrip strip -i t1.nii.gz --out-", {"--out-dir"}),
        ("singlestrip strip --save ", {"brain", "mask", "sdt", "picture"}),
        ("singlestrip strip --out-dir fo", {"folder/"}),
        ("singlestrip strip --model fo", {"folder/", "found.txt"}),
        ("singlestrip strip --model mo", {"mouse", "mole.v2"}),
        ("singlestrip models mo", {"mouse", "mole.v2"}),
        ("singlestrip models qua", {"quality"}),
    ],
)
def test_fish_completes(models, tmp_path_factory, typed, offered):
    path = tmp_path_factory.mktemp("fish") / "script"
    path.write_text(script(build_parser(), "fish"))
    done = subprocess.run(
        ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(path), typed],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == offered


@needs("tcsh")
def test_tcsh_takes_the_script(folder, tmp_path_factory):
    """Its completion cannot be asked for without a terminal; it lists what it has learned."""
    path = tmp_path_factory.mktemp("tcsh") / "script"
    path.write_text(script(build_parser(), "tcsh"))
    done = subprocess.run(
        ["tcsh", "-f", "-c", f"source {path}; complete singlestrip"], capture_output=True, text=True, check=True
    )
    assert f"p/1/({' '.join(COMMANDS)})/" in done.stdout
    assert "n/--save/(brain mask sdt picture)/" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_option_prints_the_script(shell, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == script(build_parser(), shell).strip()


def test_an_unknown_shell_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "abacus"])
    assert stop.value.code == 2
    assert "abacus" in capsys.readouterr().err


def test_the_script_needs_no_torch():
    code = """
import sys
from singlestrip.cli.main import main
try:
    main(["--print-completion", "bash"])
finally:
    assert not {"numpy", "torch", "nibabel", "scipy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
