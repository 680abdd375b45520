"""Evidence of masks by hand, reasons, and the trees that make an estimate of it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from phantoms import PhantomCascade, make_head

from singlestrip.configuration import AutoencoderConfig, CaseConfig, EstimatorConfig
from singlestrip.errors import ModelError
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.trees import Estimator, Interval, Tree, TreeSum
from singlestrip.quality.calibration import calibrate
from singlestrip.quality.cases import CaseSource
from singlestrip.quality.estimator import _fit_own, _to_target, estimate_dice, fit_estimator
from singlestrip.quality.evidence import (
    OF_DIFFERENCE,
    OF_IMAGE,
    OF_MASK,
    OF_NETWORKS,
    ImageWindow,
    SeenMask,
    difference,
    image_evidence,
    mask_evidence,
    networks_evidence,
    own_mask,
)
from singlestrip.quality.reasons import find_reasons, touched_faces
from singlestrip.quality.reconstruction import Reconstruction
from singlestrip.quality.scores import QualityModel
from singlestrip.space.grid import Grid
from singlestrip.space.scan import Scan
from singlestrip.stripping.brain_field import BrainField

GRID = Grid.conformed((0, 0, 0), (40, 40, 40), 2.0)
AWAY = np.sqrt(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0))  # voxels from the middle


def seen(mask, image):
    """A mask on an image, both on GRID."""
    window = ImageWindow(image.astype(np.float32), GRID)
    return SeenMask.of(Scan(mask, GRID.vox2world), window)


ALL = (*OF_MASK, *OF_IMAGE, *OF_NETWORKS, *OF_DIFFERENCE)


# Evidence


def test_the_dark_share_by_hand():
    """Half of the mask lies where the image is 0."""
    x = np.indices((40, 40, 40))[0]
    image = np.where(x < 20, 0.0, 1.0) * (AWAY < 18)
    assert image_evidence(seen(AWAY < 10, image))["dark"] == pytest.approx(0.5)


def test_a_mask_of_black_space_is_dark():
    """All of it is darker than a hundredth of the brightest of the image."""
    image = np.where(AWAY < 12, 1.0, 0.01 * (np.indices(AWAY.shape)[0] / 40))
    assert image_evidence(seen((AWAY > 14) & (AWAY < 18), image))["dark"] == 1


def test_voxels_beyond_the_image_are_dark():
    image = np.where(np.indices((40, 40, 40))[0] < 20, np.nan, 0.5 + 0.01 * AWAY)
    assert image_evidence(seen(AWAY < 10, image))["dark"] == pytest.approx(0.5, abs=0.01)


def test_evidence_of_the_networks_by_hand():
    """The networks see a ball; one of their views is empty. Of their own mask, what is told is handed on."""
    logit = np.where(AWAY < 10, 20.0, -20.0).astype(np.float32)
    views = np.stack([logit, logit, np.full_like(logit, -20)])
    field = BrainField(logit, GRID.vox2world, views=views)
    own = {each.name.removeprefix("own_"): number for number, each in enumerate(OF_NETWORKS)}
    evidence = networks_evidence(field, own)
    assert evidence["views"] == pytest.approx(2 / 3) and evidence["least_view"] == 0
    assert all(evidence[name] == own[name.removeprefix("own_")] for name in evidence if name.startswith("own_"))
    np.testing.assert_array_equal(own_mask(field), AWAY < 10)


def test_the_difference_of_masks_by_hand():
    """A mask that is half of the other one."""
    ball = AWAY < 10
    half = ball & (np.indices(ball.shape)[0] < 20)
    assert difference(half, ball) == pytest.approx({"model_dice": 2 / 3, "model_volume": np.log(0.5)}, abs=1e-3)
    assert difference(ball, ball) == {"model_dice": 1, "model_volume": 0}


def test_evidence_of_a_mask_by_hand():
    """A block of 10 voxels with a hole of one, and a block of two beside it."""
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[5:15, 5:15, 5:15] = True
    mask[9, 9, 9] = False
    mask[20:22, 20:22, 20:22] = True
    vox2world = np.diag([1.0, 1.0, 1.0, 1.0])
    part = np.zeros((8, 8, 8), dtype=np.float32)
    part[2:6, 2:6, 2:6] = 1
    evidence = mask_evidence(Scan(mask, vox2world), Reconstruction(part, part, np.diag([4.0, 4, 4, 1]), 0.0))
    assert evidence["apart"] == pytest.approx(8 / 1007) and evidence["holes"] == pytest.approx(1 / 1007)
    assert (evidence["shape_dice"], evidence["shape_hd95"], evidence["lowest_slice"]) == (1, 0, 1)


def test_each_measurement_is_made():
    image = 1 / (1 + np.exp(2 * (AWAY - 12)))
    logit = (12 - AWAY).astype(np.float32)
    mask = Scan(AWAY < 12, GRID.vox2world)
    rebuilt = Reconstruction(*2 * [(AWAY < 12).astype(np.float32)], GRID.vox2world, 0.0)
    own = mask_evidence(mask, rebuilt) | image_evidence(seen(mask.array, image))
    field = BrainField(logit, GRID.vox2world, views=logit[None])
    made = own | networks_evidence(field, own) | difference(mask.array, own_mask(field))
    assert set(made) == {each.name for each in ALL}
    assert np.isfinite(list(made.values())).all()


# Reasons

NOTHING = {"shape_dice": 0.93, "apart": 0.0, "holes": 0.0}


def reasons(full=False, unusual="", faces=(), **evidence):
    return find_reasons(NOTHING | evidence, full, unusual, faces)


def test_a_good_mask_has_no_reasons():
    assert reasons(dark=0.01, model_dice=0.99, model_volume=0.01, views=0.98) == ()


def test_reasons_by_hand():
    assert reasons(full=True) == ("fills the image",)
    assert reasons(unusual="brain of 3 ml") == ("brain of 3 ml",)
    assert reasons(dark=0.5) == ("50 % of it is as dark as the darkest of the image",)
    assert reasons(model_dice=0.8, model_volume=np.log(1.5)) == ("50 % larger than the mask of the networks",)
    assert reasons(model_dice=0.8, model_volume=np.log(0.5)) == ("50 % smaller than the mask of the networks",)
    assert reasons(model_dice=0.8, model_volume=0.0) == ("elsewhere than the mask of the networks (Dice 0.80)",)
    assert reasons(views=0.7) == ("the views of the networks agree by 0.70 only",)
    assert reasons(shape_dice=0.5) == ("not the shape of a brain",)
    assert reasons(apart=0.2) == ("20 % lies apart from the largest part",)
    assert reasons(holes=0.1) == ("has holes",)
    assert reasons(faces=["lower"]) == ("touches the lower face of the image",)
    assert reasons(faces=["left", "lower"]) == ("touches the left and lower faces of the image",)
    assert reasons(faces=["left", "right", "lower"]) == ("touches the left, right and lower faces of the image",)


def test_faces_are_named_by_the_side_of_the_head():
    """Axes that run to the left, to the back and down: the first slices are right, anterior and upper."""
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[0, 4, 7] = True
    assert touched_faces(mask, Grid(mask.shape, np.diag([1.0, 1, 1, 1]))) == ["left", "upper"]
    assert touched_faces(mask, Grid(mask.shape, np.diag([-1.0, -1, -1, 1]))) == ["right", "lower"]
    assert touched_faces(np.zeros((8, 8, 8), dtype=bool), Grid((8, 8, 8), np.eye(4))) == []
    assert touched_faces(np.ones((8, 8, 3), dtype=bool), Grid((8, 8, 3), np.eye(4))) == [
        *("left", "right"), *("posterior", "anterior"),
    ]  # fmt: skip


# Trees

STEP = Tree((0, 0, 0), (0.5, 0.0, 0.0), (1, 0, 0), (2, 0, 0), (0.0, -1.0, 3.0))


def test_a_tree_by_hand():
    assert [STEP.leaf([value]) for value in (0.4, 0.5, 0.6)] == [-1.0, -1.0, 3.0]
    assert TreeSum(("other", "name"), 10.0, (replace(STEP, measurement=(1, 0, 0)),)).of(
        {"name": 1.0, "other": 0.0}
    ) == pytest.approx(13.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"below": (0, 0, 0)},  # one side leads back to the root
        {"above": (3, 0, 0)},
        {"below": (1, 1, 0)},
        {"value": (0.0, 1.0)},
    ],
)
def test_trees_that_do_not_end_are_refused(fault):
    with pytest.raises(ValueError, match="tree"):
        replace(STEP, **fault)


def test_a_measurement_without_a_name_is_refused():
    with pytest.raises(ValueError, match="no name"):
        TreeSum((), 0.0, (STEP,))


@pytest.fixture(scope="module")
def made_up():
    """Evidence at random of pairs of masks, the first of which is that of the networks; and their Dice.

    Dice of the networks' mask follows from the agreement of views; the other one has a Dice with it and errors of
    its own; the shape of a mask says a little of it.
    """
    generator = np.random.default_rng(0)
    cases, dice, is_own, images = [], [], [], []
    for number in range(200):
        own = {each.name: round(generator.random(), 3) for each in OF_NETWORKS}
        own_dice = 0.5 + 0.5 * own["views"]
        for with_own in (1.0, round(generator.uniform(0.4, 1), 3)):
            true = 1 - np.hypot(1 - own_dice, 1 - with_own)
            case = own | {each.name: round(generator.random(), 3) for each in (*OF_MASK, *OF_IMAGE)}
            case |= {"model_dice": with_own, "model_volume": 0.0}
            case["shape_dice"] = round(true + generator.uniform(-0.2, 0.2), 3)
            cases.append(case)
            dice.append(true)
            is_own.append(with_own == 1)
            images.append(number)
    return cases, np.array(dice).clip(0, 1), np.array(is_own), np.array(images)


@pytest.fixture(scope="module")
def fitted(made_up):
    return fit_estimator(*made_up)


def test_trees_give_what_scikit_learn_gives(made_up):
    from sklearn.ensemble import HistGradientBoostingRegressor

    cases, dice, is_own, _ = made_up
    config = EstimatorConfig(trees=7)
    own = _fit_own(cases, dice, is_own, config)
    values = np.array([[case[m.name] for m in OF_NETWORKS] for case in cases])
    regressor = HistGradientBoostingRegressor(
        learning_rate=config.learning_rate, max_iter=7, max_leaf_nodes=config.leaves,
        min_samples_leaf=config.least_in_leaf, early_stopping=False,
        monotonic_cst=[m.trend for m in OF_NETWORKS],
    ).fit(values[is_own], _to_target(dice[is_own]))  # fmt: skip
    np.testing.assert_allclose([own.of(case) for case in cases], regressor.predict(values), atol=1e-4)


def known_to(source, case):
    """The part of evidence that a source gives."""
    parts = {"mask": OF_MASK, "image": (*OF_MASK, *OF_IMAGE), "model": ALL}
    return {each.name: case[each.name] for each in parts[source]}


def test_what_an_estimate_is_made_of(made_up, fitted):
    """Without networks it is the Dice of mask and reconstruction; with them it is close to the truth here."""
    cases, dice, *_ = made_up
    for source in ("mask", "image", "model"):
        estimates = [estimate_dice(fitted, known_to(source, case)) for case in cases]
        assert {each.source for each in estimates} == {source}
        assert all(each.low <= each.dice <= each.high for each in estimates)
        if source != "model":
            assert [each.dice for each in estimates] == [case["shape_dice"] for case in cases]
    assert np.abs([each.dice for each in estimates] - dice).mean() < 0.03


def test_errors_of_mask_and_networks_are_added_as_squares(made_up, fitted):
    """A mask 0.3 from that of the networks, which is 0.4 from the truth, is 0.5 from it."""
    case = made_up[0][0]
    own = estimate_dice(fitted, case | {"model_dice": 1.0}).dice
    other = estimate_dice(fitted, case | {"model_dice": 0.7}).dice
    assert 1 - other == pytest.approx(np.hypot(1 - own, 0.3))
    assert estimate_dice(fitted, case | {"model_dice": 0.0}).dice == 0


@pytest.mark.parametrize("source", ["mask", "model"])
def test_nine_of_ten_lie_in_the_interval(made_up, fitted, source):
    cases, dice, *_ = made_up
    estimates = [estimate_dice(fitted, known_to(source, case)) for case in cases]
    inside = np.mean([each.low <= value <= each.high for each, value in zip(estimates, dice, strict=True)])
    assert 0.8 < inside <= 1


@pytest.mark.parametrize("measurement", [*OF_NETWORKS, OF_DIFFERENCE[0]], ids=lambda each: each.name)
def test_estimates_never_fall_as_evidence_for_a_mask_grows(made_up, fitted, measurement):
    for case in made_up[0][:5]:
        estimates = [
            estimate_dice(fitted, case | {measurement.name: level}).dice for level in np.linspace(-0.5, 1, 30)
        ]
        assert (np.diff(estimates) * measurement.trend >= -1e-9).all()


def test_an_interval_is_interpolated_and_holds_the_estimate():
    interval = Interval((0.2, 0.6), (0.1, 0.5), (0.3, 0.9))
    assert interval.around(0.4) == pytest.approx((0.3, 0.6))
    assert interval.around(0.0) == (0.0, 0.3) and interval.around(1.0) == (0.5, 1.0)


# In files


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Autoencoder(
        AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=((4, 2, 8), (4, 2, 8), (4, 2, 8), (3, 2, 8)))
    )


def test_an_estimator_in_a_file(tmp_path, network, fitted):
    path = tmp_path / "quality.safetensors"
    checkpoint.save_model(path, network, {"made": "by hand"})
    assert checkpoint.load_model(path, kind=Autoencoder)[0].estimator is None
    before = checkpoint.load_model(path, kind=Autoencoder)[0].state_dict()
    checkpoint.set_estimator(path, fitted, {"masks": 400})
    model, header = checkpoint.load_model(path, kind=Autoencoder)
    assert model.estimator == fitted
    assert header["provenance"] == {"made": "by hand", "estimator": {"masks": 400}}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = tmp_path / "again.safetensors"
    checkpoint.save_model(again, model, {})
    assert checkpoint.load_model(again, kind=Autoencoder)[0].estimator == fitted


def test_an_estimator_goes_with_the_quality_network_of_a_cascade(tmp_path, network, fitted):
    from phantoms import threshold_cascade

    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, threshold_cascade(), {"of": "cascade"})
    with pytest.raises(ModelError, match="no quality network"):
        checkpoint.set_estimator(path, fitted, {})
    checkpoint.add_quality(path, checkpoint.QualityPart(network, {"of": "part"}))
    checkpoint.set_estimator(path, fitted, {})
    assert checkpoint.load_model(path, kind=Autoencoder)[0].estimator == fitted
    assert checkpoint.load_model(path)[1]["provenance"] == {"of": "cascade"}
    network.estimator = None
    checkpoint.add_quality(path, checkpoint.QualityPart(network, {}))
    assert checkpoint.load_model(path, kind=Autoencoder)[0].estimator is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("own"),
        lambda values: values["by_shape"].pop("low"),
        lambda values: values["by_shape"]["low"].pop(),
        lambda values: values["by_networks"].update(estimate=values["by_networks"]["estimate"][::-1]),
        lambda values: values["own"]["trees"][0].update(below=[0] * 99),
        lambda values: values["own"].update(start="much"),
        lambda values: values["own"].update(start=1e300),
    ],
)
def test_a_damaged_estimator_is_a_sentence(tmp_path, network, fitted, damage):
    values = json.loads(json.dumps(asdict(fitted)))
    damage(values)
    path = tmp_path / "quality.safetensors"
    checkpoint.save_model(path, network, {})
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, "np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        entries = file.metadata()
    save_file(weights, path, entries | {"estimator": json.dumps(values)})
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load_model(path, kind=Autoencoder)


# Synthetic cases

FEW = CaseConfig(images=3, least_voxels=20)


@pytest.fixture(scope="module")
def source():
    """Cases of the phantom; its networks take what is bright for brain, the quality network is young."""
    torch.manual_seed(0)
    network = Autoencoder(
        AutoencoderConfig(voxel_size_mm=12.0, size=24, layers=((4, 2, 8), (4, 2, 8), (4, 2, 8), (3, 2, 8)))
    )
    return CaseSource(make_head().native, PhantomCascade(), QualityModel(network), FEW)


def test_cases_are_of_all_qualities_and_replay(source):
    cases = [case for number in range(3) for case in source.draw(number)]
    assert {"own", "true", "grown", "shrunk", "shifted", "whole image"} <= {case.kind for case in cases}
    assert all(case.dice == 1 for case in cases if case.kind == "true")
    assert all(set(case.evidence) == {each.name for each in ALL} for case in cases)
    dice = [case.dice for case in cases]
    assert min(dice) < 0.6 < 0.9 < sorted(dice)[-4]
    assert [case.dice for case in source.draw(1)] == [case.dice for case in cases if case.image == 1]


def test_calibration_writes_an_estimator(tmp_path, source, network):
    path = tmp_path / "quality.safetensors"
    network.config = source.quality.config
    checkpoint.save_model(path, source.quality.engine.model, {"made": "before"})
    done = []
    config = EstimatorConfig(least_cases=10, least_in_leaf=2)
    cases = calibrate(
        path, make_head().native, source.networks, {"labelled": "phantom"}, FEW, config, "cpu",
        progress=lambda *numbers: done.append(numbers),
    )  # fmt: skip
    assert done == [(1, 3), (2, 3), (3, 3)]
    model, header = checkpoint.load_model(path, kind=Autoencoder)
    assert isinstance(model.estimator, Estimator)
    told = header["provenance"]
    assert told["made"] == "before" and told["estimator"]["labelled"] == "phantom"
    assert told["estimator"]["masks"] == len(cases)
    good, bad = (next(case for case in cases if case.kind == kind) for kind in ("true", "whole image"))
    assert estimate_dice(model.estimator, good.evidence).dice > estimate_dice(model.estimator, bad.evidence).dice
