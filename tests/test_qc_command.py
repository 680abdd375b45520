"""The qc command and strip --qc, from file to file: scores, tables, pages, training, wrong command lines."""

import copy
import csv
import json
import math
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import PhantomCascade, describe_model, make_head, threshold_cascade, tiny_cascade
from scipy.ndimage import gaussian_filter

from singlestrip.batch import assess
from singlestrip.cli.commands import train_qc
from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, AutoencoderTrainConfig
from singlestrip.errors import SingleStripError
from singlestrip.networks import checkpoint, model_files
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_header import AUTOENCODER
from singlestrip.networks.trees import Estimator, Interval, Tree, TreeSum
from singlestrip.quality.estimator import LEAST
from singlestrip.quality.scores import QualityModel
from singlestrip.quality.training import quality_task
from singlestrip.space.metrics import dice, volume_ml
from singlestrip.space.scan import Scan
from singlestrip.stripping.stripper import Stripper
from singlestrip.training.run import Run

PNG = b"\x89PNG"
LAYERS = ((4, 2, 8), (4, 2, 12), (4, 2, 16), (3, 2, 16), (4, 2, 16))  # 24 voxels to a code of one
SLICE_LAYERS = ((4, 2, 8), (4, 2, 12), (3, 1, 12))
CONFIG = AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=LAYERS)


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def knowing(head):
    """A small quality network that has seen the phantom's brain for a few epochs."""
    train = AutoencoderTrainConfig(epochs=20, batch=4, masks_per_epoch=16, lr=5e-3)
    task = quality_task(Scan(head.mask, head.vox2world), CONFIG, train, torch.device("cpu"))
    learning = Run(task)
    while learning.step < task.setup.plan.steps:
        learning.update()
    return task.model.eval()


@pytest.fixture
def files(head, knowing, tmp_path, monkeypatch):
    """image.nii.gz, three masks and the folder of models, with a model of each kind, in the working folder.

    good_mask.nii.gz is the brain, cut_mask.nii.gz half of it and speck_mask.nii.gz six voxels of it.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(tmp_path / "models"))
    Path("models").mkdir()
    checkpoint.save_model(Path("models/quality.safetensors"), knowing, {})
    checkpoint.save_model(Path("models/singlestrip.safetensors"), threshold_cascade(), {})
    cut, speck = head.mask.copy(), np.zeros_like(head.mask)
    cut[:, 16:] = False
    speck[15:17, 15:18, 16] = True
    for name, mask in (("good", head.mask), ("cut", cut), ("speck", speck)):
        save(f"{name}_mask.nii.gz", mask)
    nib.save(nib.Nifti1Image(head.image, head.vox2world), "image.nii.gz")
    return tmp_path


@pytest.fixture
def trained(files, monkeypatch):
    """The files, and a stripper that knows the phantom in place of the shipped weights."""
    checkpoint.save_model(Path("models/singlestrip.safetensors"), Cascade(tiny_cascade(8.0)), {})
    monkeypatch.setattr(Stripper, "load", staticmethod(lambda *arguments: Stripper(PhantomCascade())))


def target(dice):
    """What trees learn in place of a Dice."""
    return -math.log(1 - dice + LEAST)


def by(measurement):
    """A tree that estimates about nine tenths of a measurement, in steps of 0.01."""
    threshold, below, above, value = [], [], [], []
    for step in np.arange(0, 1, 0.01).tolist():
        node = len(value)  # a node that asks, and its leaf for lower values
        threshold += [step, 0.0]
        below += [node + 1, 0]
        above += [node + 2, 0]
        value += [0.0, target(0.9 * step)]
    parts = ([0] * (len(value) + 1), [*threshold, 0.0], [*below, 0], [*above, 0], [*value, target(0.9)])
    return TreeSum((measurement,), 0.0, (Tree(*map(tuple, parts)),))


@pytest.fixture
def judges(knowing):
    """Gives the quality network in the folder of models an estimator. It goes by one measurement of what
    the networks make; its interval is 0.05 to 0.95 by shape, and 0.1 to 0.99 by way of the networks."""

    def judge_by(measurement):
        network = copy.deepcopy(knowing)
        by_shape, by_networks = (Interval((0.5,), (low,), (high,)) for low, high in ((0.05, 0.95), (0.1, 0.99)))
        network.estimator = Estimator(by(measurement), by_shape, by_networks)
        checkpoint.save_model(Path("models/quality.safetensors"), network, {})

    return judge_by


def save(path, mask, vox2world=None):
    vox2world = make_head().vox2world if vox2world is None else vox2world
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), vox2world), path)


def run(line):
    return main(line.split())


def names(folder="."):
    """Files but the records of how outputs were made."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if ".singlestrip" not in path.parts)


def table(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def page(folder):
    html = Path(folder, "index.html").read_text(encoding="utf-8")
    start = html.index('<script type="application/json" id="data">')
    return json.loads(html[html.index(">", start) + 1 : html.index("</script", start)])


THREE = "qc -m good_mask.nii.gz speck_mask.nii.gz cut_mask.nii.gz"


# Scores


def test_a_single_mask(files, head, knowing, capsys):
    assert run("qc -m good_mask.nii.gz") == 0
    out, err = capsys.readouterr()
    expected = QualityModel(knowing).assess(head.mask, head.vox2world)
    volume = volume_ml(head.mask, head.vox2world)
    said = f"good  {expected.flag}  estimated Dice {expected.estimated_dice:.3f} (by mask), {volume:.0f} ml"
    assert out == f"{said}: {expected.reasons[0]}\n" if expected.reasons else f"{said}\n"
    assert err == ""
    assert 0.7 < expected.estimated_dice <= 1


def test_several_masks_come_worst_first(files, capsys):
    assert run(THREE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["speck", "cut", "good"]
    assert len({line.index("estimated Dice") for line in lines}) == 1  # one under the other
    scores = [float(line.split("estimated Dice ")[1].split()[0]) for line in lines]
    assert scores == sorted(scores) and scores[0] < scores[2] - 0.2


def test_the_model_can_be_named(files, capsys):
    """As a file, by its name in the folder of models, or not at all."""
    torch.manual_seed(1)
    checkpoint.save_model(Path("models/other.safetensors"), Autoencoder(CONFIG), {})
    said = []
    for option in ("", "--qc-model quality", "--qc-model models/quality.safetensors", "--qc-model other"):
        assert run(f"qc -m good_mask.nii.gz {option}") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] != said[3]


def test_thresholds(files, capsys):
    """The same mask passes, is to be looked at, or fails, as the thresholds lie about its estimate."""
    flags = []
    for thresholds in ((0.01, 0.01), (1, 0.01), (1, 1)):
        assert run("qc -m good_mask.nii.gz --pass-from {} --look-from {}".format(*thresholds)) == 0
        flags.append(capsys.readouterr().out.split()[1])
    assert flags == ["pass", "look", "fail"]


def test_pass_alone_takes_look_along(files, capsys):
    assert run("qc -m good_mask.nii.gz --pass-from 0") == 0
    assert capsys.readouterr().out.split()[1] == "pass"


def test_the_table_read_is_not_overwritten(files, capsys):
    Path("cases.tsv").write_text("mask\tsite\ngood_mask.nii.gz\tX\n")
    assert run("qc --table cases.tsv -o cases.tsv") == 1
    assert "cases.tsv" in capsys.readouterr().err and "site" in Path("cases.tsv").read_text()


def test_table_within_the_report(files):
    assert run("qc -m good_mask.nii.gz --report new -o new/q.tsv") == 0
    assert {"q.tsv", "index.html"} <= set(names("new"))


def test_a_table_of_tabs(files, head, capsys):
    assert run(f"{THREE} -o q.tsv") == 0
    rows = table("q.tsv")
    assert [row["mask"] for row in rows] == ["speck_mask.nii.gz", "cut_mask.nii.gz", "good_mask.nii.gz"]
    scores = [float(row["estimated_dice"]) for row in rows]
    assert scores == sorted(scores)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [row["flag"] for row in rows]
    assert float(rows[2]["volume_ml"]) == pytest.approx(volume_ml(head.mask, head.vox2world), abs=1e-3)
    assert {row["components"] for row in rows} == {"1"} and {row["border"] for row in rows} == {"0"}
    assert all(row[name] == "" for row in rows for name in ("image", "reference", "dice", "tta_dice", "note"))


def test_a_table_in_json(files):
    assert run("qc -m good_mask.nii.gz --out q.json") == 0
    one = json.loads(Path("q.json").read_text())
    assert one["mask"] == "good_mask.nii.gz" and 0.7 < one["estimated_dice"] <= 1 and len(one["slice_dice"]) > 5
    assert run(f"{THREE} -o q.json") == 0
    several = json.loads(Path("q.json").read_text())
    assert len(several) == 3 and several[2] == one


def test_a_report(files):
    assert run(f"{THREE} --image image.nii.gz image.nii.gz image.nii.gz --report a/report") == 0
    assert names("a/report") == [
        "index.html", "pictures/cut.png", "pictures/good.png", "pictures/speck.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in Path("a/report/pictures").iterdir())
    data = page("a/report")
    assert data["title"] == "report" and "3 masks" in data["about"]
    assert [scan["name"] for scan in data["scans"]] == ["speck", "cut", "good"]
    assert [scan["picture"] for scan in data["scans"]] == [f"pictures/{n}.png" for n in ("speck", "cut", "good")]


def test_an_image_shows_in_the_picture(files):
    assert run("qc -m good_mask.nii.gz --report plain") == 0
    assert run("qc -m good_mask.nii.gz -i image.nii.gz --report imaged -o q.tsv") == 0
    assert Path("plain/pictures/good.png").read_bytes() != Path("imaged/pictures/good.png").read_bytes()
    assert table("q.tsv")[0]["image"] == "image.nii.gz"


def test_qc_uses_what_there_is_and_says_so(files, judges, capsys):
    """A mask alone; with its image; with networks too, which see that half of the brain is missing."""
    judges("views")
    blind = threshold_cascade()
    with torch.no_grad():
        blind.segmenter.head.bias.fill_(-50)
    checkpoint.save_model(Path("blind.safetensors"), blind, {})
    rows = {}
    for name, line in {
        "mask": "good_mask.nii.gz",
        "image": "good_mask.nii.gz -i image.nii.gz --qc-model quality",
        "model": "good_mask.nii.gz -i image.nii.gz",
        "named": "good_mask.nii.gz -i image.nii.gz --qc-model quality --model singlestrip",
        "half": "cut_mask.nii.gz -i image.nii.gz",
        "blind": "good_mask.nii.gz -i image.nii.gz --model blind.safetensors",
    }.items():
        assert run(f"qc -m {line} -o q.tsv") == 0
        (rows[name],) = table("q.tsv")
        assert f"by {rows[name]['evidence']}), " in capsys.readouterr().out
    estimates = {name: float(row["estimated_dice"]) for name, row in rows.items()}
    assert estimates["mask"] == estimates["image"] == float(rows["mask"]["shape_dice"])
    assert estimates["model"] > 0.8 > 0.7 > estimates["half"] > 0.4
    assert rows["named"] == rows["model"] and float(rows["model"]["view_dice"]) > 0.7
    assert [rows[name]["evidence"] for name in rows] == ["mask", "image", "model", "model", "model", "image"]
    assert estimates["blind"] == estimates["image"] and rows["blind"]["view_dice"] == ""
    assert rows["blind"]["reasons"].startswith("the networks find no brain in the image")
    assert "than the mask of the networks" in rows["half"]["reasons"]
    intervals = {name: (row["estimate_low"], row["estimate_high"]) for name, row in rows.items()}
    assert intervals["mask"] == intervals["image"] == ("0.0500", "0.9500")
    assert intervals["model"] == intervals["half"] == ("0.1000", "0.9900")


def test_the_gravest_reason_is_printed(files, judges, capsys):
    judges("views")
    assert run("qc -m cut_mask.nii.gz -i image.nii.gz -o q.json") == 0
    reasons = json.loads(Path("q.json").read_text())["reasons"]
    line = capsys.readouterr().out
    assert "(0.100 to 0.990 by model), " in line and line.endswith(f" ml: {reasons[0]}\n")


def test_a_map_of_doubt(files, head, capsys):
    """On the grid of the image; strip makes the same map of its mask as qc does."""
    assert run("strip -i image.nii.gz -m m.nii.gz --doubt d.nii.gz") == 0
    assert run("qc -m m.nii.gz -i image.nii.gz --doubt again.nii.gz -o q.json -q") == 0
    assert capsys.readouterr() == ("", "")
    made, again = nib.load("d.nii.gz"), nib.load("again.nii.gz")
    doubt = np.asanyarray(made.dataobj)
    assert made.get_data_dtype() == np.float32 and made.shape == head.mask.shape
    assert (made.affine == nib.load("image.nii.gz").affine).all()
    assert 0 <= doubt.min() < 0.1 < doubt.max() <= 1 and np.array_equal(doubt, again.dataobj)
    record = json.loads(Path("q.json").read_text())
    assert len(record["slice_doubt"]) == head.mask.shape[2] and 0 < max(record["slice_doubt"]) <= 1
    assert run("qc -m cut_mask.nii.gz -i image.nii.gz --doubt cut.mgz -q") == 0
    cut = np.asanyarray(nib.load("cut.mgz").dataobj)
    assert cut[head.mask & ~np.asanyarray(nib.load("cut_mask.nii.gz").dataobj).astype(bool)].mean() > 0.5


def test_maps_of_frames_in_a_folder(files, head, capsys):
    """One for each mask; a resumed run keeps them unless another quality network is named."""
    Path("scans").mkdir()
    dark = head.image.copy()
    dark[:, 16:][head.mask[:, 16:]] = 20
    nib.save(nib.Nifti1Image(np.stack([head.image, dark], -1), head.vox2world), "scans/s.nii.gz")
    line = "strip -i scans/s.nii.gz --out-dir out --save mask doubt"
    assert run(line) == 0 and capsys.readouterr().out == ""
    assert names("out") == ["s_doubt.nii.gz", "s_mask.nii.gz"]
    first = Path("out/s_doubt.nii.gz").read_bytes()
    assert nib.load("out/s_doubt.nii.gz").shape == (*head.mask.shape, 2)
    assert run("qc -m out/s_mask.nii.gz -i scans/s.nii.gz --doubt again.nii.gz -q") == 0
    assert np.array_equal(nib.load("again.nii.gz").dataobj, nib.load("out/s_doubt.nii.gz").dataobj)
    assert run(f"{line} --resume") == 0 and Path("out/s_doubt.nii.gz").read_bytes() == first
    checkpoint.save_model(Path("other.safetensors"), other_network(), {})
    assert run(f"{line} --resume --qc-model other.safetensors") == 0
    assert "made with quality model default" in capsys.readouterr().err
    assert Path("out/s_doubt.nii.gz").read_bytes() != first
    assert run(f"{line} --mean-frame") == 0
    assert nib.load("out/s_doubt.nii.gz").shape == head.mask.shape


def test_a_pair_is_one_mask(files, head, capsys):
    for name, array in (("m.img", head.mask.astype(np.uint8)), ("i.img", head.image)):
        nib.save(nib.Nifti1Pair(array, head.vox2world), name)
    assert run("qc -m m.hdr m.img -i i.hdr i.img -o q.tsv") == 0
    assert [(row["mask"], row["image"]) for row in table("q.tsv")] == [("m.img", "i.img")]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_references(files, head, capsys):
    line = "qc -m cut_mask.nii.gz good_mask.nii.gz --reference good_mask.nii.gz good_mask.nii.gz -o q.tsv"
    assert run(line) == 0
    cut = head.mask.copy()
    cut[:, 16:] = False
    expected = dice(cut, head.mask)
    rows = {row["mask"]: row for row in table("q.tsv")}
    assert float(rows["cut_mask.nii.gz"]["dice"]) == pytest.approx(expected, abs=1e-4)
    assert rows["good_mask.nii.gz"]["dice"] == "1.0000" and rows["good_mask.nii.gz"]["hd95_mm"] == "0.0000"
    assert rows["cut_mask.nii.gz"]["reference"] == "good_mask.nii.gz"
    lines = capsys.readouterr().out.splitlines()
    assert f"true Dice {expected:.3f}" in lines[0] and "true Dice 1.000" in lines[1]


def test_cases_from_a_table(files, capsys):
    assert run(f"{THREE} -i image.nii.gz image.nii.gz image.nii.gz -o named.tsv") == 0
    said = capsys.readouterr().out
    Path("cases.tsv").write_text(
        "mask\timage\ngood_mask.nii.gz\timage.nii.gz\nspeck_mask.nii.gz\timage.nii.gz\ncut_mask.nii.gz\timage.nii.gz\n"
    )
    assert run("qc --table cases.tsv -o q.tsv") == 0
    assert capsys.readouterr().out == said
    assert Path("q.tsv").read_text() == Path("named.tsv").read_text()
    assert run("qc --table q.tsv -o again.tsv") == 0  # its own table is one too
    assert Path("again.tsv").read_text() == Path("named.tsv").read_text()


def test_augmentation(trained, capsys):
    assert run("qc -m good_mask.nii.gz -i image.nii.gz --tta -o q.tsv") == 0
    row = table("q.tsv")[0]
    assert 0.8 < float(row["tta_dice"]) <= 1 and 0.8 < float(row["tta_mask_dice"]) <= 1
    printed = float(capsys.readouterr().out.split("TTA Dice ")[1].split(",")[0])
    assert printed == pytest.approx(float(row["tta_dice"]), abs=0.00055)  # three digits, and four in the table
    scores = []
    for seed in (0, 7, 7):
        assert run(f"qc -m good_mask.nii.gz -i image.nii.gz --tta --seed {seed} -o q.tsv") == 0
        scores.append(table("q.tsv")[0])
    assert scores[0] == row and scores[1] == scores[2]
    assert scores[1]["tta_dice"] != row["tta_dice"] and scores[1]["estimated_dice"] == row["estimated_dice"]


def test_augmentation_with_a_model_of_ones_own(files, capsys, monkeypatch):
    torch.manual_seed(0)
    cascade = Cascade(tiny_cascade(8.0))
    checkpoint.save_model(Path("tiny.safetensors"), cascade, {})
    with torch.no_grad():
        for network in (cascade.locator, cascade.segmenter):
            network.head.weight.zero_()
            network.head.bias.fill_(-5)
    checkpoint.save_model(Path("blind.safetensors"), cascade, {})
    line = "qc -m good_mask.nii.gz -i image.nii.gz --tta -o q.tsv --qc-model quality"
    assert run(f"{line} --model tiny.safetensors") == 0
    assert 0 <= float(table("q.tsv")[0]["tta_dice"]) <= 1
    assert run(f"{line} --model blind.safetensors") == 0  # no copy has a brain
    assert table("q.tsv")[0]["tta_dice"] == "0.0000"
    before = names()
    assert run(f"{line} --model models/quality.safetensors") == 1
    assert "name one that strips heads" in capsys.readouterr().err
    monkeypatch.setattr(model_files, "shipped_folder", lambda: files / "empty")
    Path("models/singlestrip.safetensors").unlink()
    before.remove("models/singlestrip.safetensors")
    assert run(line) == 1  # no weights to strip with come with the phantom
    assert model_files.MODELS_VARIABLE in capsys.readouterr().err
    assert names() == before


def test_augmentation_without_an_image_in_the_table(trained, capsys):
    Path("cases.tsv").write_text("mask\timage\ngood_mask.nii.gz\timage.nii.gz\ncut_mask.nii.gz\t\n")
    assert run("qc --table cases.tsv --tta -o q.tsv") == 1
    rows = table("q.tsv")
    assert [row["mask"] for row in rows] == ["cut_mask.nii.gz", "good_mask.nii.gz"]
    assert "cut_mask.nii.gz" in rows[0]["note"] and "image" in rows[0]["note"] and rows[0]["estimated_dice"] == ""
    assert rows[1]["tta_dice"] and not rows[1]["note"]
    assert capsys.readouterr().err == f"singlestrip: {rows[0]['note']}\n"


# Failures


def test_a_broken_mask_does_not_stop_the_others(files, capsys):
    Path("broken.nii.gz").write_bytes(Path("good_mask.nii.gz").read_bytes()[:300])
    assert run("qc -m good_mask.nii.gz broken.nii.gz cut_mask.nii.gz -o q.tsv --report report") == 1
    out, err = capsys.readouterr()
    assert out.split()[:2] == ["broken", "fail"]
    assert [line.split()[0] for line in out.splitlines()] == ["broken", "cut", "good"]
    assert len(err.splitlines()) == 1 and "broken.nii.gz" in err
    rows = table("q.tsv")
    assert [bool(row["note"]) for row in rows] == [True, False, False]
    assert [row["estimated_dice"] != "" for row in rows] == [False, True, True]
    assert [scan["picture"] is None for scan in page("report")["scans"]] == [True, False, False]
    assert err == f"singlestrip: {rows[0]['note']}\n"


def test_a_mask_named_again_is_scored_once_but_with_another_reference_again(files, capsys):
    line = "qc -m good_mask.nii.gz good_mask.nii.gz ./good_mask.nii.gz --reference"
    assert run(f"{line} cut_mask.nii.gz good_mask.nii.gz cut_mask.nii.gz -o q.tsv --report report") == 0
    out, err = capsys.readouterr()
    assert sorted(text.split()[0] for text in out.splitlines()) == ["good", "good-2"]
    assert err == "singlestrip: good_mask.nii.gz: named more than once; it is taken once\n"
    assert {row["reference"]: row["dice"] == "1.0000" for row in table("q.tsv")} == {
        "cut_mask.nii.gz": False,
        "good_mask.nii.gz": True,
    }
    assert len({scan["picture"] for scan in page("report")["scans"]}) == 2


def test_quiet_says_nothing_but_errors(files, capsys):
    assert run(f"{THREE} -o q.tsv --report report -q") == 0
    assert capsys.readouterr() == ("", "")
    assert len(table("q.tsv")) == 3
    assert run("qc -m gone.nii.gz good_mask.nii.gz --quiet") == 1
    out, err = capsys.readouterr()
    assert out == "" and "gone.nii.gz" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-m good_mask.nii.gz -o good_mask.nii.gz", "good_mask.nii.gz: is an input"),
        ("-m good_mask.nii.gz -i image.nii.gz -o image.nii.gz", "image.nii.gz: is an input"),
        ("-m good_mask.nii.gz --reference cut_mask.nii.gz -o models/../cut_mask.nii.gz", "is an input"),
        ("-m good_mask.nii.gz --doubt good_mask.nii.gz", "good_mask.nii.gz: is an input"),
        ("-m good_mask.nii.gz --doubt d.txt", "name outputs with one of"),
        ("-m good_mask.nii.gz -o q.csv", r".tsv or .json"),
        ("-m good_mask.nii.gz -o no/q.tsv", "does not exist"),
        ("-m good_mask.nii.gz --report image.nii.gz", "cannot be made"),
        ("-m good_mask.nii.gz --qc-model gone", "gone"),
        ("-m good_mask.nii.gz --qc-model image.nii.gz", "image.nii.gz"),
        ("-m good_mask.nii.gz --model gone", "gone"),
        ("-m good_mask.nii.gz --model models/quality.safetensors", "name one that strips heads"),
        ("--table gone.tsv", "gone.tsv"),
        ("--table image.nii.gz", "image.nii.gz"),
    ],
)
def test_failures_are_one_line(line, part, files, capsys):
    before = {name: Path(name).read_bytes() for name in names()}
    assert run(f"qc {line}") == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith("singlestrip: ") and part in err and "unexpected" not in err
    assert {name: Path(name).read_bytes() for name in names()} == before


def test_a_cascade_is_no_quality_model(files, capsys):
    checkpoint.save_model(Path("tiny.safetensors"), Cascade(tiny_cascade(8.0)), {})
    assert run("qc -m good_mask.nii.gz --qc-model tiny.safetensors") == 1
    assert "name one that estimates the quality of masks" in capsys.readouterr().err


def other_network() -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(CONFIG)


@pytest.fixture
def own(files):
    """own.safetensors: a cascade with a quality network. bare.safetensors: one without. other.safetensors: the
    quality network alone."""
    cascade = threshold_cascade()
    part = checkpoint.QualityPart(other_network(), {})
    checkpoint.save_model(Path("own.safetensors"), cascade, {}, quality=part)
    checkpoint.save_model(Path("bare.safetensors"), cascade, {})
    checkpoint.save_model(Path("other.safetensors"), part.model, {})
    checkpoint.save_model(Path("models/singlestrip.safetensors"), cascade, {"made": "as shipped"})


REMARK = (
    "singlestrip: bare.safetensors: holds no quality network; the one for adult human brains estimates the "
    "quality of its masks\n"
)


def test_qc_takes_the_quality_network_of_a_model(own, capsys):
    def said(options):
        assert run(f"qc -m good_mask.nii.gz --report report {options}") == 0
        named = Path("report/index.html").read_text().split("Quality model: ")[1].split(". 1 masks")[0]
        return *capsys.readouterr(), named

    shipped, other = said(""), said("--qc-model other.safetensors")
    assert shipped[0] != other[0] and shipped[1] == other[1] == ""
    assert (shipped[2], other[2]) == ("shipped", "other.safetensors")
    for option in ("--model", "--qc-model"):
        assert said(f"{option} own.safetensors") == (other[0], "", "own.safetensors")
    assert said("--model bare.safetensors") == (shipped[0], REMARK, "shipped")
    assert said("--model singlestrip") == shipped
    assert run("qc -m good_mask.nii.gz --qc-model bare.safetensors") == 1
    assert "bare.safetensors: holds no quality network" in capsys.readouterr().err


def test_qc_with_augmentation_takes_both_networks_of_a_model(own, capsys):
    line = "qc -m good_mask.nii.gz -i image.nii.gz --tta"
    rows = []
    for options in ("", "--model own.safetensors", "--model own.safetensors --qc-model quality"):
        assert run(f"{line} -o q.tsv {options}") == 0
        rows.append(table("q.tsv")[0])
    assert rows[0] == rows[2] != rows[1]
    assert rows[1]["tta_dice"] == rows[0]["tta_dice"]
    assert capsys.readouterr().err == ""


def test_strip_takes_the_quality_network_of_its_model(own, capsys):
    def said(options):
        assert run(f"strip -i image.nii.gz -m m.nii.gz --qc {options}") == 0
        return capsys.readouterr()

    shipped, other = said(""), said("--qc-model other.safetensors")
    assert shipped.out != other.out and shipped.err == other.err == ""
    assert said("--model own.safetensors") == other
    assert said("--model own.safetensors --qc-model quality") == shipped
    assert said("--model singlestrip") == shipped
    assert said("--model bare.safetensors") == (shipped.out, REMARK)
    assert said("--model bare.safetensors --qc-model other.safetensors") == other
    assert run("strip -i image.nii.gz -m m.nii.gz --model bare.safetensors") == 0
    assert capsys.readouterr() == ("", "")


def test_debug_shows_where_an_error_came_from(files):
    with pytest.raises(SingleStripError, match=r"gone\.nii\.gz"):
        run("qc -m good_mask.nii.gz gone.nii.gz --debug")


def test_an_empty_mask_is_a_fail_and_no_error(files, capsys):
    save("empty.nii.gz", np.zeros((8, 8, 8)))
    assert run("qc -m empty.nii.gz -o q.json --report report") == 0
    said = capsys.readouterr().out
    assert said == "empty  fail  estimated Dice 0.000 (0.000 to 0.000 by mask), 0 ml: empty\n"
    assert json.loads(Path("q.json").read_text())["estimated_hd95_mm"] is None


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("", "name a mask"),
        ("-o q.tsv", "name a mask"),
        ("-m good_mask.nii.gz cut_mask.nii.gz --doubt d.nii.gz", "--doubt goes with one mask"),
        ("-m good_mask.nii.gz --model m --qc-model quality", "--model beside --qc-model needs the image"),
        ("-m good_mask.nii.gz --seed 0", "--tta"),
        ("-m good_mask.nii.gz --bval b.bval", "--bval is about the image of the mask"),
        ("-m good_mask.nii.gz --centre 1 2 3", "--centre is about the image of the mask"),
        ("-m good_mask.nii.gz -i image.nii.gz --b0-limit 5", "--b0-limit goes with --bval"),
        ("-m good_mask.nii.gz cut_mask.nii.gz -i image.nii.gz image.nii.gz --bval b.bval", "--bval goes with one"),
        ("-m good_mask.nii.gz --tta", "--tta needs the image"),
        ("-m good_mask.nii.gz cut_mask.nii.gz -i image.nii.gz", "2 masks and 1"),
        ("-m good_mask.nii.gz --reference good_mask.nii.gz cut_mask.nii.gz", "1 masks and 2"),
        ("-m good_mask.nii.gz --table cases.tsv", "--table"),
        ("--table cases.tsv -i image.nii.gz", "--table"),
        ("--table cases.tsv --reference good_mask.nii.gz", "--table"),
        ("-m good_mask.nii.gz --seed -1", "--seed"),
        ("-m good_mask.nii.gz --look-from 0.99", "--look-from lies above"),
    ],
)
def test_wrong_command_lines(line, part, files, capsys):
    assert_refused(f"qc {line}", part, capsys)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("train-qc -m good_mask.nii.gz", "required: -o/--out"),
        ("train-qc -o m.safetensors", "required: -m/--mask"),
        ("train-qc -o m.safetensors -m good_mask.nii.gz --epochs 0", "--epochs"),
        ("train-qc -o m.safetensors -m good_mask.nii.gz --axes axial", "--axes goes with --kind slices"),
        ("train-qc -o m.safetensors -m good_mask.nii.gz --kind volume --axes axial", "--axes goes with --kind"),
        ("train-qc -o m.safetensors -m good_mask.nii.gz --kind slices --axes up", "--axes"),
        ("train-qc -o m.safetensors -m good_mask.nii.gz --kind flat", "--kind"),
        ("train-qc -o m.pt -m good_mask.nii.gz", ".safetensors"),
        ("calibrate-qc --qc-model m.safetensors -m good_mask.nii.gz", "required: -i/--image"),
        ("calibrate-qc --qc-model m.safetensors -m good_mask.nii.gz -i image.nii.gz --images 0", "--images"),
    ],
)
def test_wrong_command_lines_of_training(line, part, files, capsys):
    assert_refused(line, part, capsys)


def assert_refused(line, part, capsys):
    """The command line is wrong: a sentence behind the usage says why, and no file is left."""
    before = names()
    with pytest.raises(SystemExit) as stop:
        run(line)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    usage, sentence = err.splitlines()
    assert out == "" and usage.startswith(f"usage: singlestrip {line.split()[0]}")
    assert sentence.startswith("singlestrip: ") and part in sentence
    assert names() == before


def test_b_values_and_a_centre_say_how_the_image_is_seen(trained, head, monkeypatch):
    """The mask is judged by the mean of the frames up to the limit, with the window where a person puts it."""
    seen = []
    judge = assess.judge_masks

    def judge_masks(quality, masks, vox2world, frames, fields):
        seen.append((frames, fields.centre_mm))
        return judge(quality, masks, vox2world, frames, fields)

    monkeypatch.setattr(assess, "judge_masks", judge_masks)
    series = np.stack([head.image, 0 * head.image, head.image + 2], -1)
    nib.save(nib.Nifti1Image(series, head.vox2world), "dwi.nii.gz")
    Path("dwi.bval").write_text("0 1000 80")
    for options, mean in (("", head.image), (" --b0-limit 100 --centre 0 1 2.5", head.image + 1)):
        assert run(f"qc -m good_mask.nii.gz -i dwi.nii.gz --bval dwi.bval{options} -q") == 0
        ((frame,), centre_mm) = seen.pop()
        np.testing.assert_allclose(frame.array, mean, atol=1e-3)
        assert centre_mm == ([0, 1, 2.5] if options else None)
    copied = []
    monkeypatch.setattr(
        assess,
        "augmented_masks",
        lambda stripper, scan, seed, centre_mm: copied.append((scan, centre_mm)) or head.mask[None],
    )
    options = "--b0-limit 100 --centre 0 1 2.5 --tta -q"
    assert run(f"qc -m good_mask.nii.gz -i dwi.nii.gz --bval dwi.bval {options}") == 0
    ((scan, centre_mm),) = copied
    np.testing.assert_allclose(scan.array, head.image + 1, atol=1e-3)
    assert centre_mm == [0, 1, 2.5]
    save("each_mask.nii.gz", np.stack([head.mask] * 3, -1))
    assert run("qc -m each_mask.nii.gz -i dwi.nii.gz --bval dwi.bval -o q.json") == 1
    assert "b-values are for one mask of all frames" in json.loads(Path("q.json").read_text())["note"]


def test_a_centre_outside_the_image_is_said_so(trained, capsys):
    assert run("qc -m good_mask.nii.gz -i image.nii.gz --centre 900 0 0") == 1
    assert "image.nii.gz: the centre (900, 0, 0 mm) lies outside" in capsys.readouterr().err


# Training


@pytest.fixture
def brief(monkeypatch):
    """Training of one step an epoch."""
    monkeypatch.setattr(
        train_qc, "AutoencoderTrainConfig", partial(AutoencoderTrainConfig, batch=2, masks_per_epoch=2)
    )


@pytest.fixture
def small(brief, monkeypatch):
    """A small network whatever the brain."""
    monkeypatch.setattr(AutoencoderConfig, "fitting", staticmethod(lambda *args: CONFIG))


def weights(name):
    return checkpoint.load_model(Path(name), kind=Autoencoder)[0].state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_train_writes_a_model(files, brief, capsys):
    line = "train-qc -m good_mask.nii.gz -o m.safetensors --epochs 1"
    assert run(line) == 0
    assert capsys.readouterr() == ("", "")
    model, header = checkpoint.load_model(Path("m.safetensors"), kind=Autoencoder)
    # The phantom's brain is 19 voxels of 6 mm long at most: 4 mm · 114 / 165.
    where = np.argwhere(nib.load("good_mask.nii.gz").get_fdata() > 0)
    length = float((where.max(0) - where.min(0) + 1).max() * 6)
    assert model.config == AutoencoderConfig.fitting(length)
    assert 0.5 < model.config.scale < 0.8
    provenance = header["provenance"]
    assert provenance["labelled"][0]["mask"]["name"] == "good_mask.nii.gz"
    assert (provenance["configuration"]["epochs"], provenance["configuration"]["seed"]) == (1, 0)
    assert set(provenance["versions"]) == {"singlestrip", "torch"}
    assert run("qc -m good_mask.nii.gz --qc-model m.safetensors -o q.tsv") == 0
    assert 0 <= float(table("q.tsv")[0]["estimated_dice"]) <= 1


def test_the_seed_and_the_epochs_decide_the_model(files, small):
    for name, options in (("a", ""), ("b", "--seed 0"), ("c", "--seed 4"), ("d", "--seed 4"), ("e", "--epochs 2")):
        options = options if "--epochs" in options else f"{options} --epochs 1"
        assert run(f"train-qc -m good_mask.nii.gz -o {name}.safetensors {options}") == 0
    a, b, c, d, e = (weights(f"{name}.safetensors") for name in "abcde")
    assert same(a, b) and same(c, d)
    assert not same(a, c) and not same(a, e)
    assert describe_model(Path("c.safetensors"), AUTOENCODER)["provenance"]["configuration"]["seed"] == 4


def test_train_on_another_mask(files, small):
    """Half the brain is another model; the same file under another name is not."""
    Path("copy.nii.gz").write_bytes(Path("good_mask.nii.gz").read_bytes())
    for name, mask in (("a", "good_mask"), ("b", "copy"), ("c", "cut_mask")):
        assert run(f"train-qc -m {mask}.nii.gz -o {name}.safetensors --epochs 1") == 0
    a, b, c = (weights(f"{name}.safetensors") for name in "abc")
    assert same(a, b) and not same(a, c)


@pytest.mark.parametrize("kind", ["volume", "slices"])
@pytest.mark.parametrize(("what", "why"), [("empty", "the mask is empty"), ("speck", "the mask is too thin")])
def test_masks_that_teach_nothing_are_named(what, why, kind, files, brief, capsys):
    """Within an image of 0.25 mm: no voxel, or one in every other slice."""
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[30, 30, ::2] = what == "speck"
    save(f"{what}.nii.gz", mask, np.diag([0.25] * 3 + [1]))
    before = names()
    assert run(f"train-qc -m {what}.nii.gz -o m.safetensors --epochs 1 --kind {kind}") == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"singlestrip: {what}.nii.gz: {why}")
    assert names() == before


def test_train_the_published_network(files, capsys, monkeypatch):
    """Its axes are those asked for; the slices of all of them are learnt from."""
    small = AutoencoderConfig("slices", 6.0, 32, (2,), SLICE_LAYERS, dropout=0.2)
    asked = []

    def fitting(brain_mm, kind="volume", axes=(2,)):
        asked.append((kind, axes))
        return AutoencoderConfig(kind, small.voxel_size_mm, small.size, axes, SLICE_LAYERS, small.dropout)

    monkeypatch.setattr(AutoencoderConfig, "fitting", staticmethod(fitting))
    line = "train-qc -m good_mask.nii.gz --epochs 1 --kind slices -o"
    assert run(f"{line} two.safetensors --axes axial coronal") == 0
    assert run(f"{line} one.safetensors") == 0
    assert asked == [("slices", (2, 1)), ("slices", (2,))]
    two, one = (checkpoint.load_model(Path(f"{n}.safetensors"), kind=Autoencoder)[0] for n in ("two", "one"))
    assert (two.config.kind, two.config.axes, two.config.dropout) == ("slices", (2, 1), 0.2)
    assert one.config.axes == (2,)
    assert not same(two.state_dict(), one.state_dict())
    assert run("qc -m good_mask.nii.gz --qc-model two.safetensors") == 0
    assert "estimated Dice" in capsys.readouterr().out


def test_train_with_the_published_layers(files, brief):
    """The network of the paper: 128² slices of 2 mm for an adult; a mask of one slice trains in no time."""
    flat = np.zeros((32, 32, 1), dtype=bool)
    flat[8:24, 8:24] = True
    save("flat.nii.gz", flat, np.diag([6.0, 6, 2, 1]))
    assert run("train-qc -m flat.nii.gz --epochs 1 --kind slices -o m.safetensors") == 0
    model, _ = checkpoint.load_model(Path("m.safetensors"), kind=Autoencoder)
    assert model.config == AutoencoderConfig.fitting(96, "slices", (2,))
    assert model.config.size == 128


def test_quiet_training(files, small, capsys):
    assert run("train-qc -m good_mask.nii.gz -o m.safetensors --epochs 1 -q") == 0
    assert capsys.readouterr() == ("", "")


# strip --qc


def test_strip_prints_the_flag_of_its_mask(trained, head, knowing, capsys):
    assert run("strip -i image.nii.gz -m m.nii.gz --qc") == 0
    out, err = capsys.readouterr()
    mask = np.asanyarray(nib.load("m.nii.gz").dataobj) > 0
    expected = QualityModel(knowing).assess(mask, head.vox2world)
    assert out == f"image.nii.gz: {expected.flag}, estimated Dice {expected.estimated_dice:.3f}\n"
    assert err == "" and "qc.tsv" not in names()
    assert run("strip -i image.nii.gz -o brain.nii.gz --qc -q") == 0
    assert capsys.readouterr() == ("", "")
    assert run("strip -i image.nii.gz -m plain.nii.gz") == 0
    assert capsys.readouterr() == ("", "")
    assert Path("plain.nii.gz").read_bytes()[10:] == Path("m.nii.gz").read_bytes()[10:]


def test_strip_with_a_quality_model_of_ones_own(trained, capsys, monkeypatch):
    torch.manual_seed(1)
    checkpoint.save_model(Path("other.safetensors"), Autoencoder(CONFIG), {})
    said = []
    for option in ("", "--qc-model quality", "--qc-model other.safetensors"):
        assert run(f"strip -i image.nii.gz -m m.nii.gz --qc {option}") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    Path("models/quality.safetensors").unlink()
    monkeypatch.setattr(model_files, "shipped_folder", lambda: Path("empty"))
    Path("m.nii.gz").unlink()
    assert run("strip -i image.nii.gz -m m.nii.gz --qc") == 1
    assert "quality.safetensors" in capsys.readouterr().err and "m.nii.gz" not in names()


@pytest.fixture
def scans(trained, head):
    """whole.nii.gz, half.nii.gz, whose brain is cut by the field of view, and broken.nii.gz in scans/."""
    Path("scans").mkdir()
    nib.save(nib.Nifti1Image(head.image, head.vox2world), "scans/whole.nii.gz")
    dark = head.image.copy()
    dark[:, 16:][head.mask[:, 16:]] = 20
    nib.save(nib.Nifti1Image(dark, head.vox2world), "scans/half.nii.gz")
    Path("scans/broken.nii.gz").write_bytes(Path("scans/whole.nii.gz").read_bytes()[:3000])


def test_strip_writes_a_table_worst_first(scans, capsys):
    line = "strip -i scans/whole.nii.gz scans/broken.nii.gz scans/half.nii.gz --out-dir out --save mask --qc"
    assert run(line) == 1
    out, err = capsys.readouterr()
    rows = table("out/qc.tsv")
    assert [Path(row["image"]).name for row in rows] == ["broken.nii.gz", "half.nii.gz", "whole.nii.gz"]
    assert [row["mask"] for row in rows[1:]] == ["out/half_mask.nii.gz", "out/whole_mask.nii.gz"]
    assert rows[0]["flag"] == "fail" and "broken.nii.gz" in rows[0]["note"] and rows[0]["estimated_dice"] == ""
    assert float(rows[1]["estimated_dice"]) < float(rows[2]["estimated_dice"]) - 0.03
    said = {line.split(": ")[0]: line.split(": ")[1] for line in out.splitlines()}
    for row in rows[1:]:
        flag, _, number = said[row["image"]].partition(", estimated Dice ")
        assert flag == row["flag"] and float(number) == pytest.approx(float(row["estimated_dice"]), abs=6e-4)
    assert len(said) == 2 and "1 of 3" in err
    assert run("qc --table out/qc.tsv -q -o again.tsv") == 1  # it names images and masks
    again = table("again.tsv")
    assert [row["estimated_dice"] for row in again] == [row["estimated_dice"] for row in rows]


def test_resume_scores_kept_masks_too(scans):
    line = "strip -i scans/whole.nii.gz scans/half.nii.gz --out-dir out --save mask"
    assert run(line) == 0
    assert "qc.tsv" not in names("out")
    before = {name: Path("out", name).stat().st_mtime_ns for name in names("out")}
    assert run(f"{line} --qc --resume") == 0
    assert {name: Path("out", name).stat().st_mtime_ns for name in before} == before
    kept = Path("out/qc.tsv").read_text()
    Path("out/half_mask.nii.gz").unlink()
    assert run(f"{line} --qc --resume") == 0
    assert Path("out/qc.tsv").read_text() == kept
    assert run(f"{line} --qc") == 0
    assert Path("out/qc.tsv").read_text() == kept
    assert len(table("out/qc.tsv")) == 2 and all(row["estimated_dice"] for row in table("out/qc.tsv"))


def test_the_table_grows_with_the_folder(scans):
    """A second batch into the same folder adds its rows; the worst still come first."""
    assert run("strip -i scans/whole.nii.gz --out-dir out --save mask --qc") == 0
    assert run("strip -i scans/half.nii.gz --out-dir out --save mask --qc") == 0
    assert [Path(row["image"]).name for row in table("out/qc.tsv")] == ["half.nii.gz", "whole.nii.gz"]


def test_parts_write_tables_of_their_own(scans, capsys):
    """Gathered they are the table of one process, and tell why scans have no mask."""
    line = "strip -i scans/whole.nii.gz scans/broken.nii.gz scans/half.nii.gz --out-dir out --save mask --qc"
    assert run(line) == 1
    expected = table("out/qc.tsv")
    Path("out/qc.tsv").unlink()
    assert [run(f"{line} --shard {number}/2") for number in (1, 2)] == [0, 1]
    assert [name for name in names("out") if name.startswith("qc")] == ["qc-1-of-2.tsv", "qc-2-of-2.tsv"]
    capsys.readouterr()
    assert run("qc --table out/qc-1-of-2.tsv out/qc-2-of-2.tsv -o all.tsv --report page -q") == 1
    assert table("all.tsv") == expected
    assert capsys.readouterr().err == f"singlestrip: {expected[0]['note']}\n"
    assert "broken.nii.gz: the voxel data are damaged" in expected[0]["note"]
    assert "broken.nii.gz: the voxel data are damaged" in Path("page/index.html").read_text()


def test_a_note_ends_when_the_mask_is_there(scans):
    line = "strip -i scans/broken.nii.gz scans/whole.nii.gz --out-dir out --save mask --qc"
    assert run(line) == 1
    Path("out/broken_mask.nii.gz").write_bytes(Path("out/whole_mask.nii.gz").read_bytes())
    Path("scans/broken.nii.gz").write_bytes(Path("scans/whole.nii.gz").read_bytes())
    assert run("qc --table out/qc.tsv -o all.tsv") == 0
    assert [row["note"] for row in table("all.tsv")] == ["", ""]


def test_thresholds_of_strip(scans, capsys):
    line = "strip -i scans/whole.nii.gz -m m.nii.gz --qc"
    for extra, flag in (("--pass-from 0", "pass"), ("--pass-from 1 --look-from 1", "fail")):
        assert run(f"{line} {extra}") == 0
        assert f": {flag}, " in capsys.readouterr().out
    for wrong in ("--pass-from 1.5 --qc", "--pass-from 0.9", "--qc --resume -o b.nii.gz"):
        with pytest.raises(SystemExit):
            run(f"strip -i scans/whole.nii.gz {wrong}" + (" -m m.nii.gz" if "-o" not in wrong else ""))


def test_a_kept_mask_is_scored_as_it_is(scans, head):
    """Not as the stripper would have it."""
    line = "strip -i scans/whole.nii.gz scans/half.nii.gz --out-dir out --save mask --qc"
    assert run(line) == 0
    first = {row["image"]: row for row in table("out/qc.tsv")}
    save("out/whole_mask.nii.gz", np.zeros_like(head.mask))
    assert run(f"{line} --resume") == 0
    second = {row["image"]: row for row in table("out/qc.tsv")}
    assert second["scans/half.nii.gz"] == first["scans/half.nii.gz"]
    assert second["scans/whole.nii.gz"]["estimated_dice"] == "0.0000"
    assert first["scans/whole.nii.gz"]["estimated_dice"] != "0.0000"


def test_of_several_frames_the_worst_counts(trained, head, capsys):
    dark = head.image.copy()
    dark[:, 16:][head.mask[:, 16:]] = 20
    for name, frames in (("both", (head.image, dark)), ("dark", (dark,)), ("plain", (head.image,))):
        nib.save(nib.Nifti1Image(np.stack(frames, -1), head.vox2world), f"{name}.nii.gz")
        assert run(f"strip -i {name}.nii.gz -m m.nii.gz --qc") == 0
    both, dark_one, plain = (line.split(": ")[1] for line in capsys.readouterr().out.splitlines())
    assert both == dark_one != plain


def test_what_strip_says_of_frames_qc_says_too(trained, head, capsys):
    """Of the masks of each frame, of one for all, and of those that a resumed run keeps."""
    dark = head.image.copy()
    dark[:, 16:][head.mask[:, 16:]] = 20
    Path("scans").mkdir()
    nib.save(nib.Nifti1Image(np.stack([head.image, dark, head.image], -1), head.vox2world), "scans/series.nii.gz")
    for option, frame in (("", "1"), ("--mean-frame", "")):
        line = f"strip -i scans/series.nii.gz --out-dir out{option} --save mask --qc {option}"
        assert run(line) == 0
        (row,) = table(f"out{option}/qc.tsv")
        assert row["frame"] == frame and row["note"] == "" and row["estimated_dice"]
        assert run(f"{line} --resume") == 0
        assert table(f"out{option}/qc.tsv") == [row]
        assert run(f"qc --table out{option}/qc.tsv -o again.tsv --report page{option}") == 0
        assert table("again.tsv") == [row]
        assert Path(f"page{option}/pictures/series.png").read_bytes().startswith(PNG)
        assert run(f"qc -m out{option}/series_mask.nii.gz -i scans/series.nii.gz --tta -o again.tsv") == 0
        (again,) = table("again.tsv")
        assert again["tta_dice"] and again | {"tta_dice": "", "tta_mask_dice": ""} == row
        assert f"(by mask, frame {frame})" in capsys.readouterr().out or not frame


def test_the_networks_judge_frames_alike_in_strip_and_qc(trained, judges, head):
    """When the masks are made, when they are kept, and from the table: of each frame, and of the mean of all."""
    judges("own_shape_dice")
    dark = head.image.copy()
    dark[:, 16:][head.mask[:, 16:]] = 20
    nib.save(nib.Nifti1Image(np.stack([head.image, dark, head.image], -1), head.vox2world), "series.nii.gz")
    for option, frame in (("", "1"), ("--mean-frame", "")):
        line = f"strip -i series.nii.gz --out-dir out{option} --save mask --qc {option}"
        assert run(line) == 0
        (row,) = table(f"out{option}/qc.tsv")
        assert (row["frame"], row["evidence"]) == (frame, "model") and row["view_dice"]
        assert run(f"{line} --resume") == 0
        assert table(f"out{option}/qc.tsv") == [row]
        assert run(f"qc --table out{option}/qc.tsv -o again.tsv") == 0
        assert table("again.tsv") == [row]


def test_a_soft_mask_is_said(files, small, head, capsys):
    save("soft.nii.gz", np.round(gaussian_filter(head.mask.astype(float), 1) * 100))
    for line in (
        "qc -m soft.nii.gz",
        "qc -m good_mask.nii.gz --reference soft.nii.gz",
        "train-qc -m soft.nii.gz -o m.safetensors --epochs 1",
    ):
        assert run(line) == 0
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("singlestrip: soft.nii.gz: ") and "soft mask" in said
    assert run("qc -m soft.nii.gz -q") == 0 and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-m m.nii.gz --qc-model quality", "--qc-model goes with --qc or --doubt"),
        ("--doubt d.nii.gz --pass-from 0.5", "--pass-from goes with --qc"),
        ("--out-dir out --doubt d.nii.gz", "with --out-dir use --save"),
        ("--out-dir out --save brain --qc", "--qc needs the mask"),
        ("--out-dir out --save brain sdt picture --qc", "--qc needs the mask"),
    ],
)
def test_wrong_command_lines_of_strip(line, part, trained, capsys):
    before = names()
    with pytest.raises(SystemExit) as stop:
        run(f"strip -i image.nii.gz {line}")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    usage, sentence = err.splitlines()
    assert out == "" and usage.startswith("usage: singlestrip strip")
    assert sentence.startswith("singlestrip: ") and part in sentence
    assert names() == before


def test_qc_in_a_folder_with_the_default_outputs(scans):
    assert run("strip -i scans/whole.nii.gz --out-dir out --qc") == 0
    assert names("out") == ["qc.tsv", "whole_brain.nii.gz", "whole_mask.nii.gz"]


def test_calibration_of_the_quality_network(trained, capsys):
    """Before it the estimate is by shape whatever there is; after it the networks judge, as the file tells."""
    line = "qc -m good_mask.nii.gz -i image.nii.gz -o q.json -q"
    assert run(line) == 0
    assert json.loads(Path("q.json").read_text())["evidence"] == "mask"
    checkpoint.save_model(Path("models/singlestrip.safetensors"), threshold_cascade(), {})
    assert (
        run(
            "calibrate-qc -i image.nii.gz -m good_mask.nii.gz --qc-model models/quality.safetensors --images 20 -q"
        )
        == 0
    )
    assert run(line) == 0
    assert capsys.readouterr().out == ""
    record = json.loads(Path("q.json").read_text())
    assert record["evidence"] == "model" and 0 <= record["estimate_low"] <= record["estimated_dice"]
    _, header = checkpoint.load_model(Path("models/quality.safetensors"), kind=Autoencoder)
    told = header["provenance"]["estimator"]
    assert told["labelled"]["mask"]["name"] == "good_mask.nii.gz" and told["cases"]["images"] == 20
    before = Path("models/quality.safetensors").read_bytes()
    assert (
        run("calibrate-qc -i image.nii.gz -m good_mask.nii.gz --qc-model models/quality.safetensors --images 1")
        == 1
    )
    assert "too few to calibrate by" in capsys.readouterr().err
    assert Path("models/quality.safetensors").read_bytes() == before
