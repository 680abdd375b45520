"""Networks that learn to find lesions, and strip --lesions."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import LESION_CROSSINGS, STILL, class_cascade, make_head, threshold_cascade, tiny_cascade

from singlestrip.cli.main import main
from singlestrip.configuration import (
    LESION_CLASSES,
    CascadeConfig,
    LesionConfig,
    LesionTrainConfig,
    ShapeConfig,
    SynthConfig,
    Window,
)
from singlestrip.errors import ModelError, NoBrainError
from singlestrip.networks.cascade import Cascade, brain_logit
from singlestrip.networks.checkpoint import load_model, save_model
from singlestrip.space.metrics import dice
from singlestrip.space.morphology import components_from
from singlestrip.space.scan import Scan
from singlestrip.stripping import stripper
from singlestrip.stripping.lesion_finder import LesionFinder
from singlestrip.stripping.stripper import Stripper
from singlestrip.synthesis.blobs import Blob, Place
from singlestrip.synthesis.image import sample_parameters, synthesise
from singlestrip.synthesis.label_map import LabelMap
from singlestrip.synthesis.lesion_target import lesion_share
from singlestrip.synthesis.lesions import Lesion, Zone, add_lesions, push_aside
from singlestrip.synthesis.shape import window_coordinates
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training import calibration
from singlestrip.training.maps import image_sources

CPU = torch.device("cpu")
SPACING = 3.0
SIZE = 41
WINDOW = Window((SIZE,) * 3, SPACING, 0.0)


def ball_map() -> LabelMap:
    """A ball of brain of 45 mm in a cube of head of 123 mm."""
    squares = ((np.indices((SIZE,) * 3) - SIZE // 2) ** 2).sum(0)
    return LabelMap.of(np.where(squares <= 225, 101, 1).astype(np.uint8), SPACING)


MAP = ball_map()
BRAIN = MAP.brain[None]
# On the map's own voxels, in the coordinates of grid_sample.
POINTS = torch.stack(torch.meshgrid(*[(2 * torch.arange(SIZE) + 1) / SIZE - 1] * 3, indexing="ij")[::-1], -1)[None]


def ball_lesion(radius_mm: float, zones: tuple[Zone, ...], depth_mm: float = 0.0, push: float = 0.0) -> Lesion:
    """A round lesion without texture. depth_mm: of its centre below the top of the brain; 0 for its middle."""
    up = torch.tensor([0.0, 0.0, 1.0])
    place = Place(up, 1.0, depth_mm) if depth_mm else Place(up, 0.0, 0.0)
    blob = Blob(place, torch.eye(3) / radius_mm, None, 0.0, torch.zeros(1, 1, 5, 5, 5))
    return Lesion(blob, zones, None, push, 20.0, 0.0)


def painted(lesions, at=POINTS, least_change=0.08):
    """The change of an image of 0.5 by lesions, and their share, both [X, Y, Z]."""
    grey = torch.full_like(BRAIN, 0.5)
    change = add_lesions(grey, BRAIN, MAP, lesions, at) - grey
    return change[0], lesion_share(change, BRAIN, MAP, lesions, at, least_change)[0]


def shares_of(lesions, config=SynthConfig(shape=STILL).whole(), least_change=0.08):
    """Image, shares and weight of one image with lesions."""
    drawn = replace(sample_parameters(config, WINDOW, 1.0, RandomStreams((1,))), lesions=tuple(lesions))
    return synthesise([MAP], WINDOW, [drawn], least_change)


# What is learned


def test_a_round_lesion_has_its_volume_and_its_oedema_none():
    zones = (Zone(1.5, 1.0, 0.7), Zone(1.0, 0.0, 1.0), Zone(0.5, 0.9, 1.0))
    change, share = painted([ball_lesion(18.0, zones)])
    assert float(share.sum()) * SPACING**3 == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.03)
    assert set(share.unique().tolist()) == {0.0, 1.0}
    oedema = (change != 0) & (share == 0)
    assert float((oedema.sum() + share.sum()) / share.sum()) == pytest.approx(1.5**3, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_painted_is_what_is_learned(seed):
    """Lesions and cavities of all shapes, pushed, without oedema and texture."""
    config = SynthConfig(
        shape=ShapeConfig(), lesion_probability=1.0, lesion_radius_mm=(4.0, 12.0), lesion_intensity=(2.0, 3.0),
        lesion_opacity=(1.0, 1.0), lesion_texture=(0.0, 0.0), oedema_probability=0.0, cavity_open_mm=(0.0, 0.0),
    )  # fmt: skip
    drawn = sample_parameters(config, WINDOW, 1.0, RandomStreams((seed,)))
    at = window_coordinates(WINDOW, [drawn.shape], CPU, MAP.grid_from_mm()[None])
    change, share = painted(drawn.lesions, push_aside(at, MAP, drawn.lesions))
    assert share.any() and torch.equal(change > 0, share > 0)


def test_a_lesion_that_pushes_is_larger():
    zones = (Zone(1.0, 0.0, 1.0),)
    volumes = []
    for push in (0.0, 0.3):
        lesion = ball_lesion(9.0, zones, push=push)
        volumes.append(float(painted([lesion], push_aside(POINTS, MAP, [lesion]))[1].sum()))
    assert volumes[1] / volumes[0] == pytest.approx(1 / 0.7**3, rel=0.35) and volumes[1] > 1.5 * volumes[0]


def test_a_lesion_that_cannot_be_seen_is_not_to_be_found():
    clear, faint = ball_lesion(9.0, (Zone(1.0, 0.6, 0.9),)), ball_lesion(9.0, (Zone(1.0, 0.6, 0.7),), 20.0)
    assert painted([clear])[1].any() and not painted([faint])[1].any()
    assert torch.equal(painted([clear, faint])[1], painted([clear])[1])


def test_shares_add_up_and_the_brain_is_what_it_is_without_lesions():
    lesions = [ball_lesion(15.0, (Zone(1.4, 0.9, 0.5), Zone(1.0, 2.0, 1.0)), depth_mm=5.0)]
    image, shares, weight = shares_of(lesions)
    plain_image, brain, plain_weight = shares_of(lesions, least_change=None)
    assert torch.equal(image, plain_image) and torch.equal(weight, plain_weight)
    torch.testing.assert_close(shares.sum(1, keepdim=True), torch.ones_like(brain))
    torch.testing.assert_close(shares[:, 1:].sum(1, keepdim=True), brain)
    assert float(shares.min()) >= 0 and shares[:, 2].any()
    assert not shares[:, 2:][brain == 0].any()  # the lesion reaches beyond the brain


def test_a_healthy_brain_has_no_lesion():
    _, shares, _ = shares_of(())
    assert not shares[:, 2].any() and shares[:, 1].any()


def test_only_the_segmenter_learns_lesions_and_some_images_have_none():
    cascade = replace(tiny_cascade(12.0), classes=LESION_CLASSES, class_evidence=None)
    sources = image_sources([make_head(24, 8.0).native], cascade, LesionTrainConfig(), CPU)
    assert sources["locator"].draw([0], 0)[1].shape == (1, 1, 16, 16, 16)
    drawn = [sources["segmenter"].draw([number], number)[1] for number in range(12)]
    assert {shares.shape for shares in drawn} == {(1, 3, 16, 16, 16)}
    assert 2 < sum(bool(shares[:, 2].any()) for shares in drawn) < 12


def test_the_level_of_the_border_moves_the_sum_of_classes(monkeypatch):
    config = replace(tiny_cascade(), classes=LESION_CLASSES, class_evidence=None)
    monkeypatch.setattr(calibration, "border_level", lambda *given: 0.7)
    torch.manual_seed(0)
    model = Cascade(config).eval()
    moved, level = calibration.calibrated(model, ["a scan"], 2.0)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        before, after = (brain_logit(each.segmenter(image), config) for each in (model, moved))
    assert level == 0.7 and torch.allclose(after, before - 0.7, atol=1e-5)


def test_the_command_learns_lesions(tmp_path, capsys):
    save_model(tmp_path / "tiny.safetensors", Cascade(tiny_cascade()), {})
    image, mask, _ = make_head(24, 8.0).save(tmp_path)
    out, sheet = tmp_path / "lesions.safetensors", tmp_path / "sheet.png"
    given = [
        "train",
        "-i",
        image,
        "-m",
        mask,
        "-o",
        out,
        "--init",
        tmp_path / "tiny.safetensors",
        "--find-lesions",
    ]
    given = [str(each) for each in (*given, "--no-quality", "--steps", 2, "--voxel-size", 12)]
    assert main([*given, "--picture", str(sheet)]) == 0 and sheet.stat().st_size > 0
    model, header = load_model(out)
    assert model.config.classes == LESION_CLASSES and model.config.brain_channels == (1, 2)
    assert model.config.lesion_channel == 2 and model.config.class_evidence is None
    assert header["provenance"]["configuration"]["synth"]["lesion_probability"] == 0.7
    assert LesionFinder.load(out).channel == 2
    with pytest.raises(SystemExit):
        main(["train", "-l", str(mask), "--classes", "each", "--find-lesions", "-o", str(out)])
    assert "--classes has other classes" in capsys.readouterr().err


# What is found


HEAD = make_head(24, 8.0)
TRUE_LESION = HEAD.labels == 103


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of two models: one of the brain alone, and one to which what is brightest in it is lesion."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "singlestrip.safetensors", threshold_cascade(8.0, 24), {"made": "for tests"})
    finder = class_cascade(8.0, 24, LESION_CLASSES, LESION_CROSSINGS)
    save_model(folder / "bright.safetensors", finder, {"made": "for tests"})
    return folder


@pytest.fixture(autouse=True)
def there(models, tmp_path, monkeypatch):
    """Models by name, and the images a.nii.gz, b.nii.gz and frames.nii.gz in the working folder."""
    monkeypatch.setattr(stripper, "usual_views", lambda peak: ())
    monkeypatch.setenv("SINGLESTRIP_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    HEAD.save_many(tmp_path)
    return tmp_path


def stored(path):
    return np.asarray(nib.load(path).dataobj)


def strip(*arguments):
    return main(["strip", *map(str, arguments)])


def test_lesions_lie_in_the_mask_on_the_image_grid(capsys):
    assert strip("-i", "a.nii.gz", "-m", "m.nii.gz", "--lesions", "l.nii.gz", "--model", "bright") == 0
    assert capsys.readouterr() == ("", "")
    file, lesions = nib.load("l.nii.gz"), stored("l.nii.gz")
    assert file.get_data_dtype() == np.uint8 and file.header["intent_name"] == b"lesions"
    np.testing.assert_array_equal(file.affine, HEAD.vox2world)
    assert lesions.shape == HEAD.image.shape and set(np.unique(lesions)) == {0, 1}
    assert not (lesions.astype(bool) & (stored("m.nii.gz") == 0)).any()
    assert dice(lesions > 0, TRUE_LESION) > 0.95


def test_asking_for_lesions_leaves_the_brain_mask_as_it_is(models, monkeypatch):
    """It is that of the default model, or of --model if that finds no lesions."""
    assert strip("-i", "a.nii.gz", "-m", "m.nii.gz") == 0
    assert strip("-i", "a.nii.gz", "-m", "with.nii.gz", "--lesions", "l.nii.gz", "--model", "bright") == 0
    assert strip("-i", "a.nii.gz", "-m", "other.nii.gz", "--model", "bright") == 0
    assert nib.load("m.nii.gz").header == nib.load("with.nii.gz").header
    np.testing.assert_array_equal(stored("m.nii.gz"), stored("with.nii.gz"))
    (models / "bright.safetensors").rename(models / "lesions.safetensors")
    try:
        given = ["-i", "a.nii.gz", "-m", "named.nii.gz", "--lesions", "n.nii.gz"]
        assert strip(*given) == strip(*given, "--model", "singlestrip") == 0
    finally:
        (models / "lesions.safetensors").rename(models / "bright.safetensors")
    np.testing.assert_array_equal(stored("named.nii.gz"), stored("m.nii.gz"))
    np.testing.assert_array_equal(stored("n.nii.gz"), stored("l.nii.gz"))


def test_without_a_model_of_lesions_it_is_one_sentence(there, capsys):
    for more in ([], ["--model", "singlestrip"]):
        assert strip("-i", "a.nii.gz", "--lesions", "l.nii.gz", *more) == 1
        said = capsys.readouterr().err
        assert (
            said.startswith("singlestrip: --lesions needs a model with a class named lesion")
            and said.count("\n") == 1
        )
    assert not (there / "l.nii.gz").exists()
    with pytest.raises(ModelError, match="finds no lesions"):
        LesionFinder.load("singlestrip")


def test_lesions_of_many_scans_and_of_frames(there, capsys):
    given = [
        "-i",
        "a.nii.gz",
        "frames.nii.gz",
        "--out-dir",
        "out",
        "--save",
        "mask",
        "lesions",
        "--model",
        "bright",
    ]
    assert strip(*given, "-q") == 0
    names = {"a_lesions.nii.gz", "a_mask.nii.gz", "frames_lesions.nii.gz", "frames_mask.nii.gz"}
    assert {path.name for path in (there / "out").glob("*.gz")} == names
    frames = stored("out/frames_lesions.nii.gz")
    assert frames.shape == (*HEAD.image.shape, 2)
    np.testing.assert_array_equal(frames[..., 1], stored("out/a_lesions.nii.gz"))
    changed = {name: (there / "out" / name).stat().st_mtime_ns for name in names}
    assert strip(*given, "-q", "--resume") == 0
    assert {name: (there / "out" / name).stat().st_mtime_ns for name in names} == changed
    assert strip("-i", "a.nii.gz", "b.nii.gz", *given[3:], "-q", "--shard", "2/2") == 0
    assert (there / "out" / "b_lesions.nii.gz").is_file()


def test_resume_tells_the_model_of_lesions(there, capsys):
    given = ["-i", "a.nii.gz", "-m", "m.nii.gz", "--lesions", "l.nii.gz", "--resume", "--model"]
    assert strip(*given, "bright") == 0
    other = class_cascade(8.0, 24, LESION_CLASSES, (0.5, 0.7))
    save_model(there / "other.safetensors", other, {"made": "for tests"})
    few = stored("l.nii.gz").sum()
    assert strip(*given, "other.safetensors") == 0
    assert "l.nii.gz: was made with model of lesions" in capsys.readouterr().err
    assert stored("l.nii.gz").sum() > few


@pytest.fixture
def finder(models):
    return LesionFinder(Stripper(load_model(models / "bright.safetensors")[0], keeps_classes=True))


def test_the_finder_searches_for_no_brain(finder, monkeypatch):
    asked, run = [], finder.stripper.engine.run
    monkeypatch.setattr(
        finder.stripper.engine, "run", lambda network, image: asked.append(network) or run(network, image)
    )
    assert finder.find(Scan(HEAD.image, HEAD.vox2world), HEAD.mask).any()
    assert set(asked) == {"segmenter"}


def test_small_lesions_and_unlikely_ones_are_left_out(finder):
    image = HEAD.image.copy()
    block = (slice(6, 8), slice(11, 14), slice(11, 14))  # 9 ml in the outer half of the brain
    image[block] = 100

    def lesions(**config):
        scan = Scan(image, HEAD.vox2world)
        return LesionFinder(finder.stripper, LesionConfig(**config)).find(scan, HEAD.mask)

    both, large = lesions(least_ml=1.0), lesions(least_ml=20.0)
    assert both[block].any() and not large[block].any() and dice(large, TRUE_LESION) > 0.9
    assert lesions(probability=0.999).sum() < lesions().sum() < lesions(probability=0.01).sum()


def test_a_finder_that_sees_no_brain_says_so():
    blind = Stripper(class_cascade(8.0, 24, LESION_CLASSES, (2.0, 3.0)), keeps_classes=True)
    with pytest.raises(NoBrainError, match="sees no brain where the mask is"):
        LesionFinder(blind).find(Scan(HEAD.image, HEAD.vox2world), HEAD.mask)


def test_components_of_a_size():
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[0, 0, :3] = mask[4, 4, :2] = True
    assert components_from(mask, 3).sum() == 3 and components_from(mask, 2).sum() == 5
    assert not components_from(mask, 4).any() and not components_from(mask & False, 1).any()


def test_a_class_named_lesion_is_found_by_its_name():
    assert CascadeConfig().lesion_channel is None
    assert CascadeConfig(classes=LESION_CLASSES[::-1]).lesion_channel == 1
