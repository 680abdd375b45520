"""Does no harm: a round whose pseudo-labels are wrong leaves the model as it was, and says why."""

import json
import logging
from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import make_head, threshold_cascade, tiny_cascade

from singlestrip.configuration import (
    AutoencoderConfig,
    GMMConfig,
    GuardConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    ShapeConfig,
    SynthConfig,
    TrainConfig,
)
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.model_header import Anatomy
from singlestrip.quality.scores import QualityModel
from singlestrip.self_training import changes, cost, guard, rounds, scans
from singlestrip.self_training.decision import PLACES, Decision, Standing
from singlestrip.self_training.plan import Inputs, Options, recorded_synthesis
from singlestrip.self_training.rounds import SelfTraining
from singlestrip.space.metrics import volume_ml
from singlestrip.stripping.stripper import Stripper
from singlestrip.training.cascade import TrainingData, train_cascade
from singlestrip.training.maps import image_sources

CPU = torch.device("cpu")
VOXEL_MM = 6.0
HEAD = make_head(24, VOXEL_MM)
BRAIN_ML = volume_ml(HEAD.mask, HEAD.vox2world)
NOTHING_HAPPENS = {each.name: 0.0 for each in fields(SynthConfig) if each.name.endswith("_probability")}
STILL = ShapeConfig(
    rotation_deg=5, turn_probability=0, scaling=(0.95, 1.05), anisotropy=0, shear=0, warp_mm=(0, 0, 0)
)
EASY = SynthConfig(
    shape=STILL, **(NOTHING_HAPPENS | {"smooth_classes_probability": 1.0, "joint_probability": 1.0})
)
LEARNING = {
    "warmup": 5,
    "average": 0.95,
    "amp": "off",
    "synth": EASY,
    "locator_jitter_mm": 20.0,
    "wide_probability": 0.0,
}
# Few steps of a tiny network move what is measured by some hundredths; wrong pseudo-labels by some tenths.
TRUSTING = GuardConfig(images=8, labelled=0.25, segmenter=0.25, locator=0.25, agreement=0.25)
OPTIONS = Options(
    rounds=SelfTrainConfig(
        keep=4, threshold=0.0, usual_volumes=False, example_share=0.1, spared_voxels=0.0, guard=TRUSTING
    ),
    later=RoundTrainConfig(steps=40, lr=0.003, **LEARNING),
    gmm=GMMConfig(inside=2, outside=2, sample=2000),
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Tiny networks that have learned the phantom."""
    path = tmp_path_factory.mktemp("learned") / "first.safetensors"
    data = TrainingData([HEAD.native], scans=[HEAD.labelled], anatomy=Anatomy((BRAIN_ML,)))
    config = TrainConfig(steps=150, lr=0.01, **LEARNING)
    train_cascade(data, path, tiny_cascade(9.0), config, device=CPU)
    return path


@pytest.fixture
def inputs(tmp_path, learned):
    """A labelled head, six unlabelled ones, and networks."""
    image, mask, _ = HEAD.save(tmp_path)
    paths = []
    for number in range(6):
        head = make_head(24, VOXEL_MM, noise=2.0 + number)
        paths.append(tmp_path / f"scan{number}.nii.gz")
        nib.save(nib.Nifti1Image(head.image, head.vox2world), paths[-1])
    config = AutoencoderConfig(size=16, voxel_size_mm=9.0, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8)))
    checkpoint.save_model(tmp_path / "quality.safetensors", Autoencoder(config), {})
    return Inputs(image, mask, tuple(paths), model=learned, quality=tmp_path / "quality.safetensors")


def poison(monkeypatch, voxels):
    """Shift the masks of unlabelled scans to the right."""
    strip = scans.strip_image

    def shifted(stripper, image):
        stripped = strip(stripper, image)
        return replace(stripped, mask=np.roll(stripped.mask, voxels, axis=0))

    monkeypatch.setattr(scans, "strip_image", shifted)


def cascade_weights(path):
    return checkpoint.load_model(path)[0].state_dict()


def same_weights(first, second):
    return all(
        torch.equal(weight, cascade_weights(second)[name]) for name, weight in cascade_weights(first).items()
    )


def test_poisoned_pseudo_labels_leave_the_model_as_it_was(inputs, tmp_path, monkeypatch, caplog):
    poison(monkeypatch, 10)
    folder = tmp_path / "run"
    final = SelfTraining(folder, inputs, OPTIONS, CPU).run()
    assert same_weights(final, inputs.model) and not same_weights(
        folder / "round-1/model.safetensors", inputs.model
    )
    assert not (folder / "round-2").exists()  # it would be the same again
    (said,) = [text for text in caplog.messages if text.startswith("round-1: Its model is dropped")]
    assert "worse on the labelled scan (0.8" in said
    decision = json.loads((folder / "run.json").read_text())["decisions"]["1"]
    assert decision["faults"] and decision["after"]["labelled"] < decision["before"]["labelled"] - 0.25
    for page in (folder / "index.html", folder / "round-1/index.html"):
        assert "is dropped, the one before stays: worse on the labelled scan" in page.read_text()
    again = SelfTraining(folder, inputs, OPTIONS, CPU, resume=True).run()  # by what is on record
    assert same_weights(again, inputs.model) and not (folder / "round-2").exists()


def test_right_pseudo_labels_replace_the_model(inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "run"
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1))
    final = SelfTraining(folder, inputs, options, CPU).run()
    assert same_weights(final, folder / "round-1/model.safetensors") and not same_weights(final, inputs.model)
    (said,) = [text for text in caplog.messages if text.startswith("round-1: Its model is no worse")]
    assert all(place in said for place in PLACES.values())
    page = (folder / "round-1/index.html").read_text()
    assert "scan3" in page and "volume after ml" in page and "scan1" not in page  # scan3 was kept apart
    assert (folder / "round-1/pictures/scan3.png").stat().st_size > 1000


def test_a_worse_model_is_accepted_if_that_is_asked_for(inputs, tmp_path, monkeypatch, caplog):
    poison(monkeypatch, 10)
    monkeypatch.setattr(guard, "compare_scans", lambda *arguments: [])
    options = replace(OPTIONS, rounds=replace(OPTIONS.rounds, rounds=1, accept_worse=True))
    final = SelfTraining(tmp_path / "run", inputs, options, CPU).run()
    assert same_weights(final, tmp_path / "run/round-1/model.safetensors")
    assert any("is kept all the same: worse on the labelled scan" in text for text in caplog.messages)


def test_a_later_round_without_pseudo_labels_ends_the_run(inputs, tmp_path, monkeypatch, caplog):
    """What was learned before is kept; in the first round it is an error."""
    monkeypatch.setattr(guard, "compare_scans", lambda *arguments: [])
    monkeypatch.setattr(rounds, "train_cascade", lambda data, out, *_, **__: out.write_bytes(weights))
    weights = inputs.model.read_bytes()
    real = rounds.select

    def select(scores, config, unusable):
        none_left = (tmp_path / "run/round-2").exists()
        return real(scores, replace(config, threshold=1.1) if none_left else config, unusable)

    monkeypatch.setattr(rounds, "select", select)
    final = SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU).run()
    assert same_weights(final, inputs.model)
    assert any("no unlabelled scan gives a pseudo-label" in text for text in caplog.messages)


# What is compared


BEFORE = Standing(0.95, 0.9, 0.8, 0.97)


@pytest.mark.parametrize("name", PLACES)
def test_each_measure_may_fall_by_its_margin(name):
    config = GuardConfig()
    margin = getattr(config, name)
    for fall, worse in ((margin * 0.9, False), (margin * 1.1, True), (-0.03, False)):
        after = replace(BEFORE, **{name: getattr(BEFORE, name) - fall})
        faults = Decision.of(BEFORE, after, config).faults
        assert bool(faults) == worse and all(PLACES[name] in fault for fault in faults)


def test_without_scans_that_can_be_read_the_agreement_does_not_count():
    nothing = replace(BEFORE, agreement=None)
    assert not Decision.of(nothing, nothing, GuardConfig()).faults
    assert PLACES["agreement"] not in Decision.of(nothing, nothing, GuardConfig()).describe()
    assert changes.mean_agreement([]) == (None, None)


def test_networks_are_measured_on_images_that_no_training_has_seen(learned, monkeypatch):
    model = checkpoint.load_model(learned)[0]
    sources = image_sources([HEAD.native], model.config, TrainConfig(**LEARNING), CPU)
    usual = guard.synthetic_dice(model, sources, TRUSTING)
    assert usual["segmenter"] > 0.7 and usual["locator"] > 0.7
    assert usual == guard.synthetic_dice(model, sources, TRUSTING)
    with torch.no_grad():
        model.segmenter.head.bias += 100
    all_brain = guard.synthetic_dice(model, sources, TRUSTING)
    assert all_brain["segmenter"] < usual["segmenter"] and all_brain["locator"] == usual["locator"]
    numbers = []
    draw = type(sources["segmenter"]).draw
    monkeypatch.setattr(
        type(sources["segmenter"]),
        "draw",
        lambda self, given, batch: numbers.extend(given) or draw(self, given, batch),
    )
    guard.synthetic_dice(model, sources, replace(TRUSTING, images=3))
    assert len(numbers) == 6 and min(numbers) >= 2**31


def test_scans_that_changed_most_come_first(tmp_path, monkeypatch):
    """Scans that cannot be read are left out; one without a brain has an empty mask and no agreement."""
    drawn = []
    monkeypatch.setattr(
        changes.figures, "comparison_figure", lambda cases, path: drawn.append((cases[0], path.name))
    )
    shifts = {"a": 1, "b": 4, "c": 0, "dark": 0}
    listed = []
    for name, shift in shifts.items():
        path = tmp_path / f"{name}.nii.gz"
        image = np.zeros_like(HEAD.image) if name == "dark" else np.roll(HEAD.image, shift, axis=0)
        nib.save(nib.Nifti1Image(image, HEAD.vox2world), path)
        listed.append(scans.UnlabelledScan(path, name))
    listed.append(scans.UnlabelledScan(tmp_path / "gone.nii.gz", "gone"))
    before = Stripper(threshold_cascade(), anatomy=Anatomy((BRAIN_ML,)))
    after = Stripper(threshold_cascade(), anatomy=Anatomy((BRAIN_ML,)))
    real = after.strip
    after.strip = lambda scan: replace(real(scan), mask=HEAD.mask)  # whatever it is shown
    config = AutoencoderConfig(size=16, voxel_size_mm=9.0, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8)))
    compared = changes.compare_scans(listed, before, after, QualityModel(Autoencoder(config)), tmp_path)
    assert [each.name for each in compared] == ["b", "a", "c", "dark"]
    assert compared[2].dice > compared[1].dice > compared[0].dice
    assert compared[3].agreement_before == 0 and compared[3].volume_before_ml == 0
    assert {name for _, name in drawn} == {f"{name}.png" for name in shifts}
    before_mean, after_mean = changes.mean_agreement(compared)
    assert before_mean == pytest.approx(sum(each.agreement_before for each in compared) / 4) and after_mean > 0


# What is foreseen


def test_the_cost_is_said_at_the_start(inputs, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    monkeypatch.setattr(
        rounds, "foresee_cost", lambda work, *rest: seen.append(work) or cost.Cost(80, 22, 7260, 5e6)
    )
    monkeypatch.setattr(SelfTraining, "_first_model", lambda self: 1 / 0)
    task = SelfTraining(tmp_path / "run", inputs, OPTIONS, CPU)
    with pytest.raises(ZeroDivisionError):
        task.run()
    assert caplog.messages[0] == f"{tmp_path / 'run'}: 80 steps and 22 masks, about 2 h 1 min and 5 MB of disk"
    (work,) = seen
    assert work.trainings == [OPTIONS.later] * 2 and work.epochs == 0
    # In each of two rounds: six scans to score, four to fit classes to, one to compare two models on.
    assert (work.masks, work.pictures, work.label_maps) == (2 * (6 + 4 + 2), 6 + 2, 8)
    task.record.add_finished("round-1")
    with pytest.raises(ZeroDivisionError):
        task.run()
    assert seen[1].trainings == [OPTIONS.later]
    task.record.add_finished("round-2")
    with pytest.raises(ZeroDivisionError):
        task.run()
    assert len(seen) == 2  # nothing is left to do


def test_the_cost_grows_with_the_work(learned):
    model = checkpoint.load_model(learned)[0]
    little = cost.Work([OPTIONS.later], epochs=0, masks=0, pictures=1, label_maps=1)
    much = cost.Work([replace(OPTIONS.later, steps=40_000)] * 2, epochs=60, masks=10, pictures=100, label_maps=10)
    costs = [
        cost.foresee_cost(work, HEAD.native, HEAD.labelled.scan, model, model.config, CPU)
        for work in (little, much)
    ]
    assert [each.steps for each in costs] == [40, 80_000] and [each.masks for each in costs] == [0, 10]
    assert costs[1].seconds > costs[0].seconds + 60 * cost.QUALITY_EPOCH_SECONDS
    assert costs[1].bytes - costs[0].bytes > 99 * cost.PICTURE_BYTES


def test_rounds_synthesise_as_the_model_learned():
    recorded = {"configuration": {"synth": {"layer_probability": 0.25, "of_another_version": 1}}}
    assert recorded_synthesis(recorded) == SynthConfig(layer_probability=0.25)
    for damaged in ({}, {"configuration": None}, {"configuration": {"synth": {"noise": "much"}}}):
        assert recorded_synthesis(damaged) == SynthConfig()
