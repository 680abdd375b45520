"""Which volumes of a brain are unusual for a model."""

import numpy as np
import pytest
from phantoms import PhantomCascade, tiny_cascade

from singlestrip.configuration import CascadeConfig, StrippingConfig, VolumeConfig
from singlestrip.networks import checkpoint
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_header import Anatomy
from singlestrip.stripping.brain_volume import describe_unusual_volume, usual_volumes_ml
from singlestrip.stripping.stripper import Stripper

CONFIG = VolumeConfig(least=0.5, greatest=2.0, adult_ml=1400.0, least_in_proportion=0.3)


@pytest.mark.parametrize(
    ("networks", "anatomy", "expected"),
    [
        (CascadeConfig(), Anatomy((1500.0,)), (750, 3000)),
        (CascadeConfig(), Anatomy((1500.0, 1200.0, 1700.0)), (600, 3400)),
        (CascadeConfig(0.2), Anatomy((0.5,)), (0.25, 1.0)),
        (CascadeConfig(), None, (420, 2800)),
        (CascadeConfig(1.0), None, (420 / 8, 2800 / 8)),
    ],
)
def test_the_usual_volumes(networks, anatomy, expected):
    assert usual_volumes_ml(networks.scale, anatomy, CONFIG) == pytest.approx(expected)


def test_any_adult_may_be_the_labelled_one():
    for labelled in (1000.0, 2000.0):
        low, high = usual_volumes_ml(CascadeConfig().scale, Anatomy((labelled,)))
        assert low <= 1000 and high >= 2000


def test_rodents_are_usual_for_models_that_do_not_tell_their_labelled_brains():
    """A mouse's brain of 0.48 ml is 15 mm long, that of another 0.39 ml and 13.5 mm."""
    for length_mm, volume_ml in ((15.0, 0.48), (13.5, 0.39)):
        low, high = usual_volumes_ml(CascadeConfig.fitting(length_mm).scale, None)
        assert low < volume_ml < high


def mask_of(sides):
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


@pytest.mark.parametrize(
    ("side_mm", "text"),
    [
        (10.0, ""),
        (11.5, ""),
        (5.0, "brain of 125 ml, smaller than any that this model is for (500 to 2000 ml)"),
        (1.0, "brain of 1 ml, smaller than any that this model is for (500 to 2000 ml)"),
        (15.0, "brain of 3375 ml, larger than any that this model is for (500 to 2000 ml)"),
    ],
)
def test_volumes_in_words(side_mm, text):
    mask = mask_of([(5, 15)] * 3)
    assert describe_unusual_volume(mask, np.diag([side_mm] * 3 + [1.0]), (500, 2000)) == text


def test_small_volumes_in_words():
    text = describe_unusual_volume(mask_of([(5, 15)] * 3), np.diag([1.0, 1, 1.1, 1]), (0.2205, 0.96))
    assert text == "brain of 1.1 ml, larger than any that this model is for (0.221 to 0.96 ml)"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [(0, 10), (10, 20)])
def test_a_brain_at_a_face_may_be_small_but_not_large(axis, end):
    """A ball of 500 ml has a diameter of 98.5 mm."""
    sides = [(5, 15)] * 3
    sides[axis] = end
    assert describe_unusual_volume(mask_of(sides), np.diag([5.0, 5, 5, 1]), (500, 2000)) == ""
    assert "larger" in describe_unusual_volume(mask_of(sides), np.diag([20.0, 20, 20, 1]), (500, 2000))
    assert "smaller" in describe_unusual_volume(mask_of(sides), np.diag([4.9, 4.9, 4.9, 1]), (500, 2000))
    thin = [1.0, 1.0, 1.0]
    thin[axis] = 5.0
    assert describe_unusual_volume(mask_of(sides), np.diag([*thin, 1]), (500, 2000)) == ""


def test_a_stripper_takes_the_anatomy_of_its_file(tmp_path):
    path = tmp_path / "m.safetensors"
    for anatomy in (None, Anatomy((30.0,))):
        checkpoint.save_model(path, Cascade(tiny_cascade()), {}, anatomy=anatomy)
        assert Stripper.load(path, "cpu").usual_ml == usual_volumes_ml(tiny_cascade().scale, anatomy)


def test_shares_are_settings():
    stripping = StrippingConfig(volume=VolumeConfig(least=0.9, greatest=1.1))
    stripper = Stripper(PhantomCascade(), stripping=stripping, anatomy=Anatomy((100.0,)))
    assert stripper.usual_ml == pytest.approx((90, 110))
