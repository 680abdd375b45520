"""singlestrip segment, and strip with a model of structures, from the command line."""

import nibabel as nib
import numpy as np
import pytest
from phantoms import class_cascade, make_head, threshold_cascade

import singlestrip
from singlestrip.cli.main import main
from singlestrip.io.text.table import parse_table
from singlestrip.networks import checkpoint
from singlestrip.space.metrics import dice
from singlestrip.stripping import stripper

HEAD = make_head(24, 8.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models with two names: one that tells structures apart, and one that knows only the brain."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint.save_model(folder / "tissues.safetensors", class_cascade(8.0, 24), {"made": "for tests"})
    checkpoint.save_model(folder / "singlestrip.safetensors", threshold_cascade(8.0, 24), {"made": "for tests"})
    return folder


@pytest.fixture(autouse=True)
def there(models, tmp_path, monkeypatch):
    """Models by name, and the images a.nii.gz, b.nii.gz and frames.nii.gz in the working folder.

    The networks take structures for others in other contrasts; they are shown the image alone.
    """
    monkeypatch.setattr(stripper, "usual_views", lambda peak: ())
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    HEAD.save_many(tmp_path)
    return tmp_path


def segment(*arguments):
    return main(["segment", *map(str, arguments)])


def rows(path):
    columns, cells = parse_table(path.read_text())
    return [dict(zip(columns, row, strict=True)) for row in cells.values()]


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def stored(path):
    return np.asarray(nib.load(path).dataobj)


def test_one_image(there, capsys):
    given = [*("-i", "a.nii.gz", "-o", "dseg.nii.gz", "--posteriors", "p.nii.gz", "-p", "a.png")]
    assert segment(*given, "--volumes", "volumes.tsv", "--qc", "qc.tsv") == 0
    assert capsys.readouterr() == ("", "")
    made = {"dseg.nii.gz", "dseg.tsv", "p.nii.gz", "p.json", "a.png", "volumes.tsv", "qc.tsv"}
    assert made < set(files(there))
    assert set(np.unique(stored("dseg.nii.gz"))) == {0, 3, 24, 511}
    assert dice(stored("dseg.nii.gz") == 24, HEAD.labels == 101) > 0.85
    (volumes,), (qc,) = rows(there / "volumes.tsv"), rows(there / "qc.tsv")
    assert float(volumes["total_intracranial"]) == pytest.approx(HEAD.mask.sum() * 8.0**3, rel=0.1)
    assert (qc["mean"], qc["lowest"], qc["CSF"]) == ("1.0000",) * 3  # the only view agrees with itself


def test_many_images_in_a_folder(there, capsys):
    (there / "b.nii.gz").write_bytes(b"not an image")
    given = ["-i", "a.nii.gz", "b.nii.gz", "--out-dir", "out", "--save", "dseg", "probseg", "--format", ".nii"]
    assert segment(*given, "--volumes", "volumes.tsv") == 1
    assert files(there / "out") == ["a_dseg.nii", "a_dseg.tsv", "a_probseg.json", "a_probseg.nii"]
    assert "b.nii.gz" in capsys.readouterr().err
    assert [bool(row["note"]) for row in rows(there / "volumes.tsv")] == [False, True]
    before = (there / "volumes.tsv").read_text()
    changed = (there / "out" / "a_dseg.nii").stat().st_mtime_ns
    assert segment(*given, "--volumes", "volumes.tsv", "--resume") == 1
    assert (there / "volumes.tsv").read_text() == before
    assert (there / "out" / "a_dseg.nii").stat().st_mtime_ns == changed


def test_shards_write_tables_of_their_own(there):
    (there / "list.txt").write_text("a.nii.gz\nb.nii.gz\n")
    given = ["--list", "list.txt", "--out-dir", "out", "--volumes", "volumes.tsv", "--qc", "qc.tsv"]
    assert segment(*given, "--shard", "2/2") == 0
    assert files(there / "out") == ["b_dseg.nii.gz", "b_dseg.tsv"]
    (row,) = rows(there / "volumes-2-of-2.tsv")
    assert row["image"] == "b.nii.gz" and (there / "qc-2-of-2.tsv").is_file()
    assert segment(*given, "--shard", "3/3") == 0  # there are two images


def test_frames(there):
    assert segment("-i", "frames.nii.gz", "-o", "each.nii.gz") == 0
    assert segment("-i", "frames.nii.gz", "-o", "mean.nii.gz", "--mean-frame") == 0
    (there / "bvals").write_text("0 1000\n")
    assert segment("-i", "frames.nii.gz", "-o", "b0.nii.gz", "--bval", "bvals") == 0
    assert stored("each.nii.gz").shape == (*HEAD.image.shape, 2)
    assert stored("mean.nii.gz").shape == stored("b0.nii.gz").shape == HEAD.image.shape


def test_a_centre_puts_the_window(there):
    assert segment("-i", "a.nii.gz", "-o", "aside.nii.gz", "--centre", 80, 0, 0) == 0
    assert segment("-i", "a.nii.gz", "-o", "a_dseg.nii.gz") == 0
    assert (stored("aside.nii.gz") != stored("a_dseg.nii.gz")).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "name an image"),
        (["-i", "a.nii.gz"], "name at least one output: -o, --posteriors or -p"),
        (["-i", "a.nii.gz", "b.nii.gz", "-o", "c.nii.gz"], "several images need --out-dir"),
        (["-i", "a.nii.gz", "-o", "c.nii.gz", "--save", "dseg"], "go with --out-dir"),
        (["-i", "a.nii.gz", "-o", "c.nii.gz", "--out-dir", "out"], "with --out-dir use --save"),
        (["-i", "a.nii.gz", "-p", "c.png", "--label-table", "c.tsv"], "--label-table goes with -o"),
        (["-i", "a.nii.gz", "-o", "a.nii.gz"], "is an input"),
        (["-i", "a.nii.gz", "b.nii.gz", "--out-dir", "out", "--centre", "0", "0", "0"], "goes with one image"),
        (["-i", "a.nii.gz", "-o", "c.nii.gz", "--mean-frame", "--bval", "bvals"], "--bval goes with one image"),
        (["-i", "a.nii.gz", "--out-dir", "out", "--format", ".png"], "--format: choose from"),
    ],
)
def test_wrong_command_lines(given, message, capsys):
    with pytest.raises(SystemExit) as ended:
        segment(*given)
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "singlestrip"], "no structures"),
        (["--model", "missing"], "no such model file"),
        (["--volumes", "volumes.csv"], "name the table with .tsv"),
        (["--volumes", "c.tsv"], "is named for two outputs"),
        (["--qc", "no/such/qc.tsv"], "does not exist"),
        (["--memory", "0.1"], "over the limit of 0.1 GiB"),
    ],
)
def test_errors_are_one_sentence(there, given, message, capsys):
    assert segment("-i", "a.nii.gz", "-o", "c.nii.gz", *given) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("singlestrip: ") and said.count("\n") == 1
    assert "c.nii.gz" not in files(there)


def test_strip_without_the_fluid(there, capsys):
    """The model of structures is the default. A model of the brain alone is refused."""
    assert main(["strip", "-i", "a.nii.gz", "-m", "wide.nii.gz", "--model", "tissues"]) == 0
    assert main(["strip", "-i", "a.nii.gz", "-m", "tight.nii.gz", "--no-csf"]) == 0
    wide, tight = stored("wide.nii.gz") > 0, stored("tight.nii.gz") > 0
    assert not (tight & ~wide).any() and 0 < tight.sum() < 0.9 * wide.sum()
    assert main(["strip", "-i", "a.nii.gz", "-m", "c.nii.gz", "--no-csf", "--model", "singlestrip"]) == 1
    assert "does not tell the fluid around the brain from the brain" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["strip", "-i", "a.nii.gz", "-m", "c.nii.gz", "--no-csf", "--qc"])
    assert "leave out --no-csf" in capsys.readouterr().err


def test_resume_tells_masks_without_fluid_from_others(there, capsys):
    given = ["strip", "-i", "a.nii.gz", "-m", "mask.nii.gz", "--model", "tissues", "--resume"]
    assert main(given) == 0
    wide = stored("mask.nii.gz").sum()
    assert main([*given, "--no-csf"]) == 0
    assert stored("mask.nii.gz").sum() < wide
    assert "was made with fluid around the brain default (now left out)" in capsys.readouterr().err


def test_in_python(there):
    image = nib.load("a.nii.gz")
    found = singlestrip.segment(image.get_fdata(), image.affine)
    again = singlestrip.segment_file("a.nii.gz", "dseg.nii.gz", posteriors="p.nii.gz")
    assert files(there)[-5:] == ["dseg.nii.gz", "dseg.tsv", "frames.nii.gz", "p.json", "p.nii.gz"]
    np.testing.assert_array_equal(found.labels, stored("dseg.nii.gz"))
    assert again[0].volumes_mm3 == found.volumes_mm3
    with pytest.raises(singlestrip.SingleStripError, match="at least one output"):
        singlestrip.segment_file("a.nii.gz")
