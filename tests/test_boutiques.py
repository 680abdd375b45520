"""Boutiques descriptors: those in docs/boutiques against the parser, and against boutiques' own tool."""

import json
import os
import shlex
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import singlestrip
from singlestrip.batch.shards import Shard
from singlestrip.cli.interface import command_options
from singlestrip.cli.main import main
from singlestrip.cli.parser import COMMANDS, EXIT_STATUS, build_parser
from singlestrip.integrations import boutiques as written

FOLDER = Path(__file__).parents[1] / "docs/boutiques"
AGAIN = "out of date; write them with: python -m singlestrip.integrations.boutiques docs/boutiques"
SCAN = Path(nib.__file__).parent / "tests/data/example4d.nii.gz"


def committed(command) -> dict:
    return json.loads(written.path(FOLDER, command).read_text(encoding="utf-8"))


@pytest.fixture
def bosh():
    """Boutiques' own tool."""
    return pytest.importorskip("boutiques.bosh", reason="boutiques is not installed").bosh


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii.gz", "model.safetensors", "list.txt"):
        Path(name).touch()
    Path("raw").mkdir()
    return tmp_path


# The files


@pytest.mark.parametrize("command", COMMANDS)
def test_committed_descriptors_are_what_the_parser_gives(command):
    """But for the version, which has a test of its own."""
    versions = {"tool-version": None}
    assert committed(command) | versions == written.descriptor(command) | versions, AGAIN


def test_committed_descriptors_are_of_this_version():
    assert {committed(command)["tool-version"] for command in COMMANDS} == {singlestrip.__version__}, AGAIN


def test_there_is_one_for_each_subcommand(tmp_path):
    written.write(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"singlestrip-{command}.json" for command in COMMANDS}
    assert names == {path.name for path in FOLDER.iterdir()}, AGAIN


# What they say


def inputs(command) -> dict[str, dict]:
    return {found["id"]: found for found in written.descriptor(command)["inputs"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_an_input(command):
    found = {i["id"]: i.get("command-line-flag") for i in inputs(command).values()}
    assert found == {
        option.name.replace("-", "_"): option.flags[-1] if option.flags else None
        for option in command_options(build_parser(), command)
    }


def test_inputs_say_what_the_manual_page_says():
    found = inputs("strip")
    assert found["image"]["type"] == "File" and found["image"]["list"]
    assert found["mask"]["type"] == found["out_dir"]["type"] == "String"  # they need not exist
    assert found["save"]["value-choices"] == ["brain", "mask", "sdt", "picture", "doubt", "probability", "lesions"]
    assert found["resume"]["type"] == "Flag"
    assert (found["memory"]["minimum"], found["memory"]["exclusive-minimum"]) == (0, True)
    assert (found["threads"]["minimum"], found["threads"]["integer"]) == (1, True)
    assert (found["pass_from"]["minimum"], found["pass_from"]["maximum"]) == (0, 1)
    assert inputs("train")["val"]["max-list-entries"] == 2
    assert found["centre"]["min-list-entries"] == found["centre"]["max-list-entries"] == 3
    assert not inputs("fit-gmm")["image"]["optional"] and found["image"]["optional"]


def test_outputs_and_exit_statuses():
    found = written.descriptor("strip")
    assert {o["path-template"] for o in found["output-files"]} == {
        "[OUT]", "[MASK]", "[SDT]", "[PICTURE]", "[DOUBT]", "[PROBABILITY]", "[LESIONS]", "[OUT_DIR]",
    }  # fmt: skip
    assert {e["code"]: e["description"] for e in found["error-codes"]} == {
        status: text for status, text in EXIT_STATUS.items() if status
    }


@pytest.mark.parametrize("command", written.ONE_REQUIRED)
def test_the_command_needs_one_of_each_group(folder, command, capsys):
    """With one of all groups but one it is a wrong command line that says what is missing."""
    groups = written.ONE_REQUIRED[command]
    for missing in groups:
        line = [command]
        for name, members in groups.items():
            if name != missing:
                line += [f"--{'labels' if 'labels' in members else members[0]}", "a.safetensors"]
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        assert "singlestrip: name " in capsys.readouterr().err


# Boutiques' tool


def simulate(bosh, command, invocation, capsys) -> list[str]:
    """The command line that boutiques makes of an invocation, without running it."""
    Path("invocation.json").write_text(json.dumps(invocation))
    bosh(["exec", "simulate", str(written.path(FOLDER, command)), "-i", "invocation.json"])
    return shlex.split(capsys.readouterr().out.splitlines()[-1])


def example(option):
    """A value for an invocation and what the parser has to make of it."""
    by_role = {
        "none": True,
        "output": "new.nii.gz",
        "folder": "new",
        "model": "model.safetensors",
        "input-folder": "raw",
    }
    if option.action.choices:
        value = list(option.action.choices)[-1]
    elif option.range is not None:
        value = 1 if option.range.integer or option.range.highest == 1 else 2e-5
    elif option.name == "shard":
        return "1/2", Shard(1, 2)
    else:
        value = by_role.get(option.role, "some-text" if option.role == "value" else "a.nii.gz")
    wanted = value if option.role in ("none", "value", "model") else Path(value)
    if option.nargs in ("+", "*"):
        return [value, value], [wanted, wanted]
    if isinstance(option.nargs, int) and option.role != "none":
        wanted = [wanted] * option.nargs
        return [value] * option.nargs, [wanted] if option.name == "val" else wanted
    return value, wanted


@pytest.mark.parametrize("command", COMMANDS)
def test_boutiques_accepts_the_descriptor(bosh, command):
    bosh(["validate", str(written.path(FOLDER, command))])


def test_boutiques_would_say_if_it_did_not(bosh, tmp_path):
    broken = written.descriptor("strip")
    broken["inputs"][0]["type"] = "Path"
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(Exception, match="not one of"):
        bosh(["validate", str(tmp_path / "broken.json")])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_parser_takes_what_boutiques_makes_of_every_input(bosh, folder, command, capsys):
    options = [option for option in command_options(build_parser(), command) if option.name != "gpu"]
    examples = {option: example(option) for option in options}  # --gpu stands in place of --device
    invocation = {written._id(option): value for option, (value, _) in examples.items()}
    program, *line = simulate(bosh, command, invocation, capsys)
    assert program == "singlestrip"
    args = build_parser().parse_args(line)
    assert args.command == command
    for option, (_, wanted) in examples.items():
        assert getattr(args, option.action.dest) == wanted, option.name


def test_numbers_below_0_and_small(bosh, folder, capsys):
    found = simulate(bosh, "strip", {"image": ["a.nii.gz"], "mask": "m.nii", "border": -1e-5}, capsys)
    assert build_parser().parse_args(found[1:]).border == -1e-5


@pytest.mark.parametrize(
    "invocation",
    [
        {"mask": "m.nii.gz"},
        {"image": ["a.nii.gz"]},
        {"image": ["a.nii.gz"], "mask": "m.nii.gz", "border": "wide"},
        {"image": ["a.nii.gz"], "mask": "m.nii.gz", "threads": 0},
        {"image": ["a.nii.gz"], "out_dir": "out", "save": ["hat"]},
    ],
)
def test_boutiques_refuses_what_the_command_refuses(bosh, folder, invocation, capsys):
    with pytest.raises((Exception, SystemExit)):
        simulate(bosh, "strip", invocation, capsys)


@pytest.mark.slow
def test_boutiques_runs_the_command(bosh, folder, monkeypatch):
    scripts = Path(sysconfig.get_path("scripts"))
    if not (scripts / "singlestrip").is_file():
        pytest.skip("singlestrip is not installed as a command")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    Path("invocation.json").write_text(
        json.dumps({"image": [str(SCAN)], "mask": "m.nii.gz", "mean_frame": True, "quiet": True})
    )
    descriptor = str(written.path(FOLDER, "strip"))
    done = bosh(["exec", "launch", "--no-container", "--skip-data-collection", descriptor, "invocation.json"])
    assert done.exit_code == 0, str(done)
    assert [(output.file_name, output.boutiques_name) for output in done.output_files] == [
        ("m.nii.gz", "mask_written")
    ]
    assert np.count_nonzero(np.asanyarray(nib.load("m.nii.gz").dataobj)) > 1000
