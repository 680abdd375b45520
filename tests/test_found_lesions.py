"""Lesions found in scans: their shape and texture, where they are painted, and the runs that learn from them."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import describe_model, make_head, tiny_cascade
from scipy.spatial.transform import Rotation

from singlestrip.cli.commands import self_train
from singlestrip.cli.main import main
from singlestrip.cli.parser import build_parser
from singlestrip.configuration import LesionBankConfig, SynthConfig, TrainConfig, TransferConfig, Window
from singlestrip.errors import InputError, ModelError
from singlestrip.io.checksum import checksum
from singlestrip.io.images.lists import read_pair_list
from singlestrip.networks import checkpoint
from singlestrip.networks.cascade import Cascade
from singlestrip.self_training.plan import Inputs, Options
from singlestrip.self_training.rounds import SelfTraining
from singlestrip.space.metrics import dice
from singlestrip.space.scan import Scan
from singlestrip.synthesis.blobs import Place, distance_in_radii, field_at
from singlestrip.synthesis.found_lesions import LesionBank, find_lesions, read_lesion_bank
from singlestrip.synthesis.image import sample_parameters, synthesise
from singlestrip.synthesis.label_map import LabelMap
from singlestrip.synthesis.lesions import Lesion, Zone, add_lesions, sample_lesions
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training import cascade as cascade_training
from singlestrip.training.cascade import TrainingData, train_cascade
from singlestrip.training.maps import fingerprint, image_sources

CPU = torch.device("cpu")
SPACING = 2.0
SIZE = 32
VOX2WORLD = np.diag([SPACING] * 3 + [1.0])
PLACE = Place(torch.tensor([0.0, 0.0, 1.0]), 0.0, 0.0)


def lopsided_lesion():
    """Boolean [32, 32, 32] of 2 mm: a body of 8 ml that is no mirror image of itself, and its box's middle."""
    lesion = np.zeros((SIZE,) * 3, dtype=bool)
    lesion[10:21, 12:19, 11:20] = True
    lesion[10:21, 8:12, 11:14] = True
    lesion[10:13, 12:19, 20:24] = True
    return lesion


LESION = lopsided_lesion()
BOX = (slice(10, 21), slice(8, 19), slice(11, 24))
TISSUE = 100 + 5 * np.random.default_rng(0).standard_normal(LESION.shape)


def only_lesion(image=TISSUE, mask=LESION, vox2world=VOX2WORLD, **options):
    (lesion,) = find_lesions(np.asarray(image, dtype=np.float32), Scan(mask, vox2world), **options)
    return lesion


FINE_MM = 1.0
ASKEW = torch.from_numpy(Rotation.from_euler("xyz", (0.4, 0.7, 0.3)).as_matrix()).float()  # no face along an axis


def points_mm(spacing_mm=SPACING, reach=12):
    """Offsets [X, Y, Z, 3] in mm of the voxels of a cube around a point."""
    axis = torch.arange(-reach, reach + 1) * spacing_mm
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def painted(lesion, turn=torch.eye(3), size=1.0, points=points_mm(FINE_MM, 27)):
    """Where the blob of a lesion is, boolean at points [X, Y, Z, 3]."""
    blob = lesion.blob(PLACE, turn / (size * lesion.radius_mm))
    return (distance_in_radii(blob, points) < 1).numpy()


def volume_mm3(lesion, size=1.0):
    """The volume of the blob of a lesion, counted in voxels."""
    return painted(lesion, ASKEW, size).sum() * FINE_MM**3


def centred(mask):
    """The part of a mask [25, 25, 25] around the middle of the lesion's box."""
    middle = [(side.start + side.stop - 1) // 2 for side in BOX]
    return np.pad(mask, 12)[tuple(slice(m, m + 25) for m in middle)]


# Shape


def test_a_found_lesion_has_its_shape_and_volume():
    lesion = only_lesion()
    assert volume_mm3(lesion) == pytest.approx(LESION.sum() * SPACING**3, rel=0.02)
    assert dice(painted(lesion, points=points_mm()), centred(LESION)) > 0.98


def test_the_shape_does_not_depend_on_the_axes_of_the_scan():
    """The same lesion in a scan whose first two axes run the other way, in another order."""
    turned = np.ascontiguousarray(LESION[::-1].transpose(1, 0, 2))
    image = np.ascontiguousarray(TISSUE[::-1].transpose(1, 0, 2))
    vox2world = np.array([[0, -SPACING, 0, 9], [SPACING, 0, 0, 5], [0, 0, SPACING, 3], [0, 0, 0, 1]])
    usual, other = only_lesion(), only_lesion(image, turned, vox2world)
    torch.testing.assert_close(other.uneven, usual.uneven, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.texture, usual.texture, atol=1e-3, rtol=0)


def test_thick_slices_and_other_scales():
    thick = np.diag([SPACING, SPACING, 3 * SPACING, 1])
    lesion = only_lesion(TISSUE[:, :, ::3], LESION[:, :, ::3], thick)
    assert volume_mm3(lesion) == pytest.approx(LESION[:, :, ::3].sum() * 3 * SPACING**3, rel=0.05)
    small = only_lesion(vox2world=np.diag([0.2, 0.2, 0.2, 1]), scale=0.1)
    torch.testing.assert_close(small.uneven, only_lesion().uneven, atol=0.05, rtol=0)
    assert small.radius_mm == pytest.approx(only_lesion().radius_mm / 10, rel=1e-3)


@pytest.mark.parametrize("size", [0.8, 1.5])
def test_a_lesion_that_is_turned_mirrored_and_grown(size):
    lesion = only_lesion()
    assert volume_mm3(lesion, size) == pytest.approx(size**3 * LESION.sum() * SPACING**3, rel=0.02)
    quarter = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turns = (torch.eye(3), torch.diag(torch.tensor([-1.0, 1.0, 1.0])), quarter)
    there, mirrored, turned = (painted(lesion, turn, size) for turn in turns)
    assert dice(mirrored, there[::-1]) > 0.999 > 0.95 > dice(mirrored, there)
    assert dice(turned, np.rot90(there, -1)) > 0.999 > 0.95 > dice(turned, there)


def test_a_ball_is_a_ball_inside_and_around():
    axis = np.arange(SIZE) - SIZE // 2
    ball = sum(np.square(each) for each in np.meshgrid(axis, axis, axis)) <= 8**2
    lesion = only_lesion(mask=ball)
    radii = points_mm().norm(dim=-1) / lesion.radius_mm
    distance = distance_in_radii(lesion.blob(PLACE, torch.eye(3) / lesion.radius_mm), points_mm())
    near = radii < 1.6
    torch.testing.assert_close(distance[near], radii[near], atol=0.12, rtol=0)


def test_each_large_component_is_a_lesion():
    mask = LESION.copy()
    mask[2:5, 2:5, 2:5] = True  # 0.2 ml
    mask[28, 28, 28] = True
    image = TISSUE.astype(np.float32)
    volumes_ml = [
        4 / 3 * math.pi * each.radius_mm**3 / 1000 for each in find_lesions(image, Scan(mask, VOX2WORLD))
    ]
    assert volumes_ml == pytest.approx([27 * 0.008, LESION.sum() * 0.008])
    assert len(find_lesions(image, Scan(mask, VOX2WORLD), config=LesionBankConfig(least_ml=1.0))) == 1
    assert len(find_lesions(image, Scan(mask, VOX2WORLD), scale=2.0)) == 1  # 0.8 ml at least
    assert find_lesions(image, Scan(np.zeros_like(mask), VOX2WORLD)) == []


# Texture


def texture_inside(lesion):
    """The texture [N] at the voxels of the lesion, a millimetre and more from their surface."""
    blob = lesion.blob(PLACE, torch.eye(3) / lesion.radius_mm)
    inside = distance_in_radii(blob, points_mm()) < 0.7
    assert inside.sum() > 50
    return field_at(blob, lesion.texture, points_mm() / lesion.radius_mm)[inside]


@pytest.mark.parametrize("deviations", [-3.0, 3.0])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.01, 7.0)])
def test_the_texture_is_in_deviations_of_the_tissue_around(deviations, gain, offset):
    image = gain * (TISSUE + LESION * 5 * deviations) + offset
    texture = texture_inside(only_lesion(image))
    assert float(texture.mean()) == pytest.approx(deviations, abs=0.25)
    assert 0.5 < float(texture.std()) < 1.5
    far_off = only_lesion(gain * (TISSUE + LESION * 5e3 * deviations) + offset)
    torch.testing.assert_close(texture_inside(far_off).abs().max(), torch.tensor(LesionBankConfig().most))


def test_what_is_no_tissue_does_not_count():
    """Around are other lesions, blank voxels of an image of the brain alone, and voxels that are not finite."""
    image = TISSUE + LESION * 15
    usual = texture_inside(only_lesion(image))
    others = LESION.copy()
    others[:, 22:26] = True
    for mask, value in ((others, 1e4), (LESION, 0.0), (LESION, np.nan)):
        changed = image.copy()
        changed[:, 22:26] = value
        *_, lesion = find_lesions(changed.astype(np.float32), Scan(mask, VOX2WORLD))
        torch.testing.assert_close(texture_inside(lesion).mean(), usual.mean(), atol=0.3, rtol=0)


@pytest.mark.parametrize("image", [np.full(LESION.shape, 4.0), np.where(LESION, 4.0, 0.0)])
def test_without_varied_tissue_around_there_is_no_texture(image):
    assert not only_lesion(image).texture.any()


# In images


def ball_map():
    """A ball of brain of 30 mm in a cube of head of 123 mm."""
    at = np.indices((41, 41, 41)) - 20
    return LabelMap.of(np.where((at**2).sum(0) <= 100, 101, 1).astype(np.uint8), 3.0)


MAP = ball_map()
WINDOW = Window((41, 41, 41), 3.0, 0.0)
BANK = LesionBank((only_lesion(TISSUE + LESION * 15),))
SICK = SynthConfig(lesion_probability=1.0, cavity_probability=0.0)


def draw(seed, config=SICK, bank=BANK):
    return sample_parameters(config, WINDOW, 1.0, RandomStreams((seed,)), found_lesions=bank)


def same_images(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(*(synthesise([MAP], WINDOW, [each]) for each in (first, second)), strict=True)
    )


def test_found_lesions_lie_in_the_brain_alone():
    points = torch.stack(torch.meshgrid(*[(2 * torch.arange(41) + 1) / 41 - 1] * 3, indexing="ij")[::-1], -1)[None]
    found = BANK.lesions[0]
    image = torch.zeros(1, 41, 41, 41)
    at_border = found.blob(replace(PLACE, share=1.0), torch.eye(3) / found.radius_mm)
    for gain in (0.1, -0.1):
        lesion = Lesion(at_border, (Zone(1.0, 0.5, 1.0),), gain * found.texture, 0.0, 1.0, 0.0)
        there = add_lesions(image, MAP.brain[None], MAP, [lesion], points)[0]
        assert not there[MAP.brain == 0].any()
        values = there[there != 0]
        assert 0 < len(values) * 27 < 0.8 * LESION.sum() * SPACING**3  # part of it is beyond the border
        assert float(values.mean()) == pytest.approx(0.5 + 3 * gain, abs=0.1)


def test_a_share_of_the_lesions_is_found():
    def share(probability):
        config = replace(SICK, found_lesion_probability=probability)
        drawn = [each for seed in range(60) for each in sample_lesions(config, 1.0, RandomStreams((seed,)), BANK)]
        return np.mean([each.blob.field is BANK.lesions[0].uneven for each in drawn])

    assert share(0.0) == 0 and share(1.0) == 1 and share(0.5) == pytest.approx(0.5, abs=0.15)


def test_found_lesions_are_turned_mirrored_and_of_random_size_and_sign():
    config = replace(SICK, found_lesion_probability=1.0)
    drawn = [each for seed in range(40) for each in sample_lesions(config, 1.0, RandomStreams((seed,)), BANK)]
    volumes = np.array([float(torch.linalg.det(each.blob.to_unit)) for each in drawn])
    assert np.mean(volumes < 0) == pytest.approx(0.5, abs=0.2)
    sizes = np.cbrt(1 / np.abs(volumes)) / BANK.lesions[0].radius_mm
    low, high = config.found_lesion_size
    assert low <= sizes.min() < 0.8 and 1.2 < sizes.max() <= high
    means = np.array([float(each.texture.mean()) for each in drawn])
    assert np.mean(means > 0) == pytest.approx(0.5, abs=0.2)
    assert {each.blob.place.share == 1.0 for each in drawn} == {True, False}  # at the border or inside


def test_without_a_bank_all_is_drawn_as_before():
    other = replace(SICK, found_lesion_probability=1.0, found_lesion_gain=(3.0, 4.0))
    for seed in range(4):
        usual = draw(seed, bank=None)
        assert same_images(draw(seed, other, None), usual)
        assert same_images(draw(seed, replace(SICK, found_lesion_probability=0.0)), usual)


def test_a_bank_changes_nothing_but_lesions():
    config = replace(SICK, found_lesion_probability=1.0)
    for seed in range(4):
        usual, other = draw(seed, bank=None), draw(seed, config)
        assert len(usual.lesions) == len(other.lesions)
        assert same_images(replace(other, lesions=usual.lesions), usual)
        assert not same_images(other, usual)
        healthy = replace(config, lesion_probability=0.0)
        assert same_images(draw(seed, healthy), draw(seed, healthy, None))


# Files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A head with a lesion, without one, masks on other grids, and lists of them, seen from another folder."""
    monkeypatch.chdir(tmp_path)
    below = tmp_path / "scans"
    below.mkdir()
    make_head(24).save(tmp_path)

    def save(name, array, vox2world=VOX2WORLD):
        nib.save(nib.Nifti1Image(array, vox2world), below / f"{name}.nii.gz")

    save("image", (TISSUE + LESION * 15).astype(np.float32))
    labels = LESION.astype(np.uint8)
    labels[13:16] *= 4  # several labels of one lesion
    save("lesion", labels)
    save("empty", np.zeros(LESION.shape, np.uint8))
    save("aside", labels, np.diag([3.0, 3.0, 3.0, 1.0]))
    save("shorter", labels[:-1])
    return below


def write_list(folder, *masks, name="lesions.txt"):
    path = folder / name
    lines = [f"image.nii.gz\t{mask}.nii.gz\n" for mask in masks]
    path.write_text("".join(["# image, mask\n\n", *lines]), encoding="utf-8")
    return path


def test_a_list_names_pairs_from_its_own_folder(folder):
    path = write_list(folder, "lesion", "empty")
    expected = [(folder / "image.nii.gz", folder / f"{mask}.nii.gz") for mask in ("lesion", "empty")]
    assert read_pair_list(path) == expected
    path.write_text(f"/a b.nii\t{folder}/c\\td.nii\r\n")
    assert [tuple(map(str, pair)) for pair in read_pair_list(path)] == [("/a b.nii", f"{folder}/c\td.nii")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the list names no image"),
        ("# a\tb\n", "the list names no image"),
        ("a.nii b.nii\n", "line 1 has 1 paths between tabs"),
        ("a.nii\tb.nii\n\na.nii\tb.nii\tc.nii\n", "line 3 has 3 paths between tabs"),
    ],
)
def test_what_is_no_list_of_pairs(tmp_path, text, error):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}: {error}"):
        read_pair_list(path)
    with pytest.raises(InputError, match="an image by its name"):
        read_pair_list(tmp_path / "image.nii.gz")


def test_all_labels_of_a_mask_are_lesion_and_scans_without_are_told_once(folder, caplog):
    bank = read_lesion_bank(read_pair_list(write_list(folder, "lesion", "empty")))
    (lesion,) = bank.lesions
    assert volume_mm3(lesion) == pytest.approx(LESION.sum() * SPACING**3, rel=0.02)
    assert caplog.messages == [f"{folder}/empty.nii.gz: no lesion of 0.1 ml or more"]


LINE = ["train", "-l", "labels.nii.gz", "-o", "m.safetensors", "--device", "cpu", "--no-quality", "-q"]


@pytest.mark.parametrize(
    ("masks", "error"),
    [
        (["lesion", "gone"], "gone.nii.gz: no such file"),
        (["shorter"], "shorter.nii.gz: not on the grid of"),
        (["aside"], "aside.nii.gz: not on the grid of"),
        (["empty"], "none of the lesion masks has a lesion of"),
    ],
)
def test_the_command_says_what_is_wrong_with_lesions(folder, capsys, masks, error):
    write_list(folder, *masks)
    assert main([*LINE, "--lesions", "scans/lesions.txt"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("singlestrip: ") and error in line and "unexpected" not in line
    assert not (folder.parent / "m.checkpoint").exists()


def test_the_command_takes_no_lesions_with_classes_and_no_missing_list(folder, capsys):
    assert main([*LINE, "--lesions", "gone.txt"]) == 1
    assert "gone.txt: cannot be read as a list of pairs (no such file)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*LINE, "--classes", "each", "--lesions", "scans/lesions.txt"])
    assert "--lesions is about brain masks" in capsys.readouterr().err


# Runs


@pytest.mark.parametrize("init", [[], ["--init", "none"]])
def test_the_command_trains_with_the_lesions_of_a_list(folder, monkeypatch, init):
    seen = []
    monkeypatch.setattr(
        cascade_training, "train_cascade", lambda data, out, cascade, config, **_: seen.append((data, config))
    )
    write_list(folder, "lesion")
    assert main([*LINE, *init]) == main([*LINE, *init, "--lesions", "scans/lesions.txt"]) == 0
    (without, usual), (data, config) = seen
    assert without.lesions is None and "lesions" not in without.provenance
    assert len(data.lesions.lesions) == 1
    named = {"image": "image.nii.gz", "mask": "lesion.nii.gz"}
    assert data.provenance["lesions"] == [
        {kind: {"name": name, "sha256": checksum(folder / name)} for kind, name in named.items()}
    ]
    assert usual.synth.lesion_probability == (SynthConfig.lesion_probability if init else 0.0)
    expected = replace(usual.synth, lesion_probability=SynthConfig.lesion_probability)
    assert config == replace(usual, synth=expected)


def test_images_have_lesions_of_the_bank():
    head = make_head(24, spacing_mm=SPACING)
    config = TrainConfig(synth=replace(SICK, found_lesion_probability=1.0))
    usual, sick, again = (
        image_sources([head.native], tiny_cascade(SPACING), config, CPU, lesions=bank)["segmenter"].draw([3], 0)
        for bank in (None, BANK, BANK)
    )
    assert not torch.equal(usual[0], sick[0])
    assert torch.equal(again[0], sick[0])


def test_a_run_is_resumed_with_the_same_lesions(tmp_path):
    head = make_head(24, spacing_mm=SPACING)
    config = TrainConfig(steps=1, amp="off", warmup=1, synth=SICK)
    out = tmp_path / "model.safetensors"

    def train(bank, steps):
        data = TrainingData([head.native], lesions=bank)
        now = replace(config, steps=steps)
        train_cascade(data, out, tiny_cascade(SPACING), now, device=CPU, resume=True)

    train(BANK, 1)
    brighter = LesionBank((only_lesion(TISSUE + LESION * 10),))
    for other in (None, brighter, LesionBank(BANK.lesions * 2)):
        with pytest.raises(ModelError, match="other images or masks"):
            train(other, 2)
    train(BANK, 2)
    assert describe_model(out)["provenance"]["step"] == 2
    assert fingerprint([head.native]) == fingerprint([head.native], lesions=None)


def test_self_training_learns_from_lesions_and_has_them_on_record(folder, monkeypatch):
    torch.manual_seed(0)
    checkpoint.save_model(folder / "first.safetensors", Cascade(tiny_cascade(6.0)), {})
    pair = (folder / "image.nii.gz", folder / "lesion.nii.gz")
    here = folder.parent
    inputs = Inputs(
        here / "image.nii.gz",
        here / "mask.nii.gz",
        (here / "image.nii.gz",),
        model=folder / "first.safetensors",
        lesions=(pair,),
    )
    bank = SelfTraining(here / "run", inputs, Options(), CPU).lesions
    scale = tiny_cascade(6.0).scale
    torch.testing.assert_close(bank.lesions[0].texture, read_lesion_bank([pair], scale).lesions[0].texture)
    (on_record,) = json.loads((here / "run" / "run.json").read_text())["lesions"]
    assert on_record["mask"] == {"name": "lesion.nii.gz", "sha256": checksum(pair[1])}
    with pytest.raises(InputError, match="the run began with another lesions"):
        SelfTraining(here / "run", replace(inputs, lesions=()), Options(), CPU, resume=True)


def test_self_training_has_lesions_as_often_as_training():
    line = ["self-train", "-i", "a.nii", "-m", "b.nii", "--list", "c.txt", "-o", "run"]
    usual, options = (
        self_train._options(build_parser().parse_args([*line, *more])) for more in ([], ["--lesions", "l.txt"])
    )
    assert usual.first.synth == TransferConfig().synth
    for before, after in ((usual.first, options.first), (usual.later, options.later)):
        assert after == replace(before, synth=before.synth.with_lesions())
        assert after.synth.lesion_probability == SynthConfig.lesion_probability
