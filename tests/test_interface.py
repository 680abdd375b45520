"""The command line as data."""

import pytest

from singlestrip.cli import COMMANDS
from singlestrip.interface import command_options, subparsers

# What a user who reads the help would say.
PATHS = {
    "strip": {
        "image": "input",
        "list": "list",
        "out": "output",
        "mask": "output",
        "sdt": "output",
        "picture": "output",
        "out-dir": "folder",
        "model": "model",
        "bval": "input",
        "qc-model": "model",
    },
    "fit-gmm": {"image": "input", "mask": "input", "out": "output", "figure": "output"},
    "train": {
        "image": "input",
        "mask": "input",
        "labels": "input",
        "out": "output",
        "val": "input",
        "init": "model",
        "samples": "output",
    },
    "qc": {
        "mask": "input",
        "image": "input",
        "reference": "input",
        "table": "table",
        "out": "output",
        "report": "folder",
        "qc-model": "model",
        "model": "model",
        "train": "output",
    },
    "self-train": {
        "image": "input",
        "mask": "input",
        "unlabelled": "list",
        "out": "folder",
        "model": "model",
        "qc-model": "model",
        "references": "list",
        "val": "input",
    },
    "bids": {
        "bids-dir": "input-folder",
        "output-dir": "folder",
        "model": "model",
        "qc-model": "model",
    },
}


def test_every_subcommand_is_there():
    assert list(subparsers()) == list(COMMANDS) == list(PATHS)


@pytest.mark.parametrize("command", PATHS)
def test_paths_have_the_role_that_the_help_tells(command):
    found = {o.name: o.role for o in command_options(command) if o.role not in ("value", "none")}
    assert found == PATHS[command]


@pytest.mark.parametrize("command", PATHS)
def test_whatever_is_called_a_file_or_folder_has_a_path_role(command):
    for option in command_options(command):
        metavars = option.action.metavar if isinstance(option.action.metavar, tuple) else (option.action.metavar,)
        called = {"FILE", "DIR", "IMAGE", "MASK", "LABELS", "MODEL", "LIST", "TABLE"}
        called = (called | {"BIDS_DIR", "OUTPUT_DIR"}) & set(metavars)
        assert bool(called) == (option.role not in ("value", "none")), option.flags


def test_switches_and_numbers_of_values():
    options = {o.name: o for o in command_options("train")}
    assert options["resume"].role == "none"
    assert options["image"].nargs == "+" and options["val"].nargs == 2 and options["steps"].nargs is None
    assert options["image"].flags == ("-i", "--image")
    assert {o.name for o in command_options("bids") if not o.flags} == {"bids-dir", "output-dir", "level"}
    assert "help" not in options and "version" not in options
