"""The program that runs singlestrip in a container, with stand-in engines that record what they are given."""

import ast
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from singlestrip.cli.interface import PATH_ROLES, command_options, option_table, subparsers
from singlestrip.cli.parser import build_parser
from singlestrip.integrations.container import engines, options, places, plan
from singlestrip.io.text.escaping import to_cell

ROOT = Path(__file__).parents[1]
WRAPPER = ROOT / "bin/singlestrip-container"
MODULES = Path(options.__file__).parent
ENGINES = ("docker", "podman", "apptainer", "singularity")

STAND_IN = f"""#!{sys.executable}
import json, os, signal, sys, time
record = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "group": os.getpgrp()}}
def note(number, frame):
    record["signals"] = [*record.get("signals", []), number]
signal.signal(signal.SIGTERM, note)
def write():
    with open(os.environ["RECORD"] + ".part", "w") as file:
        json.dump(record, file)
    os.replace(os.environ["RECORD"] + ".part", os.environ["RECORD"])
write()
while os.environ.get("WAIT") and not record.get("signals"):
    time.sleep(0.01)
write()
if os.environ.get("DIE"):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Given:
    """What a stand-in engine was given: mounts by place inside, as (folder outside, writable)."""

    def __init__(self, process, record: Path, engine: str):
        self.status, self.errors, self.output = process.returncode, process.stderr, process.stdout
        self.started = record.exists()
        if not self.started:
            return
        found = json.loads(record.read_text())
        self.words, self.environment = found["arguments"], found["environment"]
        self.mounts, self.inside = {}, {}
        for flag, value in zip(self.words, self.words[1:], strict=False):
            if flag == "--mount":
                fields = next(csv.reader([value]))
                pairs = dict(field.partition("=")[::2] for field in fields)
                self.mounts[pairs["target"]] = (pairs["source"], "readonly" not in pairs)
            elif flag == "--bind":
                source, target, mode = value.split(":")
                self.mounts[target] = (source, mode == "rw")
            elif flag == "--env":
                name, _, text = value.partition("=")
                self.inside[name] = text
            elif flag == "--pwd":
                self.working = value
        for word in self.words:
            if word.startswith("--workdir="):
                self.working = word.partition("=")[2]
        prefix = f"{engine.upper()}ENV_"
        self.inside |= {n.removeprefix(prefix): v for n, v in self.environment.items() if n.startswith(prefix)}

    def outside(self, path: str) -> tuple[Path | None, bool]:
        """Where a path that the command names would end up, walked as the kernel would in the container, and
        whether it can be written; None where nothing is mounted."""
        todo, here = [*Path(self.working, path).parts[1:]], Path("/")
        for _ in range(200):
            if not todo:
                return self._mounted(here)
            part = todo.pop(0)
            here = here.parent if part == ".." else here / part
            host, _writable = self._mounted(here)
            if host is not None and host.is_symlink():
                target = host.readlink()
                todo = [p for p in target.parts if p != "/"] + todo
                here = Path("/") if target.is_absolute() else here.parent
        raise AssertionError("links without end")

    def _mounted(self, place: Path):
        for above in (place, *place.parents):
            if str(above) in self.mounts:
                source, writable = self.mounts[str(above)]
                return Path(source) / place.relative_to(above), writable
        return None, False

    def reads(self, path, host=None):
        found, _ = self.outside(str(path))
        wanted = Path(host or path)
        return found is not None and found.exists() and found.samefile(wanted)

    def writes_in(self, folder, host=None):
        found, writable = self.outside(str(folder))
        return writable and found.samefile(host or folder)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the wrapper with only the named engines on the path, in the folder `work`."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("SINGLESTRIP_ENGINE", "SINGLESTRIP_IMAGE", "SINGLESTRIP_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def command(*engines):
        binaries = tmp_path / f"engines-{'-'.join(engines)}"
        binaries.mkdir(exist_ok=True)
        for engine in engines:
            (binaries / engine).write_text(STAND_IN)
            (binaries / engine).chmod(0o755)
        return {"PATH": str(binaries), "RECORD": str(tmp_path / "record")}

    def start(*arguments, engines=("docker",), folder=work, program=(WRAPPER,), **variables):
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        environment = os.environ | command(*engines) | variables
        process = subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        return Given(process, record, variables.get("SINGLESTRIP_ENGINE", engines[0] if engines else ""))

    start.work, start.environment = work, command
    return start


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sif(engine):
    return ("--image", "x.sif") if engine in ("apptainer", "singularity") else ()


# The options


def test_options_are_those_of_the_parser():
    text = Path(options.__file__).read_text()
    assert text.endswith(option_table(build_parser())), "the options changed: run bin/update-container"


@pytest.mark.parametrize("role", PATH_ROLES.values())
def test_every_role_is_known(tmp_path, role):
    plan.plan_mounts([(role, str(tmp_path))], [], create=False)
    with pytest.raises(KeyError):
        plan.plan_mounts([("no-such-role", str(tmp_path))], [], create=False)


@pytest.mark.parametrize("module", [WRAPPER, *sorted(MODULES.glob("*.py"))], ids=lambda path: path.stem)
def test_modules_read_as_python_3_6_and_import_the_standard_library_alone(module):
    for node in ast.walk(ast.parse(module.read_text(), feature_version=(3, 6))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {"container"}


def test_the_program_in_one_file_runs_alone(run, tmp_path):
    """In a folder without anything else, by a Python that finds neither the tree nor what is installed."""
    packed = tmp_path / "bin" / "any-name"
    packed.parent.mkdir()
    subprocess.run([sys.executable, ROOT / "bin/pack-container", packed], check=True)
    scan = touch(tmp_path / "data" / "t1.nii.gz")
    given = run("strip", "-i", scan, "-m", "m.nii.gz", program=("-I", "-S", packed), STATUS="3")
    assert given.status == 3 and given.reads(scan) and given.writes_in(run.work)
    assert packed.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("command", list(subparsers(build_parser())))
def test_every_path_option_of_every_command_reaches_its_file(run, command, engine):
    """Each path option in a folder of its own, named from elsewhere."""
    positional, arguments, inputs, outputs = [], [], [], []
    for number, option in enumerate(command_options(build_parser(), command)):
        if option.role in ("value", "none"):
            positional += [] if option.flags else ["value"]
            continue
        count = {"+": 2, "*": 2, None: 1}.get(option.nargs, option.nargs)
        values = []
        for part in range(count):
            place = run.work.parent / f"place {number} {part}"
            if option.role == "output":
                values.append(place / "new" / "file.nii.gz")
                outputs.append(values[-1].parent)
            elif option.role == "folder":
                values.append(place / "new")
                outputs.append(values[-1])
            elif option.role == "input-folder":
                place.mkdir()
                values.append(place)
                inputs.append(place)
            else:
                values.append(touch(place / "file.nii.gz", "x\n"))
                inputs.append(values[-1])
        if option.flags:
            arguments += [option.flags[-1], *values]
        else:
            positional += values
    arguments = positional + arguments
    given = run(*sif(engine), command, *arguments, engines=(engine,))
    assert given.status == 0, given.errors
    assert given.words[-len(arguments) - 1 :] == [command, *map(str, arguments)]
    assert inputs or outputs
    for path in inputs:
        assert given.reads(path) and not given.outside(str(path))[1], path
    for path in outputs:
        assert given.writes_in(path), path


def test_arguments_are_read_as_singlestrip_reads_them(run):
    line = [
        "-i",
        "a",
        "b",
        "--save",
        "mask",
        "-q",
        "-b",
        "-2",
        "--out-dir=c",
        "--list=d",
        "-pe",
        "--device",
        "cuda:1",
    ]
    args = build_parser().parse_args(["strip", *line])
    paths, device = plan.named_paths("strip", line)
    expected = [("input", path) for path in args.image]
    expected += [("folder", args.out_dir), ("list", args.list), ("output", args.picture)]
    assert sorted(paths) == sorted((role, str(path)) for role, path in expected)
    assert device == args.device == "cuda:1"


def test_positional_paths_count_too(monkeypatch):
    table = {
        "bids": (("input-folder", None, "bids_dir"), ("folder", None, "output_dir"), ("value", None, "level"))
    }
    monkeypatch.setattr(plan, "OPTIONS", {"bids": (*table["bids"], ("value", None, "--device"))})
    paths, _ = plan.named_paths("bids", ["in", "out", "participant", "--device", "cpu"])
    assert paths == [("input-folder", "in"), ("folder", "out")]


# Paths


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "$HOME", "ünï", "-dash", "a;b", "{x}", "new\nline"])
@pytest.mark.parametrize("engine", ENGINES)
def test_odd_names(run, name, engine):
    scan = touch(run.work.parent / name / "t1.nii.gz")
    given = run(*sif(engine), "strip", "-i", scan, "-o", run.work / name / "o.nii.gz", engines=(engine,))
    assert given.status == 0, given.errors
    assert given.reads(scan) and given.writes_in(run.work / name)


@pytest.mark.parametrize("name", ["a,b", "a:b", "a=b", ',"'])
def test_docker_mounts_what_mount_options_are_made_of(run, name):
    scan = touch(run.work.parent / name / "t1.nii.gz")
    assert run("strip", "-i", scan, "-o", "o.nii.gz").reads(scan)


@pytest.mark.parametrize("name", ["a,b", "a:b"])
@pytest.mark.parametrize("engine", ["apptainer", "singularity"])
def test_apptainer_refuses_commas_and_colons(run, name, engine):
    scan = touch(run.work.parent / name / "t1.nii.gz")
    given = run("--image", "x.sif", "strip", "-i", scan, "-o", "o.nii.gz", engines=(engine,))
    assert given.status == 1 and not given.started
    assert str(scan.parent) in given.errors and "comma, colon" in given.errors and given.errors.count("\n") == 1


def test_relative_paths_and_dots(run):
    scan = touch(run.work.parent / "data" / "t1.nii.gz")
    given = run("strip", "-i", "../data/../data/t1.nii.gz", "-o", "./out/../o.nii.gz")
    assert given.working == str(run.work.resolve())
    assert given.reads("../data/t1.nii.gz", scan) and given.writes_in(".", run.work)


def test_dots_behind_a_link_are_those_of_its_target(run):
    scan = touch(run.work.parent / "far" / "t1.nii.gz")
    (run.work.parent / "far" / "sub").mkdir()
    (run.work / "link").symlink_to(run.work.parent / "far" / "sub")
    given = run("strip", "-i", "link/../t1.nii.gz", "-o", "o.nii.gz")
    assert given.reads("link/../t1.nii.gz", scan)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("hops", [1, 3])
def test_a_file_that_is_a_link(run, relative, hops):
    target = touch(run.work.parent / "store" / "0" / "t1.nii.gz")
    for hop in range(1, hops + 1):
        link = run.work.parent / "store" / str(hop) / "t1.nii.gz"
        link.parent.mkdir()
        link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
        target = link
    given = run("strip", "-i", target, "-o", "o.nii.gz")
    assert given.reads(target)


@pytest.mark.parametrize("relative", [False, True])
def test_a_linked_folder_holds_a_linked_file(run, relative):
    """A data set with its objects beside it, reached through a link from elsewhere."""
    top = run.work.parent / "dataset"
    key = touch(top / "objects" / "key")
    (top / "sub").mkdir()
    (top / "sub" / "t1.nii.gz").symlink_to("../objects/key" if relative else key)
    alias = run.work.parent / "alias"
    alias.symlink_to(top / "sub")
    given = run("strip", "-i", alias / "t1.nii.gz", "-o", "o.nii.gz")
    assert given.reads(alias / "t1.nii.gz")


def test_a_linked_folder_below_the_working_folder(run):
    """The link lies in a mounted folder, and its target is again a link."""
    real = run.work.parent / "real"
    scan = touch(real / "t1.nii.gz")
    (run.work.parent / "middle").symlink_to(real)
    (run.work / "link").symlink_to(run.work.parent / "middle")
    given = run("strip", "-i", "link/t1.nii.gz", "-o", "link/o.nii.gz")
    assert given.reads("link/t1.nii.gz", scan) and given.writes_in("link", real)
    for inside in given.mounts:  # no place is made where a link lies
        assert inside == str(Path(inside).resolve()) or inside == str(run.work.parent / "middle")


def test_an_output_folder_that_is_a_link(run):
    real = run.work.parent / "real"
    real.mkdir()
    alias = run.work.parent / "alias"
    alias.symlink_to(real)
    assert run("strip", "-i", "a", "--out-dir", alias).writes_in(alias, real)
    assert run("strip", "-i", "a", "-o", alias / "o.nii.gz").writes_in(alias, real)


def test_folders_are_writable_only_where_something_is_written(run):
    one, two = (touch(run.work.parent / name / "t1.nii.gz") for name in ("one", "two"))
    given = run("strip", "-i", one, "-m", two.parent / "deep" / "m.nii.gz", "-o", one.parent / "o.nii.gz")
    assert given.writes_in(one.parent) and given.writes_in(two.parent / "deep")
    given = run("strip", "-i", two, "-o", two.parent / "deep" / "m.nii.gz")
    assert given.reads(two) and not given.outside(str(two))[1] and given.writes_in(two.parent / "deep")


def test_output_folders_are_made_and_dry_runs_make_none(run):
    given = run("--dry-run", "strip", "-i", "a", "--out-dir", "x/y")
    assert given.status == 0 and not (run.work / "x").exists() and not given.started
    assert run("strip", "-i", "a", "--out-dir", "x/y").writes_in(run.work / "x/y")
    assert (run.work / "x/y").stat().st_uid == os.getuid()


def test_an_output_folder_that_cannot_be_made_is_one_sentence(run):
    touch(run.work / "file")
    given = run("strip", "-i", "a", "-o", "file/o.nii.gz")
    assert given.status == 1 and not given.started and given.errors.count("\n") == 1
    assert "file: cannot be made" in given.errors


@pytest.mark.parametrize("place", ["/", "/usr/lib", "/etc/x", "/opt/singlestrip/lib", "/usr"])
def test_places_of_the_container_itself_are_refused(place):
    with pytest.raises(places.Refusal, match=f"^{place}: mounted there it would hide"):
        places.check_place(place)


@pytest.mark.parametrize(
    "place", ["/home/me", "/opt/data", "/run/media/disk", "/tmp", "/srv", "/library", "/dev/shm"]
)
def test_other_places_are_not(place):
    places.check_place(place)


def test_an_input_in_a_system_folder_is_refused(run):
    given = run("strip", "-i", "/etc/hostname", "-o", "o.nii.gz")
    assert given.status == 1 and not given.started and "/etc: mounted there" in given.errors


def test_a_missing_input_is_left_to_singlestrip(run):
    given = run("strip", "-i", "/nowhere/at/all.nii.gz", "-o", "o.nii.gz")
    assert given.status == 0 and "/nowhere/at" not in given.mounts


# Lists, tables, models


def test_what_lists_name_is_mounted(run, tmp_path):
    home = tmp_path / "home"
    paths = [
        touch(home / "h.nii.gz"),
        touch(tmp_path / "p q" / "t1.nii.gz"),
        touch(run.work / "near" / "t1.nii.gz"),
    ]
    text = f"# scans\n\n~/h.nii.gz\n {paths[1]} \nnear/t1.nii.gz\n/nowhere/x.nii.gz\n"
    listing = touch(tmp_path / "lists" / "scans.txt", "\ufeff" + text)
    given = run("strip", "--list", listing, "--out-dir", "out", HOME=str(home))
    assert all(given.reads(path) for path in [listing, *paths])
    assert given.reads("near/t1.nii.gz", paths[2]) and given.inside["HOME"] == str(home)


def test_names_of_any_bytes_in_lists_and_tables(run, tmp_path):
    names = ["caf\udce9.nii", "c\rr.nii", "back\\n.nii", "=1.nii", "'q.nii", " lead.nii"]
    scans = [touch(tmp_path / "scans" / str(n) / name) for n, name in enumerate(names)]
    (tmp_path / "l.txt").write_bytes(b"\r\n".join(map(os.fsencode, [*scans, "nul\0.nii", "~no-such-user/a"])))
    given = run("strip", "--list", tmp_path / "l.txt", "--out-dir", "out")
    assert all(given.reads(scan) for scan in scans)
    table = touch(tmp_path / "t.tsv", "\n".join(["mask", *map(to_cell, map(str, scans))]))
    given = run("qc", "--table", table)
    assert all(given.reads(scan) for scan in scans)


def test_what_tables_name_is_mounted_from_wherever_it_is_seen(run, tmp_path):
    far, near = touch(tmp_path / "tables" / "m" / "a.nii.gz"), touch(run.work.parent / "w" / "b.nii.gz")
    table = touch(tmp_path / "tables" / "t.tsv", "mask\timage\nm/a.nii.gz\t../w/b.nii.gz\n")
    given = run("qc", "--table", table, "-o", "q.tsv")
    assert given.reads(table) and given.reads(far) and given.reads("../w/b.nii.gz", near)


def test_a_list_of_thousands_needs_few_mounts(run, tmp_path):
    paths = [touch(tmp_path / "set" / f"sub-{n}" / "anat" / "t1.nii.gz") for n in range(300)]
    listing = touch(tmp_path / "lists" / "scans.txt", "\n".join(map(str, paths)))
    given = run("strip", "--list", listing, "--out-dir", tmp_path / "set" / "masks")
    assert len(given.mounts) <= 64
    assert all(given.reads(path) and not given.outside(str(path))[1] for path in paths)
    assert given.writes_in(tmp_path / "set" / "masks")


def test_models_are_files_or_names(run, tmp_path):
    model = touch(tmp_path / "models" / "mouse.safetensors")
    real = touch(tmp_path / "real" / "rat.safetensors")
    (model.parent / "rat.safetensors").symlink_to(real)
    given = run("strip", "-i", "a", "-o", "b", "--model", model)
    assert given.reads(model) and "SINGLESTRIP_MODELS" not in given.inside
    given = run("strip", "-i", "a", "-o", "b", "--model", "mouse", SINGLESTRIP_MODELS=str(model.parent))
    assert given.inside["SINGLESTRIP_MODELS"] == str(model.parent)
    assert given.reads(model) and given.reads(model.parent / "rat.safetensors")
    assert not given.outside(str(model))[1]


def test_each_folder_of_models_is_mounted(run, tmp_path):
    models = [touch(tmp_path / place / "mouse.safetensors") for place in ("first", "second")]
    folders = f"{models[0].parent}::{tmp_path / 'missing'}:{models[1].parent}"
    given = run("strip", "-i", "a", "-o", "b", "--model", "mouse", SINGLESTRIP_MODELS=folders)
    assert given.inside["SINGLESTRIP_MODELS"] == folders
    assert all(given.reads(model) and not given.outside(str(model))[1] for model in models)


def test_a_folder_to_read_is_there_with_what_its_links_lead_to(tmp_path, monkeypatch):
    outside = touch(tmp_path / "store" / "key")
    inside = touch(tmp_path / "bids" / "sub-1" / "t1.nii.gz")
    (tmp_path / "bids" / "linked.nii.gz").symlink_to(outside)
    monkeypatch.chdir(tmp_path / "bids")
    mounts, _ = plan.plan_mounts([("input-folder", "."), ("folder", "derivatives")], [], True)
    found = {place: (host, writable) for host, place, writable in mounts}
    assert found[str(inside.parents[1])] == (str(inside.parents[1]), False)
    assert found[str(outside.parent)] == (str(outside.parent), False)
    assert found[str(tmp_path / "bids/derivatives")][1]


# Engines


def test_first_engine_found_or_the_chosen_one(run):
    everything = {"engines": ENGINES}
    assert "run" in run("strip", "-i", "a", **everything).words
    assert "--userns" not in " ".join(run("strip", "-i", "a", **everything).words)
    chosen = run("--engine", "singularity", "--image", "x.sif", "strip", "-i", "a", **everything)
    assert chosen.words[0] == "exec"
    assert run("strip", SINGLESTRIP_ENGINE="apptainer", SINGLESTRIP_IMAGE="y.sif", **everything).words[0] == "exec"
    by_file = run("--image", "some.sif", "strip", "-i", "a", **everything)
    assert by_file.words[0] == "exec" and "some.sif" in by_file.words


@pytest.mark.parametrize(
    ("arguments", "engines", "words"),
    [
        (["strip"], (), "none of docker, podman, apptainer, singularity"),
        (["--engine", "podman", "strip"], ("docker",), "podman: not found"),
        (["--engine", "rkt", "strip"], ("docker",), "rkt: no such engine"),
        (["strip"], ("apptainer",), "name the image file"),
        (["--image", "x.sif", "strip"], ("docker",), "none of apptainer, singularity"),
    ],
)
def test_refusals_are_one_sentence(run, arguments, engines, words):
    given = run(*arguments, engines=engines)
    assert given.status == 1 and not given.started and words in given.errors and given.errors.count("\n") == 1


def test_wrong_command_lines_of_the_wrapper_end_with_2(run):
    assert run("stripp").status == 2 and run().status == 2 and run("--no-such", "strip").status == 2


def test_image_option_goes_before_the_variable(run):
    given = run("--image", "mine:1", "strip", "-i", "a", SINGLESTRIP_IMAGE="other:2")
    assert "mine:1" in given.words and "other:2" not in given.words
    assert "singlestrip" in run("strip", "-i", "a").words  # the default


@pytest.mark.parametrize("engine", ENGINES)
def test_no_network_and_gpu_only_where_asked_for(run, engine):
    flags = {
        "docker": "--gpus all",
        "podman": "--device nvidia.com/gpu=all",
        "apptainer": "--nv",
        "singularity": "--nv",
    }

    def words(*arguments):
        given = run(
            *sif(engine), *arguments, engines=(engine,), CUDA_VISIBLE_DEVICES="3", SINGLESTRIP_ENGINE=engine
        )
        inside = given.words[given.words.index("strip") :]
        return " ".join(given.words).partition(" ".join(inside))[0], given

    plain, given = words("strip", "-i", "a", "--device", "cpu")
    assert "--network=none" in plain or "--net --network none" in plain
    assert flags[engine] not in plain and "CUDA_VISIBLE_DEVICES" not in given.inside
    for arguments in (
        ["--gpu", "strip", "-i", "a"],
        ["strip", "-i", "a", "--device", "cuda:0"],
        ["strip", "-gi", "a"],
    ):
        text, given = words(*arguments)
        assert flags[engine] in text and given.inside["CUDA_VISIBLE_DEVICES"] == "3"
    assert flags[engine] in words("strip", "-i", "a", "--device=cuda")[0]


def test_user_and_groups(monkeypatch):
    monkeypatch.setattr(engines.os, "getuid", lambda: 1234)
    monkeypatch.setattr(engines.os, "getgid", lambda: 50)
    monkeypatch.setattr(engines.os, "getgroups", lambda: [50, 60])
    docker = engines.docker_command("docker", "x", [], "/", {}, False)
    podman = engines.docker_command("podman", "x", [], "/", {}, False)
    assert {"--user=1234:50", "--group-add=60"} <= set(docker) and "--group-add=50" not in docker
    assert {"--user=1234:50", "--userns=keep-id", "--group-add=keep-groups"} <= set(podman)
    monkeypatch.setattr(engines.os, "getuid", lambda: 0)
    assert "--userns=keep-id" not in engines.docker_command("podman", "x", [], "/", {}, False)


@pytest.mark.parametrize("engine", ENGINES)
def test_variables_of_threads_and_array_jobs_are_passed_on(run, engine):
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    wanted = {f"SLURM_ARRAY_TASK_{name}": "3" for name in names} | {"OMP_NUM_THREADS": "4,2"}
    given = run(*sif(engine), "strip", "-i", "a", engines=(engine,), **wanted)
    assert wanted.items() <= given.inside.items()


@pytest.mark.parametrize("engine", ENGINES)
def test_dry_run_prints_what_a_shell_runs_alike(run, engine, tmp_path):
    arguments = ("strip", "-i", touch(tmp_path / "it's a" / 't "1".nii.gz'), "-o", "o.nii.gz")
    real = run(*sif(engine), *arguments, engines=(engine,), OMP_NUM_THREADS="2")
    printed = run(*sif(engine), "--dry-run", *arguments, engines=(engine,), OMP_NUM_THREADS="2")
    assert not printed.started
    environment = os.environ | run.environment(engine)
    environment["PATH"] += ":/usr/bin:/bin"
    subprocess.run(["/bin/sh", "-c", printed.output], env=environment, cwd=run.work, check=True)
    again = json.loads((tmp_path / "record").read_text())
    assert again["arguments"] == real.words
    prefix = f"{engine.upper()}ENV_"
    assert {k: v for k, v in again["environment"].items() if k.startswith(prefix)} == {
        k: v for k, v in real.environment.items() if k.startswith(prefix)
    }


# Exit status and signals


@pytest.mark.parametrize("status", [0, 1, 2, 125])
def test_exit_status_is_passed_on(run, status):
    given = run("strip", "-i", "a", STATUS=str(status))
    assert given.status == status and given.errors == ""


@pytest.mark.parametrize("how", [{"STATUS": "137"}, {"DIE": "1"}])
def test_kills_are_explained(run, how):
    given = run("strip", "-i", "a", **how)
    assert given.status == 137 and "137" in given.errors and "memory" in given.errors


def test_signals_are_handed_on_once(run, tmp_path):
    """A terminal, and some batch systems, send them to the wrapper's whole group: the engine is not in it."""
    environment = os.environ | run.environment("docker") | {"WAIT": "1", "STATUS": "1"}
    process = subprocess.Popen(
        [sys.executable, WRAPPER, "strip", "-i", "a"], env=environment, cwd=run.work, start_new_session=True
    )
    record = tmp_path / "record"
    while not record.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    found = json.loads(record.read_text())
    assert found["signals"] == [signal.SIGTERM] and found["group"] != process.pid
