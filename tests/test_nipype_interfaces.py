"""The nipype interfaces: against the parser, from files to files, and in workflows."""

import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

os.environ.setdefault("NIPYPE_NO_ET", "1")  # nipype would ask the network for its newest version
pytest.importorskip("nipype", reason="nipype is not installed")

from nipype import Function, MapNode, Node, Workflow
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.nodes import NodeExecutionError

from singlestrip.batch.shards import Shard
from singlestrip.cli.interface import command_options, former_options
from singlestrip.cli.parser import build_parser, parse
from singlestrip.integrations.names import input_name
from singlestrip.integrations.nipype import Quality, Segment, Strip

COMMANDS = {"strip": Strip, "segment": Segment, "qc": Quality}
SYNTHSTRIP_NAMES = {"out_mask", "border_mm", "use_gpu"}  # of nipreps' interface, beside those that ours has too
COUNTED = ("mask_file", "flag", "estimated_dice")
SCAN = Path(nib.__file__).parent / "tests/data/example4d.nii.gz"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the empty files a.nii.gz, b.mgz, model.safetensors, list.txt and table.tsv."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii.gz", "b.mgz", "model.safetensors", "table.tsv"):
        Path(name).touch()
    Path("list.txt").write_text("a.nii.gz\nb.mgz\n")
    return tmp_path


def parsed(interface) -> dict:
    """What the parser makes of an interface's command line."""
    python, *module, command = shlex.split(interface.cmdline)[:4]
    assert (python, module) == (sys.executable, ["-m", "singlestrip"])
    return vars(parse([command, *shlex.split(interface.cmdline)[4:]]))


# The parser


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_an_input_and_the_other_way_round(command):
    """Also by the name that it had before."""
    parser = build_parser()
    known = (*command_options(parser, command), *former_options(parser, command))
    inputs = set(COMMANDS[command]().inputs.copyable_trait_names()) - {"args", "environ"}
    assert {input_name(option) for option in known} == inputs - SYNTHSTRIP_NAMES


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    for option in command_options(build_parser(), command):
        assert COMMANDS[command]().inputs.trait(input_name(option)).desc.startswith(option.action.help)


def example(option):
    """A value that differs from the default, and what the parser has to make of it."""
    here = Path.cwd()
    by_role = {
        "none": (True, option.action.const),
        "input": ("a.nii.gz", here / "a.nii.gz"),
        "list": ("list.txt", here / "list.txt"),
        "table": ("table.tsv", here / "table.tsv"),
        "output": ("it's new.nii.gz", Path("it's new.nii.gz")),
        "folder": ("new folder", Path("new folder")),
        "model": ("model.safetensors", str(here / "model.safetensors")),
    }
    if option.role in by_role:
        value, wanted = by_role[option.role]
    elif option.action.choices:
        value = wanted = list(option.action.choices)[-1]
    elif option.range is not None:
        value = wanted = 1 if option.range.integer or option.range.highest == 1 else 2e-5
    elif option.name == "shard":
        value, wanted = "1/2", Shard(1, 2)
    else:
        value = wanted = "some text"
    if isinstance(option.nargs, int) and option.role != "none":
        return [value] * option.nargs, [wanted] * option.nargs
    return value, [wanted] if option.nargs == "+" else wanted


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, option.name) for command in COMMANDS for option in command_options(build_parser(), command)],
)
def test_every_input_reaches_the_parser(folder, command, name):
    option = next(o for o in command_options(build_parser(), command) if o.name == name)
    value, wanted = example(option)
    interface = COMMANDS[command](**{input_name(option): value})
    if command == "strip" and option.role == "output":
        interface.inputs.in_file = "a.nii.gz"
    found = parsed(interface)[option.action.dest]
    assert found == wanted and found != option.action.default


def test_values_are_of_their_kind(folder):
    numbers = ({"border": "wide"}, {"num_threads": 1.5}, {"centre": [1, 2]})
    for wrong in (*numbers, {"save": ["hat"]}, {"in_file": "missing.nii.gz"}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            Strip(**wrong)


def test_negative_and_small_numbers(folder):
    assert parsed(Strip(in_file="a.nii.gz", border=-1e-5))["border"] == -1e-5
    assert parsed(Strip(in_file="a.nii.gz", centre=[-1e-5, -12, 3.5]))["centre"] == [-1e-5, -12, 3.5]


def test_a_model_is_a_file_or_a_name(folder):
    assert parsed(Strip(model="model.safetensors"))["model"] == str(folder / "model.safetensors")
    assert parsed(Strip(model="mouse"))["model"] == "mouse"


def test_nipype_notices_a_model_trained_anew(folder):
    strip = Strip(in_file="a.nii.gz", model="model.safetensors")
    before = strip.inputs.get_hashval(hash_method="content")[1]
    assert strip.inputs.get_hashval(hash_method="content")[1] == before
    Path("model.safetensors").write_bytes(b"other weights")
    assert strip.inputs.get_hashval(hash_method="content")[1] != before


# The names of nipreps' interface to SynthStrip


def test_all_inputs_of_their_interface_work(folder):
    strip = Strip(
        in_file="a.nii.gz",
        model="model.safetensors",
        border_mm=1,
        out_file="brain.nii.gz",
        out_mask="mask.nii.gz",
        num_threads=2,
        use_gpu=True,
        no_csf=True,
    )
    found = parsed(strip)
    assert (found["out"], found["mask"]) == (Path("brain.nii.gz"), Path("mask.nii.gz"))
    assert (found["border"], found["device"], found["threads"], found["no_csf"]) == (1.0, "cuda", 2, True)
    outputs = strip._list_outputs()
    assert outputs["out_mask"] == outputs["mask_file"] == [str(folder / "mask.nii.gz")]
    assert outputs["out_file"] == [str(folder / "brain.nii.gz")]


def test_their_switches(folder):
    assert parsed(Strip(in_file="a.nii.gz", use_gpu=False))["device"] == "cpu"
    assert parsed(Strip(in_file="a.nii.gz"))["device"] == "auto"
    found = parsed(Strip(in_file="a.nii.gz", out_mask=True))
    assert (found["out"], found["mask"]) == (None, Path("a_mask.nii.gz"))


@pytest.mark.parametrize(
    "both",
    [
        {"out_mask": True, "mask_file": True},
        {"out_mask": True, "out_dir": "out"},
        {"border_mm": 1, "border": 1},
        {"use_gpu": True, "device": "cpu"},
    ],
    ids=lambda both: next(reversed(both)),
)
def test_both_names_of_one_input_are_an_error(folder, both):
    for order in (both, dict(reversed(both.items()))):
        with pytest.raises(OSError, match="mutually exclusive"):
            Strip(in_file="a.nii.gz", **order)


def test_both_names_of_the_mask_lead_to_it(folder):
    outputs = Strip(in_file="a.nii.gz")._list_outputs()
    assert outputs["out_mask"] == outputs["mask_file"] == [str(folder / "a_mask.nii.gz")]


# Names of files


def test_one_image_gives_brain_and_mask(folder):
    found = parsed(Strip(in_file="a.nii.gz"))
    assert (found["image"], found["out"], found["mask"]) == (
        [folder / "a.nii.gz"],
        Path("a_brain.nii.gz"),
        Path("a_mask.nii.gz"),
    )
    assert found["sdt"] is found["picture"] is found["out_dir"] is None


def test_only_what_is_named_where_anything_is(folder):
    found = parsed(Strip(in_file="b.mgz", sdt_file=True, picture_file="p.png"))
    assert (found["sdt"], found["picture"]) == (Path("b_sdt.mgz"), Path("p.png"))
    assert found["out"] is found["mask"] is None
    found = parsed(Strip(in_file="b.mgz", out_file=False, mask_file=True, picture_file=True))
    assert (found["out"], found["mask"], found["picture"]) == (None, Path("b_mask.mgz"), Path("b_picture.png"))


def test_a_folder_takes_the_place_of_named_files(folder):
    found = parsed(Strip(in_file=["a.nii.gz", "b.mgz"], out_dir="out"))
    assert (found["out_dir"], found["out"], found["mask"]) == (Path("out"), None, None)


@pytest.mark.parametrize("listed", [{"in_file": ["a.nii.gz", "b.mgz"]}, {"list_file": "list.txt"}])
def test_outputs_of_a_folder_are_lists_in_the_order_of_the_images(folder, listed):
    strip = Strip(out_dir="out", save=["mask", "picture"], qc=True, **listed)
    out = folder / "out"
    found = strip._list_outputs()
    assert found["mask_file"] == [str(out / "a_mask.nii.gz"), str(out / "b_mask.mgz")]
    assert found["picture_file"] == [str(out / "a_picture.png"), str(out / "b_picture.png")]
    assert not isdefined(found["out_file"]) and not isdefined(found["sdt_file"])
    assert (found["out_dir"], found["qc_file"]) == (str(out), str(out / "qc.tsv"))
    for name in ("format", "suffix"):
        written = Strip(out_dir="out", **{name: ".nii"}, **listed)
        assert written._list_outputs()["out_file"][1] == str(out / "b_brain.nii")
        assert parsed(written)["format"] == ".nii"


def test_outputs_of_a_part_are_those_of_its_images(folder):
    strip = Strip(in_file=["a.nii.gz", "b.mgz"], out_dir="out", save=["mask"], qc=True, shard="2/2")
    found = strip._list_outputs()
    assert found["mask_file"] == [str(folder / "out/b_mask.mgz")]
    assert found["qc_file"] == str(folder / "out/qc-2-of-2.tsv")


def test_one_image_gives_a_label_map(folder):
    found = parsed(Segment(in_file="a.nii.gz"))
    assert found["out"] == Path("a_dseg.nii.gz") and found["posteriors"] is None
    for table in ("label_table_file", "table_file"):
        segment = Segment(in_file="a.nii.gz", posteriors_file=True, volumes_file="v.tsv", **{table: "t.tsv"})
        assert parsed(segment)["posteriors"] == Path("a_probseg.nii.gz")
        assert parsed(segment)["label_table"] == Path("t.tsv")
        outputs = segment._list_outputs()
        assert outputs["posteriors_file"] == [str(folder / "a_probseg.nii.gz")]
        assert not isdefined(outputs["out_file"])
        assert (outputs["volumes_file"], outputs[table]) == (str(folder / "v.tsv"), str(folder / "t.tsv"))


def test_tables_of_a_part_of_the_images(folder):
    given = {"out_dir": "out", "volumes_file": "v.tsv", "qc_file": "q.tsv", "shard": "2/2"}
    outputs = Segment(in_file=["a.nii.gz", "b.mgz"], **given)._list_outputs()
    assert outputs["out_file"] == [str(folder / "out" / "b_dseg.mgz")]
    assert outputs["volumes_file"] == str(folder / "v-2-of-2.tsv")
    assert outputs["qc_file"] == str(folder / "q-2-of-2.tsv")


def test_paths_count_from_where_they_are_set_and_links_stay(folder, monkeypatch):
    Path("linked.nii.gz").symlink_to("a.nii.gz")
    strip = Strip(in_file="linked.nii.gz")
    (folder / "node").mkdir()
    monkeypatch.chdir(folder / "node")
    found = parsed(strip)
    assert found["image"] == [folder / "linked.nii.gz"]
    assert found["mask"] == Path("linked_mask.nii.gz")


def test_quality_writes_a_table(folder):
    assert parsed(Quality(mask_file="a.nii.gz"))["out"] == Path("quality.tsv")
    assert parsed(Quality(mask_file="a.nii.gz", out_file="q.json"))["out"] == Path("q.json")
    trained = Quality(mask_file="a.nii.gz", train_file="q.safetensors")
    assert (parsed(trained)["command"], parsed(trained)["out"]) == ("train-qc", Path("q.safetensors"))
    assert trained._list_outputs()["train_file"] == str(folder / "q.safetensors")


@pytest.mark.parametrize("name", ["q.tsv", "q.json"])
def test_scores_come_in_the_order_of_the_masks(folder, name):
    from singlestrip.batch.assessment import Assessment, Case
    from singlestrip.batch.quality_table import write_table

    Path("c.mgz").touch()
    scores = {"b.mgz": ("fail", 0.5), "c.mgz": ("look", 0.75), "a.nii.gz": ("pass", 0.875)}
    write_table(
        Path(name),
        [
            Assessment(Case(folder / mask), flag, {"estimated_dice": s}, reasons=("small", "has holes")[:k])
            for k, (mask, (flag, s)) in enumerate(scores.items())
        ],
    )
    found = Quality(mask_file=["a.nii.gz", "b.mgz", "c.mgz"], out_file=name)._list_outputs()
    assert found["estimated_dice"] == [0.875, 0.5, 0.75]
    assert found["flag"] == ["pass", "fail", "look"]
    assert found["reasons"] == ["small; has holes", "", "small"]


def test_interfaces_travel_between_processes(folder):
    strip = pickle.loads(pickle.dumps(Strip(in_file="a.nii.gz", border=2.0)))
    assert (strip.inputs.border, strip.inputs.in_file) == (2.0, [str(folder / "a.nii.gz")])


def test_they_need_no_torch():
    code = "import sys, singlestrip.nipype_interfaces as n; n.Strip().inputs; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Running


@pytest.fixture
def scans(folder):
    """One frame each of a real scan, in files of two formats."""
    scan = nib.load(SCAN)
    frames = [np.asarray(scan.dataobj[..., t]) for t in (0, 1)]
    nib.save(nib.Nifti1Image(frames[0], scan.affine), "one.nii.gz")
    nib.save(nib.MGHImage(frames[1], scan.affine), "two.mgz")
    return [folder / "one.nii.gz", folder / "two.mgz"]


def voxels(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def count_voxels(mask_file, flag, estimated_dice):
    """A step of a workflow after strip and qc."""
    import nibabel
    import numpy

    return f"{int(numpy.count_nonzero(nibabel.load(mask_file).dataobj))} {flag} {estimated_dice}"


def list_folder(folder):
    """The same for a folder, without the records of how its files were made."""
    from pathlib import Path

    return sorted(path.name for path in Path(folder).iterdir() if path.name != ".singlestrip")


def counter() -> Function:
    return Function(list(COUNTED), ["text"], count_voxels)


def keeper() -> Node:
    return Node(Function(["folder"], ["files"], list_folder), "keep")


def workflow(folder, *nodes) -> Workflow:
    """strip -> quality -> count, run in this process."""
    made = Workflow("brains", base_dir=str(folder / "work"))
    made.config["execution"] = {"crashdump_dir": str(folder)}
    strip, quality, count = nodes
    made.connect(strip, "mask_file", quality, "mask_file")
    made.connect(strip, "mask_file", count, "mask_file")
    made.connect([(quality, count, [("flag", "flag"), ("estimated_dice", "estimated_dice")])])
    return made


def results(made: Workflow) -> dict:
    return {node.name: node.result.outputs for node in made.run(plugin="Linear").nodes}


@pytest.mark.slow
def test_a_workflow_of_nodes_and_what_a_second_run_does_again(scans, folder):
    strip = Node(Strip(in_file="one.nii.gz"), "strip")
    made = workflow(folder, strip, Node(Quality(report_dir="page"), "quality"), Node(counter(), "count"))
    keep = keeper()
    made.connect(made.get_node("quality"), "report_dir", keep, "folder")
    found = results(made)
    mask = folder / "work/brains/strip/one_mask.nii.gz"
    assert found["strip"].mask_file == str(mask)
    assert found["keep"].files == ["index.html", "pictures"]
    quality = found["quality"]
    assert quality.flag in ("pass", "look", "fail") and 0 < quality.estimated_dice < 1
    assert found["count"].text == f"{np.count_nonzero(voxels(mask))} {quality.flag} {quality.estimated_dice}"
    written = mask.stat().st_mtime_ns
    assert results(made)["count"].text == found["count"].text
    assert mask.stat().st_mtime_ns == written  # taken from before
    strip.inputs.border = 4.0
    grown = results(made)
    assert mask.stat().st_mtime_ns != written
    assert int(grown["count"].text.split()[0]) > int(found["count"].text.split()[0])


@pytest.mark.slow
def test_a_workflow_of_map_nodes(scans, folder):
    strip = MapNode(Strip(mask_file=True), name="strip", iterfield=["in_file"])
    strip.inputs.in_file = ["one.nii.gz", "two.mgz"]
    made = workflow(
        folder,
        strip,
        MapNode(Quality(), name="quality", iterfield=["mask_file"]),
        MapNode(counter(), name="count", iterfield=list(COUNTED)),
    )
    found = results(made)
    assert [Path(path).name for path in found["strip"].mask_file] == ["one_mask.nii.gz", "two_mask.mgz"]
    quality = found["quality"]
    steps = zip(found["strip"].mask_file, quality.flag, quality.estimated_dice, strict=True)
    assert found["count"].text == [f"{np.count_nonzero(voxels(m))} {flag} {score}" for m, flag, score in steps]


@pytest.mark.slow
def test_many_images_in_one_node(scans, folder):
    strip = Node(Strip(in_file=scans, out_dir="out", save=["mask", "picture"], qc=True), "strip")
    made = workflow(
        folder,
        strip,
        Node(Quality(), "quality"),
        MapNode(counter(), name="count", iterfield=list(COUNTED)),
    )
    keep = keeper()
    made.connect(strip, "out_dir", keep, "folder")
    found = results(made)
    assert found["keep"].files == [
        "one_mask.nii.gz", "one_picture.png", "qc.tsv", "two_mask.mgz", "two_picture.png",
    ]  # fmt: skip
    assert found["strip"].mask_file == [
        str(folder / "work/brains/strip/out" / name) for name in ("one_mask.nii.gz", "two_mask.mgz")
    ]
    assert len(found["count"].text) == len(found["quality"].estimated_dice) == 2


@pytest.mark.slow
def test_a_failure_is_an_error_of_the_node(folder):
    node = Node(Strip(in_file="a.nii.gz"), "strip", base_dir=str(folder))
    with pytest.raises(NodeExecutionError, match=r"a\.nii\.gz: "):
        node.run()
    with pytest.raises(RuntimeError, match="several images need --out-dir"):
        Strip(in_file=["a.nii.gz", "b.mgz"], mask_file="m.nii").run()
