"""The network: shapes, normalisation, folding, size."""

import pytest
import torch

from singlestrip.configuration import UNetConfig
from singlestrip.networks.unet import ChannelNorm, UNet, fold, unfold


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_unfold_undoes_fold(patch):
    x = torch.randn(2, 3, 2 * patch, 3 * patch, 4 * patch)
    folded = fold(x, patch)
    assert folded.shape == (2, 3 * patch**3, 2, 3, 4)
    assert torch.equal(unfold(folded, patch), x)


def test_fold_keeps_blocks_together():
    x = torch.zeros(1, 1, 4, 4, 4)
    x[0, 0, 2:, :2, 2:] = 1  # one block
    folded = fold(x, 2)
    assert torch.equal(folded[0, :, 1, 0, 1], torch.ones(8))
    assert folded.sum() == 8


@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize(("widths", "patch"), [((4,), 1), ((4, 6), 2), ((4, 6, 8), 1), ((2, 4, 6), 2)])
def test_output_has_the_shape_of_the_input(widths, patch, norm):
    config = UNetConfig(widths, norm, patch)
    m = config.multiple
    for shape in ((2 * m, 2 * m, 2 * m), (2 * m, 3 * m, 4 * m)):
        image = torch.rand(2, 1, *shape)
        assert UNet(config)(image).shape == image.shape


@pytest.mark.parametrize(("widths", "patch", "multiple"), [((4,), 1, 1), ((4, 4), 2, 4), ((4, 4, 4, 4), 2, 16)])
def test_multiple(widths, patch, multiple):
    assert UNetConfig(widths, patch=patch).multiple == multiple


def test_channel_norm_of_one_sample_does_not_depend_on_the_batch():
    norm = ChannelNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x = torch.randn(2, 3, 4, 5, 6) * torch.tensor([1.0, 10.0])[:, None, None, None, None] + 3
    both = norm(x)
    for k in range(2):
        torch.testing.assert_close(norm(x[k : k + 1]), both[k : k + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.mean((2, 3, 4)), norm.bias.expand(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.std((2, 3, 4), correction=0), norm.weight.expand(2, 3), atol=1e-3, rtol=0)


def test_network_of_one_sample_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    network = UNet(UNetConfig((4, 8)))
    image = torch.rand(2, 1, 8, 8, 8)
    torch.testing.assert_close(
        network(image), torch.cat([network(image[:1]), network(image[1:])]), atol=1e-5, rtol=1e-4
    )


def test_without_norm_there_are_no_norm_weights():
    assert any("norm" in name for name, _ in UNet(UNetConfig((4, 8))).named_parameters())
    assert not any("norm" in name for name, _ in UNet(UNetConfig((4, 8), "none")).named_parameters())


@pytest.mark.parametrize(("norm", "per_channel"), [("instance", 3), ("none", 1)])  # bias, and scale and shift
def test_number_of_weights(norm, per_channel):
    convolutions = [
        (8, 4), (4, 4),  # first level: 2³ voxels folded into 8 channels
        (4, 8), (8, 8),  # second
        (8 + 4, 4), (4, 4),  # back up, with the skip connection
    ]  # fmt: skip
    head = 4 * 8 + 8
    expected = sum(27 * a * b + per_channel * b for a, b in convolutions) + head
    assert sum(p.numel() for p in UNet(UNetConfig((4, 8), norm)).parameters()) == expected


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = UNet(UNetConfig((4, 8), "none"))
    network(torch.rand(1, 1, 8, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
