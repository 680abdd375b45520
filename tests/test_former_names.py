"""Options and commands that have another name by now: the former one works, and nothing shows it."""

from pathlib import Path

import pytest
from phantoms import make_head

from singlestrip.cli import former_names
from singlestrip.cli.completion import script
from singlestrip.cli.interface import command_options, former_options, subparsers
from singlestrip.cli.main import main
from singlestrip.cli.parser import COMMANDS, SHELLS, build_parser, parse
from singlestrip.integrations import boutiques, manual_pages
from singlestrip.integrations.container.plan import named_paths

# Command lines with former names, and what the parser has to make of them.
LINES = {
    "strip -i a.nii --out-dir out --suffix .mgz": ("strip", "format", ".mgz"),
    "strip -i a.nii -m m.nii --mask-mean-frame": ("strip", "mean_frame", True),
    "segment -i a.nii --out-dir out --suffix=.mgz": ("segment", "format", ".mgz"),
    "segment -i a.nii -o l.nii --table t.txt": ("segment", "label_table", Path("t.txt")),
    "fit-gmm -i a.nii -m m.nii -o l.nii --figure f.png": ("fit-gmm", "picture", Path("f.png")),
    "train -i a.nii -m m.nii --samples=s.png": ("train", "picture", Path("s.png")),
    "self-train -i a.nii -m m.nii -o run --unlabelled l.txt": ("self-train", "list", Path("l.txt")),
    "self-train -i a.nii -m m.nii -o run --list l.txt --references r.txt": (
        "self-train", "reference_list", Path("r.txt"),
    ),
    "qc -m m.nii --train q.safetensors --epochs 3 --kind slices": ("train-qc", "out", Path("q.safetensors")),
    "qc --calibrate q.safetensors -i a.nii -m m.nii --images 9": (
        "calibrate-qc", "qc_model", Path("q.safetensors"),
    ),
}  # fmt: skip
FORMER = [(command, name) for command, names in former_names.OPTIONS.items() for name in names]
FORMER += [(command, name) for command, names in former_names.COMMANDS.items() for name in names]


@pytest.mark.parametrize("line", LINES)
def test_former_names_work(line):
    command, destination, value = LINES[line]
    args = parse(line.split())
    assert args.command == command and getattr(args, destination) == value


def test_every_former_name_is_tested():
    tested = {(line.split()[0], word.partition("=")[0]) for line in LINES for word in line.split()}
    assert set(FORMER) <= tested


@pytest.mark.parametrize(("command", "name"), FORMER)
def test_nothing_shows_a_former_name(command, name):
    shown = [subparsers(build_parser())[command].format_help(), manual_pages.page(command)]
    shown += [str(boutiques.descriptor(command)["inputs"])]
    assert not any(f"{name} " in text or f"`{name}`" in text or f"'{name}'" in text for text in shown)
    assert name not in {flag for option in command_options(build_parser(), command) for flag in option.flags}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_offers_no_former_name(shell):
    offered = script(build_parser(), shell)
    assert "mask-mean-frame" not in offered and "unlabelled\n" not in offered and "--samples" not in offered


def test_values_are_no_names():
    """A word that stands for a value, or behind the end of options, stays as it is."""
    words = ["strip", "-i", "suffix", "--suffix=--suffix", "--", "--suffix"]
    assert former_names.with_present_names(words) == [
        "strip",
        "-i",
        "suffix",
        "--format=--suffix",
        "--",
        "--suffix",
    ]
    assert former_names.with_present_names([]) == [] and former_names.with_present_names(["--train"]) == [
        "--train"
    ]
    line = ["bids", "in", "out", "participant", "--suffix", "T1w"]  # its option is another one
    assert former_names.with_present_names(line) == line


@pytest.mark.parametrize(
    "words",
    [
        "--calibrate q.safetensors -i a.nii --qc-model other.safetensors",
        "--train q.safetensors -o other.safetensors",
        "--train=q.safetensors --out=other.safetensors",
        "--train q.safetensors -oother.safetensors",
    ],
)
def test_a_second_name_of_the_file_to_write_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["qc", "-m", "m.nii", *words.split()])
    assert stop.value.code == 2 and "q.safetensors" in capsys.readouterr().err


def test_an_option_of_the_former_command_goes_with_it_alone(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["qc", "-m", "m.nii", "--epochs", "3"])
    assert stop.value.code == 2 and "--epochs" in capsys.readouterr().err


def test_a_command_runs_by_former_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_head().save(tmp_path)
    line = "fit-gmm -i image.nii.gz -m mask.nii.gz -o l.nii.gz --inside 2 --outside 2 --figure l.png"
    assert main(line.split()) == 0 and Path("l.png").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_container_mounts_the_paths_of_former_names(command):
    """The program for containers, which has no parser of its own, knows them too."""
    for option in former_options(build_parser(), command):
        if option.role in ("value", "none"):
            continue
        values = [f"file{number}" for number in range(option.nargs if isinstance(option.nargs, int) else 1)]
        paths, _ = named_paths(command, [option.flags[-1], *values])
        assert paths == [(option.role, value) for value in values]
