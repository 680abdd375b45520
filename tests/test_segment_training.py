"""Networks that learn to tell the labels of one map apart."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interruptions import stop_after
from organs import AIR, LEFT, MIDDLE, RIGHT, TABLE, TISSUE, make_body, save_body
from phantoms import STILL, tiny_cascade

from singlestrip.cli.main import main
from singlestrip.configuration import (
    CascadeConfig,
    ClassTrainConfig,
    ShapeConfig,
    SynthConfig,
    TargetClass,
    UNetConfig,
    Window,
)
from singlestrip.errors import InputError, ModelError
from singlestrip.networks import losses
from singlestrip.networks.cascade import Cascade, brain_logit
from singlestrip.networks.checkpoint import load_model, save_model
from singlestrip.networks.engine_choice import load_engine
from singlestrip.networks.losses import class_loss
from singlestrip.space.metrics import dice
from singlestrip.stripping.segmenter import Segmenter
from singlestrip.stripping.stripper import Stripper
from singlestrip.synthesis.class_shares import class_shares
from singlestrip.synthesis.generation_maps import read_class_maps
from singlestrip.synthesis.image import sample_parameters, synthesise
from singlestrip.synthesis.shape import window_coordinates
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training.cascade import TrainingData, begin_with, train_cascade
from singlestrip.training.maps import conform_map, fingerprint

CPU = torch.device("cpu")


@pytest.fixture
def body(tmp_path):
    return save_body(tmp_path)


@pytest.fixture
def maps(body):
    return read_class_maps([body[0]], body[1])


def shares_of(maps, shape_config, seed=0):
    """Shares of one image without jitter, and the label map that it is of."""
    config = CascadeConfig(classes=maps.classes)
    source = conform_map(maps.maps[0].map, 6.0, CPU, config.mirrored_channels)
    window = Window((32,) * 3, 6.0, 0.0)
    parameters = sample_parameters(SynthConfig(shape=shape_config), window, 1.0, RandomStreams((seed,)))
    image, shares, weight = synthesise([source], window, [parameters])
    assert image.shape == weight.shape == (1, 1, 32, 32, 32)
    return shares[0], source, parameters


def test_targets_are_the_channels_of_the_table(maps):
    assert [each.number for each in maps.classes] == [LEFT, MIDDLE, RIGHT]
    labels, _ = make_body()
    expected = np.select([labels == LEFT, labels == MIDDLE, labels == RIGHT], [1, 2, 3], 0)
    np.testing.assert_array_equal(maps.maps[0].map.targets, expected)
    source = maps.maps[0].source
    assert source["brain"] == [LEFT, MIDDLE, RIGHT] and source["table"]["name"] == "classes.tsv"


def test_left_and_right_are_drawn_with_one_intensity(maps):
    native, (labels, _) = maps.maps[0].map, make_body()
    left, right = (np.unique(native.labels[labels == number]) for number in (LEFT, RIGHT))
    np.testing.assert_array_equal(left, right)


def test_shares_of_a_still_head_are_its_labels(maps):
    shares, source, _ = shares_of(maps, STILL)
    assert torch.allclose(shares.sum(0), torch.ones(()), atol=1e-5)
    middle = source.brain_mm / 6.0
    moved = torch.roll(source.targets.channels, (-middle).round().int().tolist(), (0, 1, 2))
    for channel in (1, 2, 3):
        assert dice(shares[channel].numpy() > 0.5, moved.numpy() == channel) > 0.9


def test_shares_are_those_of_grid_sample(maps):
    shares, source, parameters = shares_of(maps, ShapeConfig(flip_probability=0.0), seed=3)
    window = Window((32,) * 3, 6.0, 0.0)
    points = window_coordinates(window, [parameters.shape], CPU, source.grid_from_mm()[None])
    maps_of_channels = torch.stack([(source.targets.channels == k).float() for k in range(1, 4)])
    expected = F.grid_sample(maps_of_channels[None], points, align_corners=False)[0]
    assert torch.allclose(shares[1:], expected, atol=1e-4)
    assert torch.equal(class_shares([source], [parameters.shape], points)[0], shares)


def test_sides_change_places_in_a_mirrored_head(maps):
    still, *_ = shares_of(maps, STILL)
    mirrored, *_ = shares_of(maps, dataclasses.replace(STILL, flip_probability=1.0))
    assert torch.allclose(mirrored.flip(1), still[[0, 3, 2, 1]], atol=0.02)
    # What lies on the left is called left, whichever side of the map it is from.
    assert float(mirrored[1, :16].sum()) > 0 and float(mirrored[1, 16:].sum()) == 0


def test_words_say_which_classes_are_brain(body):
    read = read_class_maps([body[0]], body[1], ["Liver"])
    assert [each.brain for each in read.classes] == [False, True, False]
    inside = read.maps[0].map.labels > 100
    assert inside[make_body()[0] == MIDDLE].all() and not inside[make_body()[0] == LEFT].any()


def test_without_a_table_each_label_is_a_class_and_all_are_what_is_looked_for(body):
    body[1].unlink()
    read = read_class_maps([body[0]])
    assert [each.number for each in read.classes] == [TISSUE, LEFT, MIDDLE, RIGHT]
    assert not read.knows_sides and not any(each.brain for each in read.classes)
    np.testing.assert_array_equal(read.maps[0].map.labels > 100, make_body()[0] > 0)


def test_a_table_that_lacks_a_label(body):
    body[1].write_text("index\tname\n10\tLeft-Kidney\n49\tRight-Kidney\n")
    with pytest.raises(
        InputError, match=r"body.nii.gz: has the label 7, which the table of classes does not list"
    ):
        read_class_maps([body[0]], body[1])


def test_other_targets_are_other_data(maps):
    native = maps.maps[0].map
    other = dataclasses.replace(native, targets=1 * (native.targets == 1).astype(np.uint8))
    assert fingerprint([native]) != fingerprint([other])


def test_loss_of_two_classes_by_hand():
    target = torch.zeros(1, 3, 1, 1, 4)
    target[0, [1, 1, 2, 0], 0, 0, [0, 1, 2, 3]] = 1
    weight = torch.ones(1, 1, 1, 1, 4)
    assert float(class_loss(100 * target, target, weight, 1.0)) == pytest.approx(0, abs=1e-6)
    # Equal probabilities: overlap 2/3 and 1/3, sizes 4/9 + 2 and 4/9 + 1.
    dice_loss = 1 - ((4 / 3 + 1) / (4 / 9 + 3) + (2 / 3 + 1) / (4 / 9 + 2)) / 2
    assert float(class_loss(0 * target, target, weight, 0.0)) == pytest.approx(dice_loss, rel=1e-5)
    assert float(class_loss(0 * target, target, weight, 2.0)) == pytest.approx(dice_loss + 2 * np.log(3), rel=1e-5)


def test_the_gradient_of_the_loss_of_classes_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setattr(losses, "PART_VOXELS", 4)  # several parts, the last one smaller
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 1, 2, 3, generator=draw, dtype=torch.float64).requires_grad_()
    target = (2 * torch.randn(2, 3, 1, 2, 3, generator=draw, dtype=torch.float64)).softmax(1)
    weight = torch.rand(2, 1, 1, 2, 3, generator=draw, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: class_loss(z, target, weight, 0.7), logits)


def test_what_is_not_covered_does_not_count_in_the_loss_of_classes():
    target = torch.zeros(1, 2, 1, 1, 4)
    target[0, 1, 0, 0, :2] = 1
    target[0, 0, 0, 0, 2:] = 1
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 1, 4)
    logits = 100 * target
    wrong = logits.clone()
    wrong[..., 3] = wrong[..., 3].flip(1)
    assert float(class_loss(wrong, target, weight, 1.0)) == pytest.approx(0, abs=1e-6)


def test_the_brain_of_classes_is_the_sum_of_those_that_are_brain():
    config = dataclasses.replace(
        tiny_cascade(),
        classes=(TargetClass(1, "a", brain=True), TargetClass(2, "b"), TargetClass(3, "c", brain=True)),
    )
    logits = torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    probability = logits.softmax(1)[:, [1, 3]].sum(1, keepdim=True)
    assert torch.allclose(torch.sigmoid(brain_logit(logits, config)), probability, atol=1e-6)
    assert torch.equal(brain_logit(logits[:, :1], tiny_cascade()), logits[:, :1])


def test_a_model_without_brain_does_not_strip():
    config = dataclasses.replace(tiny_cascade(), classes=(TargetClass(1, "a"),))
    with pytest.raises(ModelError, match="none of the classes that the model tells apart is brain"):
        Stripper(Cascade(config))


def test_both_engines_tell_the_same_classes(tmp_path):
    torch.manual_seed(0)
    classes = (TargetClass(1, "a", brain=True), TargetClass(2, "b"))
    config = dataclasses.replace(tiny_cascade(), classes=classes)
    save_model(tmp_path / "m.safetensors", Cascade(config), {})
    image = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    engines = [load_engine(tmp_path / "m.safetensors", engine=name)[0] for name in ("openvino", "torch")]
    first, second = (engine.run("segmenter", image) for engine in engines)
    assert first.shape == (1, 3, 16, 16, 16) and np.abs(first).max() > 0.01
    np.testing.assert_allclose(first, second, atol=0.05)  # processors may compute in 16 bits


def test_networks_begin_with_all_layers_but_the_last():
    torch.manual_seed(0)
    init, classes = Cascade(tiny_cascade()), (TargetClass(1, "a"), TargetClass(2, "b"))
    model = Cascade(dataclasses.replace(tiny_cascade(), classes=classes))
    begin_with(model, init)
    same = {
        name: torch.equal(value, init.state_dict()[name])
        for name, value in model.state_dict().items()
        if not name.startswith("segmenter.head")
    }
    assert all(same.values()) and torch.equal(model.locator.head.weight, init.locator.head.weight)
    other = Cascade(model.config)
    begin_with(other, model)
    assert torch.equal(other.segmenter.head.weight, model.segmenter.head.weight)


@pytest.fixture
def tiny(tmp_path):
    """A model to begin with."""
    torch.manual_seed(0)
    save_model(tmp_path / "tiny.safetensors", Cascade(tiny_cascade()), {})
    return tmp_path / "tiny.safetensors"


def train(body, tiny, *options):
    """The arguments of a short run on a body."""
    labels, table = body
    out = labels.with_name("organs.safetensors")
    given = ["train", "-l", labels, "--classes", table, "--init", tiny, "-o", out, "--no-quality", "--steps", 2]
    return [str(each) for each in (*given, *options)]


def test_the_command_learns_classes(body, tiny):
    sheet = body[0].with_name("sheet.png")
    assert main([*train(body, tiny), "--picture", str(sheet)]) == 0
    model, header = load_model(body[0].with_name("organs.safetensors"))
    assert [(each.number, each.side, each.brain) for each in model.config.classes] == [
        (LEFT, "left", True),
        (MIDDLE, "none", True),
        (RIGHT, "right", True),
    ]
    assert header["format_version"] == 3 and header["anatomy"] is not None
    assert header["provenance"]["configuration"]["synth"]["shape"]["flip_probability"] == 0.5
    assert header["provenance"]["labelled"][0]["table"]["name"] == "classes.tsv"
    assert sheet.stat().st_size > 0
    assert Segmenter.load(body[0].with_name("organs.safetensors")).classes == model.config.classes


def test_heads_are_not_mirrored_if_sides_are_unknown(body, tiny):
    labels, _ = body
    assert main(train((labels, "each"), tiny)) == 0
    model, header = load_model(labels.with_name("organs.safetensors"))
    assert [each.name for each in model.config.classes] == ["7", "10", "16", "49"]
    assert header["provenance"]["configuration"]["synth"]["shape"]["flip_probability"] == 0
    assert header["anatomy"] is None


def test_a_run_goes_on_with_its_own_classes_alone(body, tiny, capsys):
    assert main(train(body, tiny)) == 0
    assert main(train(body, tiny, "--resume", "--steps", 3)) == 0
    body[1].write_text(TABLE.replace("Liver", "Spleen"), encoding="utf-8")
    assert main(train(body, tiny, "--resume", "--steps", 4)) == 1
    assert "the run began with networks of another shape" in capsys.readouterr().err


def test_a_run_that_was_stopped_gives_the_same_model(body, tiny, monkeypatch):
    arguments = train(body, tiny, "--steps", 4)
    model, checkpoint = (body[0].with_name(f"organs.{suffix}") for suffix in ("safetensors", "checkpoint"))
    assert main(arguments) == 0
    unbroken = load_model(model)[0].state_dict()
    model.unlink()
    checkpoint.unlink()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(arguments) > 0
    assert not model.exists()
    assert main([*arguments, "--resume"]) == 0
    resumed = load_model(model)[0].state_dict()
    assert all(torch.equal(resumed[name], weights) for name, weights in unbroken.items())


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["-m", "mask.nii.gz", "-i", "image.nii.gz"], "--classes is about label maps"),
        (["--label-table", "names.tsv"], "the table of classes has them"),
        (["-i", "a.nii.gz", "b.nii.gz"], "give one image per map"),
    ],
)
def test_options_that_classes_do_not_go_with(body, tiny, capsys, options, fault):
    with pytest.raises(SystemExit) as stopped:
        main(train(body, tiny, *options))
    assert stopped.value.code == 2 and fault in capsys.readouterr().err


def test_faults_of_a_table_are_told_by_the_command(body, tiny, capsys):
    body[1].write_text(TABLE.replace("Right-Kidney", "Right-Lung"), encoding="utf-8")
    assert main(train(body, tiny)) == 1
    assert "class 10 (Left-Kidney) lies on the left and has no partner on the right" in capsys.readouterr().err


def test_an_image_parts_labels_and_is_no_labelled_scan(body, maps):
    labels, vox2world = make_body()
    image = body[0].with_name("image.nii.gz")
    halves = np.arange(32)[None, None, :] > 16
    nib.save(nib.Nifti1Image((labels + 100.0 * halves).astype(np.float32), vox2world), image)
    read = read_class_maps([body[0]], body[1], images=[image])
    assert read.maps[0].scan is None and read.maps[0].source["parted_by"] == "image"
    parts = [len(np.unique(each.maps[0].map.labels[labels == MIDDLE])) for each in (maps, read)]
    assert parts[1] > parts[0] == 1
    np.testing.assert_array_equal(read.maps[0].map.targets, maps.maps[0].map.targets)


@pytest.mark.slow
def test_organs_of_another_body_in_another_contrast(body, tmp_path):
    """Learned from one map: none of the organs is brain, and they are sought together."""
    body[1].write_text(TABLE.replace("\t1\t", "\t0\t"), encoding="utf-8")
    read = read_class_maps([body[0]], body[1])
    easy = SynthConfig(
        shape=ShapeConfig(rotation_deg=5, turn_probability=0, scaling=(0.9, 1.1), warp_mm=(0, 0, 0)),
        crop_probability=0, masked_probability=0, slice_probability=0, noise=(0, 0.02), smoothing_mm=(0, 1),
        smooth_classes_probability=0, joint_probability=0, region_probability=0, layer_probability=0,
        structures_probability=0, surroundings_probability=0, coil_probability=0,
    ).whole()  # fmt: skip
    config = ClassTrainConfig(
        steps=250, lr=2e-2, warmup=5, average=0.9, source_factor=1.0, locator_draws=2, amp="off", synth=easy
    )
    segmenter, locator = UNetConfig(widths=(8, 16)), UNetConfig(widths=(8, 16))
    cascade = CascadeConfig(6.0, segmenter, 32, locator, 16, 2.0, 0, classes=read.classes)
    model = tmp_path / "organs.safetensors"
    train_cascade(TrainingData([read.maps[0].map]), model, cascade, config, device=CPU)
    labels, vox2world = make_body(scale=0.97)
    image = np.select([labels == number for number in (AIR, TISSUE, MIDDLE)], [0.02, 0.35, 0.9], 0.15)
    image += 0.02 * np.random.default_rng(0).standard_normal(labels.shape)
    segmented = Segmenter.load(model).segment(image.astype(np.float32), vox2world)
    assert np.mean([dice(segmented.labels == number, labels == number) for number in (LEFT, MIDDLE, RIGHT)]) > 0.9
