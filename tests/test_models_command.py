"""singlestrip models: the table, pages and JSON of model files, and the cards beside them."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from phantoms import class_cascade, tiny_cascade
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, TargetClass
from singlestrip.errors import ModelError
from singlestrip.networks import checkpoint, model_files, model_header
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_card import read_card
from singlestrip.networks.model_description import describe_model

MODELS = Path(__file__).parents[1] / "models"
CARD = {
    "anatomy": "mouse head",
    "learned_from": "one T2w scan and its mask",
    "source": "a colony",
    "licence": "CC0-1.0",
    "date": "2024-02-29",
    "version": "2",
    "scores": [
        {"data": "mice", "contrast": "T2w", "scans": 4, "dice": 0.951, "hd95_mm": 0.31},
        {"data": "rats", "scans": 2, "dice": 0.8},
    ],
    "intended_use": "Research.",
    "limits": ["No tumours.", "No newborns."],
}
PROVENANCE = {"labelled": [{"image": {"name": "m1.nii.gz"}, "mask": {"name": "m1_mask.nii.gz"}}]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of models. The only model is `mouse`, of 8 mm and without a card; none comes with the program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(model_files, "shipped_folder", lambda: tmp_path / "box")
    (tmp_path / "models").mkdir()
    checkpoint.save_model(Path("models/mouse.safetensors"), Cascade(tiny_cascade(8.0)), PROVENANCE)
    os.utime("models/mouse.safetensors", (1e9, 1e9))
    return tmp_path / "models"


def write_card(path, **changes) -> None:
    Path(path).write_text(json.dumps(CARD | changes), encoding="utf-8")


def listed(capsys, *arguments: str) -> list[dict]:
    """What --json prints."""
    main(["models", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def cells(capsys) -> dict[str, dict[str, str]]:
    """The table, by model and column."""
    assert main(["models"]) == 0
    header, *rows = (re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines())
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


# What is shown


def test_a_model_without_a_card_is_shown_by_its_header(folder, capsys):
    assert cells(capsys)["mouse"] == {
        "model": "mouse", "does": "strip", "anatomy": "-", "learned from": "m1.nii.gz", "voxel": "8",
        "date": "2001-09-09", "MB": f"{(folder / 'mouse.safetensors').stat().st_size / 1e6:.1f}", "licence": "-",
        "Dice": "-",
    }  # fmt: skip


def test_a_card_says_what_the_header_does_not(folder, capsys):
    write_card("models/mouse.json")
    row = cells(capsys)["mouse"]
    shown = {name: row[name] for name in ("anatomy", "learned from", "date", "licence", "Dice", "voxel")}
    assert list(shown.values()) == [
        "mouse head", "one T2w scan and its mask", "2024-02-29", "CC0-1.0", "0.800-0.951", "8",
    ]  # fmt: skip


def test_json_has_all_that_is_known(folder, capsys):
    write_card("models/mouse.json")
    (found,) = listed(capsys)
    nothing = {"contrast": None, "dice": None, "hd95_mm": None, "dice_error": None, "dice_correlation": None}
    assert found == CARD | {
        "name": "mouse",
        "path": str(folder / "mouse.safetensors"),
        "error": None,
        "format": "singlestrip-cascade",
        "format_version": checkpoint.PLAIN_VERSION,
        "strips": True,
        "structures": [],
        "has_quality": False,
        "voxel_size_mm": 8.0,
        "brain_ml": [],
        "size_bytes": (folder / "mouse.safetensors").stat().st_size,
        "scores": [nothing | score for score in CARD["scores"]],
    }
    assert listed(capsys, "mouse", "models/mouse.safetensors") == [
        found, found | {"name": "models/mouse.safetensors", "path": "models/mouse.safetensors"},
    ]  # fmt: skip


def test_a_named_model_has_a_page(folder, capsys):
    write_card("models/mouse.json")
    assert main(["models", "mouse"]) == 0
    page = capsys.readouterr().out
    texts = ["mouse head", "a colony", "8 mm", "mice T2w (4): Dice 0.951, HD95 0.3 mm", "rats (2): Dice 0.800"]
    assert page.startswith("mouse\n") and all(text in page for text in [*texts, *CARD["limits"]])
    (folder / "mouse.json").unlink()
    assert main(["models", "mouse"]) == 0
    page = capsys.readouterr().out
    assert "m1.nii.gz" in page and "limits" not in page and "None" not in page


@pytest.mark.parametrize(
    ("labelled", "shown"),
    [
        ([{"image": {"name": "a.nii"}, "mask": {"name": "b.nii"}}, {"labels": {"name": "c.nii"}}], "a.nii, c.nii"),
        ({"image": {"name": "a.nii"}, "mask": {"name": "b.nii"}}, "a.nii"),
        ([{"mask": {"name": "b.nii"}}], "b.nii"),
        ([{"image": {"name": 7}}, {"image": "a.nii"}, "a.nii", None], None),
        ("a.nii", None),
        (None, None),
    ],
)
def test_what_it_learned_from_is_read_from_the_provenance(folder, labelled, shown):
    path = folder / "mouse.safetensors"
    checkpoint.save_model(path, Cascade(tiny_cascade(8.0)), {"labelled": labelled})
    assert describe_model("mouse", path).learned_from == shown


def test_structures_are_told(folder, capsys):
    """A model that knows no brain among them does not strip."""
    checkpoint.save_model(Path("models/head.safetensors"), class_cascade(), PROVENANCE)
    organs = replace(tiny_cascade(8.0), classes=(TargetClass(5, "Liver"),))
    checkpoint.save_model(Path("models/body.safetensors"), Cascade(organs), PROVENANCE)
    does = {name: row["does"] for name, row in cells(capsys).items()}
    assert does == {"body": "segment", "head": "strip, segment", "mouse": "strip"}
    found = {each["name"]: each for each in listed(capsys)}
    assert found["head"]["structures"] == ["Scalp", "CSF", "Grey matter"] and not found["body"]["strips"]
    assert main(["models", "head"]) == 0
    assert "Scalp, CSF, Grey matter" in capsys.readouterr().out


def test_quality_networks_are_told(folder, capsys):
    """In a file of its own, and in the file of a cascade."""
    config = AutoencoderConfig(size=16, voxel_size_mm=12.0, layers=((4, 2, 4),) * 4)
    checkpoint.save_model(folder / "quality.safetensors", Autoencoder(config), {})
    write_card("models/quality.json", scores=[{"data": "masks", "scans": 9, "dice_error": 0.05}])
    part = checkpoint.QualityPart(Autoencoder(config), {})
    checkpoint.save_model(folder / "both.safetensors", Cascade(tiny_cascade(8.0)), {}, quality=part)
    assert {name: row["does"] for name, row in cells(capsys).items()} == {
        "both": "strip, qc", "mouse": "strip", "quality": "qc",
    }  # fmt: skip
    row = cells(capsys)["quality"]
    assert (row["voxel"], row["Dice"]) == ("12", "error 0.050")
    found = {model["name"]: (model["strips"], model["has_quality"]) for model in listed(capsys)}
    assert found == {"both": (True, True), "mouse": (True, False), "quality": (False, True)}


@pytest.mark.parametrize(
    ("volumes", "shown"), [((0.4512,), "0.45 ml"), ((1500.0, 1200.0, 1300.0), "1200-1500 ml")]
)
def test_the_volume_of_the_brain_stands_for_the_anatomy(folder, capsys, volumes, shown):
    path = folder / "mouse.safetensors"
    checkpoint.save_model(path, Cascade(tiny_cascade(8.0)), {}, anatomy=checkpoint.Anatomy(volumes))
    assert cells(capsys)["mouse"]["anatomy"] == shown and listed(capsys)[0]["brain_ml"] == list(volumes)
    write_card("models/mouse.json")
    assert cells(capsys)["mouse"]["anatomy"] == "mouse head"
    assert main(["models", "mouse"]) == 0
    assert shown in capsys.readouterr().out


def test_of_models_of_one_name_the_first_on_the_search_path_is_listed(folder, capsys):
    box = folder.with_name("box")
    box.mkdir()
    for name, size in (("mouse", 4.0), ("singlestrip", 2.0)):
        checkpoint.save_model(box / f"{name}.safetensors", Cascade(tiny_cascade(size)), {})
    assert {name: row["voxel"] for name, row in cells(capsys).items()} == {"mouse": "8", "singlestrip": "2"}


def test_strange_texts_break_neither_table_nor_terminal(folder, capsys):
    write_card("models/mouse.json", anatomy="\x1b[31mred\nline", licence="x" * 100)
    row = cells(capsys)["mouse"]
    assert row["anatomy"] == r"\x1b[31mred\nline" and row["licence"] == "x" * 31 + "…"
    assert main(["models", "mouse"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (found,) = listed(capsys)
    assert found["anatomy"] == "\x1b[31mred\nline"


def test_quiet_leaves_the_status(folder, capsys):
    for options in ([], ["--json"], ["mouse"]):
        assert main(["models", *options, "-q"]) == 0
    assert main(["models", "cat", "-q"]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1


# What cannot be read


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_another_program(path):
    save_file({"weight": torch.ones(3)}, path)


def long_header(path):
    path.write_bytes((2**63).to_bytes(8, "little") + path.read_bytes()[8:])


def wrong_configuration(path):
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, header | {"configuration": header["configuration"].replace("8.0", "-8.0")})


@pytest.mark.parametrize("damage", [truncated, of_another_program, long_header, wrong_configuration])
def test_a_model_that_cannot_be_read_has_a_line_that_says_why(folder, capsys, damage):
    """The reason is the one that `strip` gives for the same file. It is an error only if the model was named."""
    path = folder / "broken.safetensors"
    path.write_bytes((folder / "mouse.safetensors").read_bytes())
    damage(path)
    with pytest.raises(ModelError) as caught:
        model_header.read_header(path)
    if damage is not of_another_program:
        with pytest.raises(ModelError, match=f"^{re.escape(str(caught.value))}$"):
            checkpoint.load_model(path)
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"broken: cannot be read: {caught.value}" and not err
    assert out.splitlines()[1].startswith("mouse  strip")
    assert main(["models", "broken", "mouse"]) == 1
    out, err = capsys.readouterr()
    assert err == f"singlestrip: {caught.value}\n" and out.startswith("mouse\n")
    found = listed(capsys)[0]
    assert (found["name"], found["error"], found["voxel_size_mm"]) == ("broken", str(caught.value), None)


def test_a_missing_model_is_told_and_the_others_shown(folder, capsys):
    assert main(["models", "cat", "mouse", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [model["name"] for model in json.loads(out)] == ["mouse"]
    assert err.startswith("singlestrip: cat: no such model file") and err.count("\n") == 1


def test_a_folder_that_is_missing_has_no_models(folder, capsys, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, "no-such-folder")
    assert listed(capsys) == []
    assert main(["models"]) == 0


# Cards


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"anatomy": None}, "anatomy: expected str"),
        ({"anatomy": 7}, "anatomy"),
        ({"licence": ["MIT"]}, "licence"),
        ({"date": "29.2.2024"}, "date"),
        ({"scores": {}}, "scores"),
        ({"scores": [{"data": "mice", "scans": 4}]}, r"scores\[0\]: a score needs dice"),
        ({"scores": [{"data": "mice", "scans": 0, "dice": 0.9}]}, r"scores\[0\].scans"),
        ({"scores": [{"data": "mice", "scans": 4, "dice": 95}]}, r"scores\[0\].dice"),
        ({"limits": "none"}, "limits"),
    ],
)
def test_a_wrong_card_is_refused_by_the_field(folder, changes, part):
    write_card("models/mouse.json", **changes)
    with pytest.raises(ModelError, match=rf"mouse\.json: not a model card, or damaged \({part}"):
        read_card(folder / "mouse.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"anatomy": NaN}', "[" * 40_000, "{}", "\0" * 5000])
def test_a_file_that_is_no_card_is_a_warning(folder, capsys, text):
    """Such as the record of fit-gmm of a label map of the same name."""
    Path("models/mouse.json").write_text(text)
    assert main(["models", "mouse"]) == 0
    out, err = capsys.readouterr()
    assert "m1.nii.gz" in out and re.fullmatch(r"singlestrip: .*mouse\.json: .*card.*\n", err)
    assert listed(capsys)[0]["anatomy"] is None


def test_names_that_no_card_has_are_ignored_with_a_warning(folder, capsys):
    score = CARD["scores"][0] | {"volume": 1}
    write_card("models/mouse.json", license="MIT", scores=[score], **{"\x1b[31m": 1})
    assert main(["models", "mouse"]) == 0
    out, err = capsys.readouterr()
    assert "mouse head" in out and "CC0-1.0" in out
    for line, name in zip(err.splitlines(), ("license", r"\x1b[31m", "volume"), strict=True):
        assert line.startswith(f"singlestrip: {folder}/mouse.json: ignores {name}; the names are ")


def test_the_example_of_the_manual_is_a_card(folder, caplog):
    manual = (MODELS.parent / "docs/train.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```", manual, re.MULTILINE | re.DOTALL)
    Path("models/mouse.json").write_text(example)
    card = read_card(folder / "mouse.safetensors")
    assert not caplog.records and all(vars(card).values())


def test_a_card_may_say_little(folder):
    Path("models/mouse.json").write_text('{"anatomy": "mouse head"}')
    assert read_card(folder / "mouse.safetensors").scores == ()
    (folder / "mouse.json").unlink()
    assert read_card(folder / "mouse.safetensors") is None


def test_the_card_of_a_name_with_dots(folder):
    write_card("models/mouse.v2.json")
    assert read_card(folder / "mouse.v2.safetensors").anatomy == "mouse head"


# Those that come with singlestrip


SHIPPED = sorted(path.stem for path in MODELS.glob("*.safetensors"))


def page_of(name) -> str:
    return (MODELS / f"{name}.md").read_text(encoding="utf-8")


def row(page: str, field: str) -> str:
    """The value of a field in a table of a page."""
    return re.search(rf"^\| {field} \| (.+?) \|$", page, re.MULTILINE)[1]


def plain(markdown: str) -> str:
    """Text without links and line breaks."""
    return " ".join(re.sub(r"\[(.+?)\]\(.+?\)", r"\1", markdown).split())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_has_a_card_that_agrees_with_its_page(name):
    card, page = read_card(MODELS / f"{name}.safetensors"), page_of(name)
    assert (card.licence, card.version, card.date) == tuple(row(page, f) for f in ("Licence", "Version", "Date"))
    sentences = re.split(r"(?<=\.) ", card.intended_use)
    assert sentences and all(sentence.replace("`", "") in plain(page).replace("`", "") for sentence in sentences)
    section = page.partition("## Limits\n")[2].partition("\n## ")[0]
    assert list(card.limits) == [plain(limit) for limit in re.split(r"^- ", section, flags=re.MULTILINE)[1:]]
    listing = (MODELS / "README.md").read_text(encoding="utf-8")
    line = re.search(rf"^\| \[{name}\].*$", listing, re.MULTILINE)[0]
    assert line.endswith(f"| {card.learned_from} | {card.version} | {card.licence} |")


def test_the_scores_of_the_stripping_model_are_those_of_page_and_benchmarks():
    scores = read_card(MODELS / "singlestrip.safetensors").scores
    benchmarks = (MODELS.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    for page in (page_of("singlestrip"), benchmarks.partition("## Accuracy\n")[2].partition("\n## ")[0]):
        rows = re.findall(r"^\| (\w+) \| (\w+) \| (\d+) \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|", page, re.MULTILINE)
        stated = [tuple(row) for row in rows if row[1] != "all"]
        assert [(s.data, s.contrast, str(s.scans), f"{s.dice:.4f}", f"{s.hd95_mm:.2f}") for s in scores] == stated


def test_the_scores_of_the_quality_model_are_those_of_page_and_benchmarks():
    (score,) = read_card(MODELS / "quality.safetensors").scores
    stated = f"On {score.scans} predictions of six networks"
    page = plain(page_of("quality"))
    stated_error = f"mean absolute error of the estimated Dice is {score.dice_error} and its Pearson correlation"
    assert stated in page and f"{stated_error} with the true Dice {score.dice_correlation}," in page
    benchmarks = (MODELS.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert f"{score.scans} predictions" in benchmarks
    assert f"(`qc -m -i`) | {score.dice_error} | {score.dice_correlation} |" in benchmarks


def test_sources_of_the_cards_are_those_of_the_pages():
    adult = ("subject 01 of OpenNeuro ds000011", "PDDL 1.0", "made by deepbet 1.0.2")
    fetus = ("CC0", "drawn by hand", "Tourbier et al., NeuroImage 118:584")
    for name, page, sources in (("singlestrip", "singlestrip", adult), ("quality", "singlestrip", adult),
                                ("fetus", "fetus", fetus)):  # fmt: skip
        source, text = read_card(MODELS / f"{name}.safetensors").source, plain(page_of(page))
        assert all(words in source and words in text for words in sources)


def test_the_scores_of_the_fetal_model_are_those_of_page_and_benchmarks():
    (score,) = read_card(MODELS / "fetus.safetensors").scores
    benchmarks = (MODELS.parent / "docs/benchmarks.md").read_text(encoding="utf-8")
    for text in (page_of("fetus"), benchmarks):
        rows = re.findall(r"^\| fetal sub-01 run [23] \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
        assert len(rows) == score.scans
        for stated, column in ((score.dice, 0), (score.hd95_mm, 1)):
            assert stated == pytest.approx(sum(float(row[column]) for row in rows) / len(rows), abs=5e-3)


# Without torch


@pytest.mark.parametrize("options", [[], ["singlestrip"], ["--json"]])
def test_the_command_loads_no_torch(options):
    code = "import sys\nfrom singlestrip.cli.main import main\n"
    code += f"status = main({['models', *options]!r})\n"
    code += "sys.exit(status or bool({'torch', 'nibabel', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "singlestrip" in done.stdout, done.stderr
