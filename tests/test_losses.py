"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from singlestrip.networks.losses import segmentation_loss, soft_dice_loss

SURE = 40.0  # a logit whose probability is 1 in float32


def line(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def logit_of(probability):
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        ((SURE, -SURE), (1, 0), 0.0),  # 1 - (2+1)/(2+1)
        ((-SURE, SURE), (1, 0), 2 / 3),  # 1 - (0+1)/(2+1)
        ((SURE, -SURE), (1, 1), 1 / 4),  # 1 - (2+1)/(1+2+1)
        ((0, 0), (1, 0), 1 - 2 / 2.5),  # p = 1/2: 1 - (1+1)/(1/2+1+1)
        ((logit_of(0.75), -SURE), (0.5, 0), 1 - (2 * 0.375 + 1) / (0.5625 + 0.25 + 1)),
        ((-SURE, -SURE), (0, 0), 0.0),  # nothing there, nothing found
    ],
)
def test_soft_dice(logit, target, expected):
    loss = soft_dice_loss(line(*logit), line(*target), line(1, 1))
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("cross_entropy", [0.0, 0.5])
def test_voxels_without_weight_do_not_count(cross_entropy):
    seen = segmentation_loss(line(1.0), line(1), line(1), cross_entropy)
    with_unseen = segmentation_loss(line(1.0, 7.0, -9.0), line(1, 0, 1), line(1, 0, 0), cross_entropy)
    assert with_unseen.item() == pytest.approx(seen.item(), abs=1e-6)


@pytest.mark.parametrize("logit", [line(0.3, -2.0)])
def test_voxels_without_weight_get_no_gradient(logit):
    logit = logit.clone().requires_grad_()
    segmentation_loss(logit, line(1, 1), line(1, 0), 0.5).backward()
    gradient = logit.grad.flatten()
    assert gradient[0] < 0
    assert gradient[1] == 0


def test_cross_entropy():
    logit, target, weight = line(logit_of(0.75), logit_of(0.25), 5.0), line(1, 1, 0), line(1, 1, 0)
    entropy = (-math.log(0.75) - math.log(0.25)) / 2
    dice = soft_dice_loss(logit, target, weight).item()
    assert segmentation_loss(logit, target, weight, 2.0).item() == pytest.approx(dice + 2 * entropy, abs=1e-6)
    assert segmentation_loss(logit, target, weight, 0.0).item() == pytest.approx(dice, abs=1e-6)


def test_perfect_prediction_costs_nothing():
    target = (torch.rand(2, 1, 4, 4, 4) > 0.5).float()
    loss = segmentation_loss((2 * target - 1) * SURE, target, torch.ones_like(target), 0.5)
    assert 0 <= loss.item() < 1e-5


def test_mean_over_the_batch():
    logit, target = torch.randn(2, 1, 3, 3, 3), torch.rand(2, 1, 3, 3, 3)
    weight = (torch.rand(2, 1, 3, 3, 3) > 0.3).float()
    singles = [segmentation_loss(logit[k : k + 1], target[k : k + 1], weight[k : k + 1], 0.5) for k in range(2)]
    assert segmentation_loss(logit, target, weight, 0.5).item() == pytest.approx(sum(singles).item() / 2, abs=1e-6)


def test_cross_entropy_keeps_a_gradient_where_nothing_is_predicted():
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2] = 1
    gradient = {}
    for cross_entropy in (0.0, 0.5):
        logit = torch.full_like(target, -25.0).requires_grad_()
        segmentation_loss(logit, target, torch.ones_like(target), cross_entropy).backward()
        gradient[cross_entropy] = logit.grad[..., :2].abs().min().item()
    assert gradient[0.0] < 1e-9
    assert gradient[0.5] == pytest.approx(0.5 / 64, rel=1e-3)  # weight over number of voxels


def test_an_image_without_any_data_has_a_finite_loss():
    nothing = torch.zeros(1, 1, 2, 2, 2)
    assert segmentation_loss(torch.ones_like(nothing), nothing, nothing, 0.5).item() == pytest.approx(0)
