"""The command line as data."""

import argparse

import pytest

from singlestrip.cli import options as types
from singlestrip.cli.interface import NUMBERS, PATH_ROLES, command_options, subparsers
from singlestrip.cli.parser import COMMANDS, build_parser

# What a user who reads the help would say.
PATHS = {
    "strip": {
        "image": "input",
        "list": "list",
        "out": "output",
        "mask": "output",
        "sdt": "output",
        "picture": "output",
        "doubt": "output",
        "probability": "output",
        "lesions": "output",
        "out-dir": "folder",
        "model": "model",
        "bval": "input",
        "qc-model": "model",
    },
    "segment": {
        "image": "input",
        "list": "list",
        "out": "output",
        "label-table": "output",
        "posteriors": "output",
        "picture": "output",
        "volumes": "output",
        "qc": "output",
        "out-dir": "folder",
        "model": "model",
        "bval": "input",
    },
    "fit-gmm": {"image": "input", "mask": "input", "out": "output", "picture": "output"},
    "train": {
        "image": "input",
        "mask": "input",
        "labels": "input",
        "label-table": "input",
        "classes": "input",
        "lesions": "table",
        "out": "output",
        "val": "input",
        "init": "model",
        "teacher": "model",
        "picture": "output",
    },
    "qc": {
        "mask": "input",
        "image": "input",
        "reference": "input",
        "table": "table",
        "out": "output",
        "doubt": "output",
        "report": "folder",
        "qc-model": "model",
        "model": "model",
        "bval": "input",
    },
    "train-qc": {"mask": "input", "out": "output"},
    "calibrate-qc": {"image": "input", "mask": "input", "qc-model": "output", "model": "model"},
    "self-train": {
        "image": "input",
        "mask": "input",
        "list": "list",
        "out": "folder",
        "model": "model",
        "init": "model",
        "qc-model": "model",
        "reference-list": "list",
        "lesions": "table",
        "val": "input",
    },
    "models": {"model": "model"},
    "export": {"model": "model", "out": "folder"},
    "bids": {
        "bids-dir": "input-folder",
        "output-dir": "folder",
        "model": "model",
        "qc-model": "model",
    },
}


def test_every_subcommand_is_there():
    assert list(subparsers(build_parser())) == list(COMMANDS) == list(PATHS)


@pytest.mark.parametrize("command", PATHS)
def test_paths_have_the_role_that_the_help_tells(command):
    found = {o.name: o.role for o in command_options(build_parser(), command) if o.role not in ("value", "none")}
    assert found == PATHS[command]


@pytest.mark.parametrize("command", PATHS)
def test_whatever_is_called_a_file_or_folder_has_a_path_role(command):
    for option in command_options(build_parser(), command):
        metavars = option.action.metavar if isinstance(option.action.metavar, tuple) else (option.action.metavar,)
        called = {"FILE", "DIR", "IMAGE", "MASK", "LABELS", "MODEL", "LIST", "TABLE"}
        called = (called | {"BIDS_DIR", "OUTPUT_DIR"}) & set(metavars)
        assert bool(called) == (option.role not in ("value", "none")), option.flags


def test_switches_and_numbers_of_values():
    options = {o.name: o for o in command_options(build_parser(), "train")}
    assert options["resume"].role == "none"
    assert options["image"].nargs == "+" and options["val"].nargs == 2 and options["steps"].nargs is None
    assert options["image"].flags == ("-i", "--image")
    assert {o.name for o in command_options(build_parser(), "bids") if not o.flags} == {
        "bids-dir",
        "output-dir",
        "level",
    }
    assert "help" not in options and "version" not in options


@pytest.mark.parametrize("command", PATHS)
def test_a_type_is_a_path_or_a_number(command):
    """Or text, of which a shard is one of a certain form: there is no other to forget."""
    for option in command_options(build_parser(), command):
        assert option.action.type in {None, *PATH_ROLES, *NUMBERS, types.shard}, option.flags
        assert (option.range is not None) == (option.action.type in NUMBERS)


def takes(kind, text: str) -> bool:
    try:
        kind(text)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_ranges_are_what_the_types_take(kind):
    found = NUMBERS[kind]
    step = 1 if found.integer else 1e-6
    assert takes(kind, "0.5") != found.integer
    low, high = (-1e9 if found.lowest is None else found.lowest), (1e9 if found.highest is None else found.highest)
    shown = int if found.integer else float
    assert takes(kind, str(shown(low))) != found.open
    assert takes(kind, str(shown(low + step))) and takes(kind, str(shown(high)))
    assert takes(kind, str(shown(low - step))) == (found.lowest is None)
    assert takes(kind, str(shown(high + step))) == (found.highest is None)


def test_a_kind_of_number_has_its_range():
    ranges = {o.name: o.range for o in command_options(build_parser(), "strip")}
    assert ranges["border"] is NUMBERS[types.millimetres] and ranges["format"] is None
