"""What docs/stable.md and the pages of docs/stable promise: lists that may grow in the code but lose nothing."""

import csv
import json
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import PhantomCascade, make_head, tiny_cascade
from safetensors import safe_open

from singlestrip.cli.commands import train as train_command
from singlestrip.cli.interface import command_options, former_options
from singlestrip.cli.main import main
from singlestrip.cli.parser import EXIT_STATUS, build_parser
from singlestrip.configuration import AutoencoderConfig, QualityPartTrainConfig
from singlestrip.io.text.escaping import to_cell
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import find_model
from singlestrip.networks.model_header import AUTOENCODER
from singlestrip.self_training import scans
from singlestrip.stripping.brain_field import BrainField
from singlestrip.stripping.stripper import Stripped, Stripper

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "stable.md", *(DOCS / "stable").glob("*.md")))
QC_COLUMNS = [
    "flag",
    "estimated_dice",
    "estimated_hd95_mm",
    "lowest_slice_dice",
    "volume_ml",
    "components",
    "holes",
    "border",
    "tta_dice",
    "tta_mask_dice",
    "dice",
    "hd95_mm",
    "mask",
    "image",
    "reference",
    "note",
    "frame",
    "estimate_low",
    "estimate_high",
    "evidence",
    "shape_dice",
    "view_dice",
    "reasons",
]
METRICS_COLUMNS = ["step", "segmenter_loss", "locator_loss", "rate", "validation_dice", "seconds"]
QUALITY_METRICS_COLUMNS = ["step", "reconstruction_loss", "rate", "seconds"]
SCORES_COLUMNS = ["image", "score", "estimate", "flag", "kept", "note", "sha256", "reasons"]
RUN_KEYS = ["configuration", "labelled", "unlabelled", "versions", "decisions"]
CLASS_KEYS = ["label", "mean", "standard_deviation", "weight", "count"]
CARD_KEYS = [
    "anatomy", "learned_from", "source", "licence", "date", "version", "scores", "intended_use", "limits",
]  # fmt: skip
SCORE_KEYS = ["data", "contrast", "scans", "dice", "hd95_mm", "dice_error", "dice_correlation"]
LIST_KEYS = [
    "name",
    "path",
    "error",
    "format",
    "format_version",
    "strips",
    "has_quality",
    "voxel_size_mm",
    "brain_ml",
    "size_bytes",
]
MODEL_KEYS = ["format", "format_version", "configuration", "provenance"]
PART_KEYS = ["quality_configuration", "quality_provenance", "anatomy"]
OPTIONS = {
    "strip": "image list out mask sdt picture out-dir save suffix format shard resume model border fill "
    "mask-mean-frame mean-frame bval b0-limit crop probability centre qc qc-model pass-from look-from device gpu "
    "threads memory quiet debug",
    "segment": "image list out table label-table posteriors picture volumes qc out-dir save suffix format shard "
    "resume model centre mean-frame bval device gpu threads memory quiet debug",
    "fit-gmm": "image mask out figure picture inside outside seed quiet debug",
    "train": "image mask labels out val init resume samples picture steps batch lr seed validate-every save-every "
    "amp voxel-size no-quality norm device gpu threads quiet debug",
    "qc": "mask image reference table out report qc-model pass-from look-from tta model seed train epochs kind "
    "resume axes device gpu threads quiet debug",
    "train-qc": "mask out resume epochs kind axes seed device gpu threads quiet debug",
    "calibrate-qc": "image mask trust-voxels qc-model model images seed device gpu threads quiet debug",
    "self-train": "image mask unlabelled list out model init qc-model val references reference-list resume rounds "
    "keep threshold rank from-scratch halves shapes example-share spare-border accept-worse steps first-steps "
    "epochs batch lr seed save-every device gpu threads quiet debug",
    "models": "model json quiet debug",
    "export": "model out quiet debug",
    "bids": "bids-dir output-dir level participant-label session-label suffix save resume model border qc "
    "qc-model pass-from look-from device gpu threads memory quiet debug",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """image.nii.gz, mask.nii.gz and labels.nii.gz in the working folder, tiny models in that of the models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(tmp_path / "models"))
    make_head().save(tmp_path)
    Path("models").mkdir()
    torch.manual_seed(0)
    checkpoint.save_model(Path("models/singlestrip.safetensors"), Cascade(tiny_cascade(8.0)), {})
    config = AutoencoderConfig(size=16, voxel_size_mm=12.0, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8)))
    checkpoint.save_model(Path("models/quality.safetensors"), Autoencoder(config), {})
    return tmp_path


@pytest.fixture
def knowing(files, monkeypatch):
    """The files, and a stripper that knows the phantom."""
    Path("models/singlestrip.safetensors").touch()
    monkeypatch.setattr(Stripper, "load", staticmethod(lambda *arguments: Stripper(PhantomCascade())))


def run(line: str) -> int:
    return main(line.split())


def names(folder=".") -> set[str]:
    """Files but those in the hidden folder that may change."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return {str(path) for path in paths if ".singlestrip" not in path.parts}


def columns(path, delimiter: str) -> list[str]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file, delimiter=delimiter))


@pytest.mark.parametrize(
    "promised",
    [
        *QC_COLUMNS,
        *METRICS_COLUMNS,
        *QUALITY_METRICS_COLUMNS,
        *SCORES_COLUMNS,
        *RUN_KEYS,
        *CLASS_KEYS,
        *MODEL_KEYS,
        *CARD_KEYS,
        *SCORE_KEYS,
        *LIST_KEYS,
        *PART_KEYS,
        "brain_ml",
        "slice_dice",
        "slice_doubt",
    ],
)
def test_the_page_has_what_is_tested_here(promised):
    assert f"`{promised}`" in PAGE


# Exit statuses


def test_the_page_has_the_exit_statuses_of_the_manual():
    promised = re.findall(r"^\| `(\d+)` \| ([^|;]+?) *[|;]", PAGE, re.MULTILINE)
    assert {int(status): text for status, text in promised} == EXIT_STATUS
    assert list(EXIT_STATUS) == [0, 1, 2]


def test_exit_statuses(knowing, capsys):
    assert run("strip -i image.nii.gz -m m.nii.gz") == 0
    assert run("strip -i missing.nii.gz -m m.nii.gz") == 1
    assert run("strip -i missing.nii.gz image.nii.gz --out-dir out") == 1
    assert "out/image_mask.nii.gz" in names()
    with pytest.raises(SystemExit) as stop:
        run("strip -i image.nii.gz")
    assert stop.value.code == 2


INTERRUPTED = """
import os, sys
from singlestrip.io.images import volume
from singlestrip.__main__ import main
whole = volume.write_like
def write(scan, path, *args, **keywords):
    os.kill(os.getpid(), {number})
    whole(scan, path, *args, **keywords)
volume.write_like = write
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 1), ("SIGTERM", 1), ("SIGHUP", -signal.SIGHUP), ("SIGKILL", -signal.SIGKILL)]
)
def test_signals(files, name, status):
    """In a shell those that are not caught are 128 and their number: 129 and 137."""
    code = INTERRUPTED.format(number=int(getattr(signal, name)))
    line = ["fit-gmm", "-i", "image.nii.gz", "-m", "mask.nii.gz", "-o", "out.nii.gz", "--inside", "2"]
    before = names()
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == ("singlestrip: interrupted\n" if status == 1 else "")
    if status == 1:
        assert names() == before


# Output and errors


def test_standard_output_and_errors(knowing, capsys):
    assert run("strip -i image.nii.gz -m m.nii.gz") == 0
    assert capsys.readouterr() == ("", "")
    assert run("strip -i image.nii.gz -m m.nii.gz --qc") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"image\.nii\.gz: (pass|look|fail), estimated Dice \d\.\d+\n", out) and not err
    assert run("qc -m mask.nii.gz") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and not err
    assert run("strip -i image.nii.gz missing.nii.gz --out-dir out --qc --quiet") == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("singlestrip: ")
    assert run("qc -m mask.nii.gz missing.nii.gz --quiet") == 1
    out, err = capsys.readouterr()
    assert not out and re.fullmatch(r"singlestrip: .*missing.*\n", err)


# Options


@pytest.mark.parametrize("command", OPTIONS)
def test_long_options_stay(command):
    """Also those that have another name by now."""
    parser = build_parser()
    known = (*command_options(parser, command), *former_options(parser, command))
    assert set(OPTIONS[command].split()) <= {option.name for option in known}


def test_options_cannot_be_abbreviated(files, capsys):
    with pytest.raises(SystemExit) as stop:
        run("strip -i image.nii.gz -m m.nii.gz --bord 2")
    assert stop.value.code == 2


# Files


def test_files_of_strip(knowing):
    assert run("strip -i image.nii.gz --out-dir out --save brain mask sdt picture --format .mgz --qc") == 0
    assert names("out") == {"image_brain.mgz", "image_mask.mgz", "image_sdt.mgz", "image_picture.png", "qc.tsv"}
    mask, sdt = (np.asanyarray(nib.load(f"out/image_{kind}.mgz").dataobj) for kind in ("mask", "sdt"))
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1} and mask.shape == make_head().image.shape
    assert sdt.dtype.newbyteorder("=") == np.float32 and ((sdt < 0) == (mask == 1)).all()
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "image.nii.gz").write_bytes(Path("image.nii.gz").read_bytes())
    assert run("strip -i a/image.nii.gz b/image.nii.gz --out-dir both --save mask") == 0
    assert names("both") == {"a/image_mask.nii.gz", "b/image_mask.nii.gz"}


def test_tables_of_qc(knowing):
    assert run("qc -m mask.nii.gz -o one.tsv --report page") == 0
    assert run("qc -m mask.nii.gz -o one.json") == 0
    Path("other.nii.gz").write_bytes(Path("mask.nii.gz").read_bytes())
    assert run("qc -m mask.nii.gz other.nii.gz -o two.json") == 0
    assert run("strip -i image.nii.gz --out-dir out --qc") == 0
    assert set(QC_COLUMNS) <= set(columns("one.tsv", "\t")) == set(columns("out/qc.tsv", "\t"))
    assert "page/index.html" in names()
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    assert isinstance(one, dict) and isinstance(two, list) and len(two) == 2
    assert {"flag", "estimated_dice", "volume_ml", "mask", "slice_dice", "slice_doubt", "reasons"} <= set(one)
    assert set(one) <= {*QC_COLUMNS, "slice_dice", "slice_doubt"}


ESCAPES = {
    "\t": r"\t",
    "\n": r"\n",
    "\r": r"\r",
    "\\": r"\\",
    "\x1b": r"\x1b",
    "\udce9": r"\xe9",
    "\u2028": r"\u2028",
}


@pytest.mark.parametrize("character", ESCAPES)
def test_text_in_tables(character):
    assert to_cell(f"a{character}b") == f"a{ESCAPES[character]}b"
    kind = re.sub("(?<=x)[0-9a-f]{2}$|(?<=u)[0-9a-f]{4}$", lambda code: "N" * len(code[0]), ESCAPES[character])
    assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("first", ["=", "+", "-", "@", '"', "'"])
def test_text_that_a_spreadsheet_would_run(first):
    assert to_cell(f"{first}A1") == f"'{first}A1" and f"`{first}`" in PAGE


def test_lists(knowing):
    """As the page has them."""
    Path("list.txt").write_bytes(
        b"# scans\r\n\r\n  image.nii.gz \r\nmask.nii.gz\n~no-such-user/c.nii\n./image.nii.gz"
    )
    assert run("strip --list list.txt --out-dir out --save mask -q") == 1
    assert names("out") == {"image_mask.nii.gz", "mask_mask.nii.gz"}


def test_files_of_fit_gmm(files):
    assert run("fit-gmm -i image.nii.gz -m mask.nii.gz -o l.nii.gz --inside 2 --outside 3") == 0
    assert set(np.unique(np.asanyarray(nib.load("l.nii.gz").dataobj))) == {1, 2, 3, 101, 102}
    record = json.loads(Path("l.json").read_text())
    assert record["seed"] == 0
    for side, count in (("inside", 2), ("outside", 3)):
        assert all(len(record[side][key]) == count for key in CLASS_KEYS)


def test_files_of_train(files, monkeypatch):
    before = names()
    line = "train -o new.safetensors --init singlestrip --steps 1"
    assert run(f"{line} -l labels.nii.gz --no-quality") == 0
    added = {f"new.{ending}" for ending in ("safetensors", "checkpoint", "metrics.csv", "curve.png")}
    assert names() - before == added
    Path("new.checkpoint").unlink()
    line += " -i image.nii.gz -m mask.nii.gz"
    assert run(f"{line} --no-quality") == 0
    added |= {"new.labelled.png"}
    assert names() - before == added
    assert set(METRICS_COLUMNS) <= set(columns("new.metrics.csv", ","))
    quality = checkpoint.load_model(Path("models/quality.safetensors"), kind=Autoencoder)[0].config
    monkeypatch.setattr(AutoencoderConfig, "fitting", staticmethod(lambda *arguments: quality))
    monkeypatch.setattr(train_command, "QualityPartTrainConfig", partial(QualityPartTrainConfig, epochs=1))
    assert run(f"{line} --resume") == 0
    added |= {f"new.quality.{ending}" for ending in ("checkpoint", "metrics.csv", "curve.png")}
    assert names() - before == added
    assert set(QUALITY_METRICS_COLUMNS) <= set(columns("new.quality.metrics.csv", ","))
    with safe_open("new.safetensors", "pt") as file:
        header = file.metadata()
        assert any(name.startswith("quality.") for name in file.keys())  # noqa: SIM118 - not a dict
    assert {*MODEL_KEYS, *PART_KEYS} <= set(header) and header["format_version"] == "2"
    assert len(json.loads(header["anatomy"])["brain_ml"]) == 1


def test_files_of_train_qc(files):
    before = names()
    assert run("train-qc -m mask.nii.gz -o new.safetensors --epochs 1") == 0
    added = {f"new.{ending}" for ending in ("safetensors", "checkpoint", "metrics.csv", "curve.png")}
    assert names() - before == added
    assert set(QUALITY_METRICS_COLUMNS) <= set(columns("new.metrics.csv", ","))


def test_files_of_self_train(files, monkeypatch):
    def strip(stripper, image):
        mask = image.scaled() > 40
        return Stripped(mask, BrainField(np.where(mask, np.float32(5), np.float32(-5)), image.vox2world))

    monkeypatch.setattr(scans, "strip_image", strip)
    Path("scan.nii.gz").write_bytes(Path("image.nii.gz").read_bytes())
    Path("scans.txt").write_text("scan.nii.gz\n")
    line = "self-train -i image.nii.gz -m mask.nii.gz --list scans.txt -o run --quiet"
    line += " --model singlestrip --qc-model quality --rounds 1 --keep 1 --steps 1 --threshold 0.0001"
    assert run(line) == 0
    assert {
        "run.json", "index.html", "model.safetensors", "round-1/model.safetensors", "round-1/scores.tsv",
        "round-1/index.html",
    } <= names("run")  # fmt: skip
    assert set(SCORES_COLUMNS) <= set(columns("run/round-1/scores.tsv", "\t"))
    assert set(RUN_KEYS) <= set(json.loads(Path("run/run.json").read_text()))


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [("singlestrip", "singlestrip-cascade", "2"), ("quality", "singlestrip-autoencoder", "1")],
)
def test_model_files(monkeypatch, name, kind, version):
    """Those that come with it, which every later version has to read."""
    monkeypatch.delenv("SINGLESTRIP_MODELS", raising=False)
    path = find_model(name)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert set(MODEL_KEYS) <= set(header)
    assert (header["format"], header["format_version"]) == (kind, version)
    assert json.loads(header["configuration"]) and isinstance(json.loads(header["provenance"]), dict)
    assert f"`{kind}`" in PAGE


def test_cards_and_the_list_of_models(files, capsys):
    card = dict.fromkeys(CARD_KEYS, "text") | {"date": "2026-11-26", "limits": ["text"]}
    card["scores"] = [dict.fromkeys(SCORE_KEYS, 1) | {"data": "text", "contrast": "text"}]
    Path("models/singlestrip.json").write_text(json.dumps(card))
    Path("models/damaged.safetensors").touch()
    assert run("models --json") == 0
    out, err = capsys.readouterr()
    models = {model["name"]: model for model in json.loads(out)}
    assert not err and {"singlestrip", "quality", "damaged"} <= set(models)
    for model in models.values():
        assert {*LIST_KEYS, *CARD_KEYS} <= set(model)
    assert {key: models["singlestrip"][key] for key in CARD_KEYS} == card
    assert models["quality"]["anatomy"] is None and models["quality"]["scores"] == []
    assert models["damaged"]["error"] and models["damaged"]["format"] is None
    assert run("models damaged") == 1


# Environment


def test_the_folders_of_models(files, monkeypatch):
    assert find_model(None) == files / "models/singlestrip.safetensors"
    assert find_model(None, AUTOENCODER.shipped) == files / "models/quality.safetensors"
    Path("models/mouse.safetensors").write_bytes(Path("models/singlestrip.safetensors").read_bytes())
    assert find_model("mouse") == files / "models/mouse.safetensors"
    monkeypatch.setenv("SINGLESTRIP_MODELS", f"{files / 'missing'}:{files / 'models'}")
    assert find_model("mouse") == files / "models/mouse.safetensors"
    Path("missing").mkdir()
    Path("missing/mouse").touch()
    assert find_model("mouse") == files / "missing/mouse"
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(files / "missing"))
    shipped = Path(__file__).parents[1] / "models"
    assert find_model(None) == shipped / "singlestrip.safetensors"
    assert find_model(None, AUTOENCODER.shipped) == find_model("quality") == shipped / "quality.safetensors"
    assert "`SINGLESTRIP_MODELS`" in PAGE
