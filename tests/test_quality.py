"""Quality without truth: training on a made-up brain, scores of stub networks with known answers, augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from singlestrip.configuration import (
    AugmentationConfig,
    AutoencoderConfig,
    AutoencoderTrainConfig,
    FaultConfig,
    FlagConfig,
)
from singlestrip.errors import InputError
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.model_header import Anatomy
from singlestrip.quality.augmentation import agreement, augmented_masks, turned
from singlestrip.quality.mask_source import SliceSource, VolumeSource, _centred, brain_mm, fraction
from singlestrip.quality.reconstruction import Reconstruction
from singlestrip.quality.scores import QualityModel, flag_of
from singlestrip.quality.training import quality_task
from singlestrip.space.grid import Grid
from singlestrip.space.metrics import dice, volume_ml
from singlestrip.space.scan import Scan
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training.run import Run

CPU = torch.device("cpu")
# 24 voxels to a code of one.
LAYERS = ((4, 2, 8), (4, 2, 12), (4, 2, 16), (3, 2, 16), (4, 2, 16))
COARSE = AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=LAYERS)
SLICES = AutoencoderConfig("slices", 6.0, 32, (0, 1, 2), ((4, 2, 8), (4, 2, 12), (3, 1, 12)))
TRAIN = AutoencoderTrainConfig(epochs=1, batch=4, masks_per_epoch=8)
STILL = replace(
    TRAIN, faults=False, slice_scaling=(1, 1), slice_shift=0,
    shape=replace(TRAIN.shape, rotation_deg=0, scaling=(1, 1), anisotropy=0, shear=0, warp_mm=(0, 0, 0)),
)  # fmt: skip


def grid(shape, spacing_mm, turn=None, middle_mm=(0, 0, 0)):
    """vox2world of a grid whose middle lies at `middle_mm`, and where its voxels lie, [X, Y, Z, 3] mm."""
    vox2world = np.eye(4)
    vox2world[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(np.broadcast_to(spacing_mm, 3))
    vox2world[:3, 3] = np.array(middle_mm) - vox2world[:3, :3] @ ((np.array(shape) - 1) / 2)
    return vox2world, np.moveaxis(np.indices(shape), 0, -1) @ vox2world[:3, :3].T + vox2world[:3, 3]


def turned_about(axis, degrees):
    i, j = (k for k in range(3) if k != axis)
    turn, angle = np.eye(3), np.deg2rad(degrees)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def brain(at):
    """An ellipsoid of 120 × 150 × 100 mm with a lump on one side and a notch in another; no symmetry."""
    x, y, z = at[..., 0], at[..., 1], at[..., 2]
    body = (x / 60) ** 2 + (y / 75) ** 2 + (z / 50) ** 2 < 1
    lump = (x - 30) ** 2 + (y - 40) ** 2 + (z - 25) ** 2 < 35**2
    notch = (x + 20) ** 2 + (y - 60) ** 2 + (z + 10) ** 2 < 20**2
    return (body | lump) & ~notch


@pytest.fixture(scope="module")
def phantom():
    """Mask and vox2world of the brain in 4 mm voxels."""
    vox2world, at = grid((48, 48, 40), 4.0)
    return brain(at), vox2world


class Stub(nn.Module):
    """A network whose answer is a function of the masks [N, 1, ...] it sees."""

    def __init__(self, answer, config=AutoencoderConfig()):
        super().__init__()
        self.config, self.answer, self.estimator = config, answer, None
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, masks):
        return self.answer(masks)


def same(config=AutoencoderConfig()):
    """Rebuilds what it sees."""
    return QualityModel(Stub(lambda masks: torch.logit(masks, 1e-6), config))


def ball_of(radius_mm, kind="volume"):
    """Always rebuilds a ball in the middle, or a column of that radius in its axial slices, voxels at the edge
    in parts."""
    config = AutoencoderConfig(kind, 4.0, 48)

    def answer(masks):
        along = (torch.arange(config.size) - (config.size - 1) / 2) * config.voxel_size_mm
        distance = sum(torch.meshgrid(*[along**2] * (masks.ndim - 2), indexing="ij")).sqrt()
        share = fraction(distance - radius_mm, config.voxel_size_mm)
        return torch.logit(share, 1e-6).expand(masks.shape)

    return QualityModel(Stub(answer, config))


# Drawing masks to learn from


def centre_of(mask):
    """Centre of mass [3] in voxels from the middle of the grid."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in mask.shape], indexing="ij"))
    return (index * mask).sum(dim=(1, 2, 3)) / mask.sum()


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, -4, 5), (-6, 2, -1)])
def test_masks_are_laid_in_the_middle(shift):
    generator = torch.Generator().manual_seed(0)
    seen, aim = torch.zeros(2, 24, 24, 24), torch.zeros(2, 24, 24, 24)
    inner = [slice(8 + s, 16 + s) for s in shift]
    seen[0][tuple(inner)] = torch.rand(8, 8, 8, generator=generator)
    aim[0][tuple(inner)] = torch.rand(8, 8, 8, generator=generator)
    seen[1, 4:9, 4:10, 4:12] = 1  # each sample by its own way
    aim[1, 5:9, 4:10, 4:12] = 1
    moved_seen, moved_aim = _centred(seen, aim)
    for b in range(2):
        assert centre_of(moved_seen[b]).abs().max() <= 0.5 + 1e-4
        way = [int(n) for n in (centre_of(moved_seen[b]) - centre_of(seen[b])).round()]
        assert torch.equal(moved_seen[b], seen[b].roll(way, (0, 1, 2)))
        assert torch.equal(moved_aim[b], aim[b].roll(way, (0, 1, 2)))


def test_what_leaves_the_window_does_not_come_back_on_the_other_side():
    seen, aim = torch.zeros(1, 12, 12, 12), torch.zeros(1, 12, 12, 12)
    seen[0, 8:, 4:8, 4:8] = 1  # moves by -4
    aim[0, :2, 4:8, 4:8] = 1
    moved_seen, moved_aim = _centred(seen, aim)
    assert float(moved_seen.sum()) == float(seen.sum())
    assert torch.equal(moved_seen[0, 4:8, 4:8, 4:8], torch.ones(4, 4, 4))
    assert not moved_aim.any()


def test_a_distance_is_a_share_of_the_voxel():
    distance = torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0])
    assert fraction(distance, 4.0).tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_the_distance_map_of_a_ball():
    """Known to 30 mm beyond the brain."""
    vox2world, at = grid((40, 40, 40), 4.0, middle_mm=(10, -20, 30))
    radius = 50.0
    mask = np.linalg.norm(at - [10, -20, 30], axis=-1) < radius
    source = VolumeSource(Scan(mask, vox2world), COARSE, TRAIN, CPU)
    distance = source.distance[0, 0].numpy()
    spacing = COARSE.voxel_size_mm / 2
    _, points = grid(distance.shape, spacing)
    true = np.linalg.norm(points, axis=-1) - radius
    near = np.abs(true) < 20
    assert np.abs(distance - true)[near].max() < 3
    assert np.abs((distance - true)[near].mean()) < 0.7
    assert all(n * spacing >= 24 * 4.0 + 2 * 30 for n in distance.shape)  # 24 voxels across


def draw_volumes(phantom, train, seed=0, count=4):
    source = VolumeSource(Scan(*phantom), COARSE, train, CPU)
    return source.draw(count, train, RandomStreams((seed,)))


def test_volumes_can_be_drawn_again(phantom):
    seen, aim = draw_volumes(phantom, TRAIN)
    again = draw_volumes(phantom, TRAIN)
    assert torch.equal(seen, again[0]) and torch.equal(aim, again[1])
    assert not torch.equal(seen, draw_volumes(phantom, TRAIN, 1)[0])
    assert seen.shape == aim.shape == (4, 1, 24, 24, 24)
    assert seen.min() >= 0 and seen.max() <= 1
    assert not torch.equal(seen[0], seen[1])


def test_without_faults_the_aim_is_what_is_seen(phantom):
    seen, aim = draw_volumes(phantom, replace(TRAIN, faults=False))
    assert torch.equal(seen, aim)
    seen, aim = draw_volumes(phantom, replace(TRAIN, fault=FaultConfig(clean_probability=1)))
    assert torch.equal(seen, aim)
    seen, aim = draw_volumes(phantom, replace(TRAIN, fault=FaultConfig(clean_probability=0)))
    assert all(not torch.equal(s, a) for s, a in zip(seen, aim, strict=True))


def test_faults_do_not_touch_the_aim(phantom):
    """The same draw with and without faults aims at the same brain, moved with the mask."""
    _, clean = draw_volumes(phantom, replace(TRAIN, faults=False), count=1)
    _, aim = draw_volumes(phantom, replace(TRAIN, fault=FaultConfig(clean_probability=0)), count=1)
    way = [int(n) for n in (centre_of(aim[0, 0]) - centre_of(clean[0, 0])).round()]
    assert torch.equal(clean[0, 0].roll(way, (0, 1, 2)), aim[0, 0])


def test_volumes_that_are_not_deformed_are_the_mask_or_its_mirror_image(phantom):
    mask, vox2world = phantom
    seen, _ = draw_volumes(phantom, STILL, count=6)
    along = (np.arange(24) - 11.5) * 8.0
    at = np.stack(np.meshgrid(along, along, along, indexing="ij"), -1)
    centre = (np.argwhere(mask).mean(0) - (np.array(mask.shape) - 1) / 2) * 4.0
    true = brain(at + centre)
    ways = set()
    for drawn in seen[:, 0].numpy():
        assert centre_of(torch.from_numpy(drawn)).abs().max() <= 0.51
        scores = [dice(drawn > 0.5, other) for other in (true, true[::-1])]
        assert max(scores) > 0.85 and min(scores) < max(scores) - 0.03  # half a voxel of 8 mm off at most
        assert drawn.sum() * 8.0**3 / 1000 == pytest.approx(volume_ml(mask, vox2world), rel=0.04)
        ways.add(int(np.argmax(scores)))
    assert ways == {0, 1}


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_scaling_makes_the_brain_as_much_larger(phantom, factor):
    seen, _ = draw_volumes(phantom, replace(STILL, shape=replace(STILL.shape, scaling=(factor, factor))), count=1)
    expected = factor**3 * volume_ml(*phantom)
    assert float(seen.sum()) * 8.0**3 / 1000 == pytest.approx(expected, rel=0.05)


def test_drawn_volumes_are_in_the_middle_and_deformed(phantom):
    for faults in (False, True):
        seen, _ = draw_volumes(phantom, replace(TRAIN, faults=faults), count=6)
        for mask in seen[:, 0]:
            assert centre_of(mask).abs().max() <= 0.51
    sizes = [float(mask.sum()) for mask in draw_volumes(phantom, replace(TRAIN, faults=False), count=6)[0]]
    assert max(sizes) > 1.1 * min(sizes)


def box_mask():
    """A box of 10 × 8 × 6 voxels of 6 mm."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[4:14, 7:15, 9:15] = True
    return mask, np.diag([6.0, 6, 6, 1])


@pytest.mark.parametrize(("axes", "count"), [((0,), 10), ((1,), 8), ((2,), 6), ((0, 2), 16), ((0, 1, 2), 24)])
def test_a_box_has_as_many_slices_as_it_is_long(axes, count):
    source = SliceSource(Scan(*box_mask()), replace(SLICES, axes=axes), CPU)
    assert source.slices.shape == (count, 1, 32, 32)
    lengths = (10, 8, 6)
    areas = [area for axis in axes for area in [480 // lengths[axis]] * lengths[axis]]
    assert source.slices.sum(dim=(1, 2, 3)).tolist() == areas


def test_slices_that_the_brain_hardly_touches_do_not_count():
    """8 voxels of 6.375 mm end 1.5 mm before the middle of the next slice of 6 mm: about a quarter of it."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[6:14, 6:14, 6:14] = True
    source = SliceSource(Scan(mask, np.diag([6.375] * 3 + [1])), replace(SLICES, axes=(1,)), CPU)
    assert len(source.slices) == 8
    shares = source.slices[0, 0, 16]
    assert sorted({round(float(share), 1) for share in shares}) == [0.0, 0.3, 1.0]


def test_an_epoch_has_every_slice_once():
    source = SliceSource(Scan(*box_mask()), SLICES, CPU)
    count = len(source.slices)
    source.slices = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 1, 32, 32).contiguous()
    train, orders = replace(STILL, batch=5), []
    for epoch in range(3):
        batches = source.batches(train, epoch)
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
        drawn = [source.draw(batch, train, RandomStreams((0,)))[0] for batch in batches]
        orders.append(torch.cat(drawn)[:, 0, 16, 16].round().int().tolist())
        assert sorted(orders[-1]) == list(range(1, count + 1))
    assert orders[0] != orders[1] != orders[2]
    again = SliceSource(Scan(*box_mask()), SLICES, CPU)
    for seed, alike in ((0, True), (1, False)):
        order = torch.cat(again.batches(replace(train, seed=seed), 1))
        assert ((order + 1).tolist() == orders[1]) == alike


def corner_mask():
    """Three bars of 12, 10 and 8 voxels of 6 mm that meet in a corner: no slice is its mirror image."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[4:16, 4:8, 4:8] = mask[4:8, 4:14, 4:8] = mask[4:8, 4:8, 4:12] = True
    return mask, np.diag([6.0, 6, 6, 1])


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (2, 0, 1)])
def test_left_and_right_change_places_and_nothing_else(axes):
    """Of slices that are not moved; the first axis of coronal and axial ones is left-right."""
    source = SliceSource(Scan(*corner_mask()), replace(SLICES, axes=axes), CPU)
    axis_of = torch.tensor([axis for axis in axes for _ in range((12, 10, 8)[axis])])
    assert len(source.slices) == len(axis_of)
    mirrored = {axis: [] for axis in axes}
    for epoch in range(2):
        order = torch.cat(source.batches(STILL, epoch))
        seen, aim = source.draw(order, STILL, RandomStreams((epoch,)))
        assert torch.equal(seen, aim)
        expected = source.slices[order]
        plain, flipped = (
            (seen - other).abs().amax(dim=(1, 2, 3)) < 1e-3 for other in (expected, expected.flip(2))
        )
        assert (plain ^ flipped).all()
        for axis in axes:
            mirrored[axis] += flipped[axis_of[order] == axis].tolist()
    for axis, found in mirrored.items():
        if axis == 0:
            assert not any(found)
        else:
            assert 0.2 < np.mean(found) < 0.8


def test_voxels_of_the_file_do_not_decide_what_is_left():
    """A mask stored from right to left, and with its axes in another order, gives the same slices."""
    mask, vox2world = corner_mask()
    plain = SliceSource(Scan(mask, vox2world), SLICES, CPU).slices
    turned = vox2world @ np.diag([-1.0, 1, 1, 1])
    torch.testing.assert_close(SliceSource(Scan(mask[::-1], turned), SLICES, CPU).slices, plain)
    permuted = SliceSource(Scan(mask.transpose(2, 0, 1), vox2world[:, [2, 0, 1, 3]]), SLICES, CPU).slices
    torch.testing.assert_close(permuted, plain)


def drawn_slices(**changes):
    """All slices of the box drawn with one kind of change, and the same slices as they are."""
    source = SliceSource(Scan(*box_mask()), SLICES, CPU)
    train = replace(STILL, **changes)
    order = torch.cat(source.batches(train, 0))
    expected = source.slices[order]
    return source.draw(order, train, RandomStreams((0,)))[0], expected


def flat_centre(slices):
    """Centre of mass [N, 2] of slices [N, 1, S, S], in pixels."""
    index = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    return (index * slices).sum(dim=(2, 3)) / slices.sum(dim=(2, 3))


def test_slices_are_shifted():
    """By up to a tenth of 32 pixels along each axis, and no larger or smaller for it."""
    seen, expected = drawn_slices(slice_shift=0.1)
    moved = (flat_centre(seen) - flat_centre(expected)).abs()
    assert float(moved.max()) <= 3.2 + 1e-3
    assert (moved.max(0).values > 2).all()
    torch.testing.assert_close(seen.sum(dim=(2, 3)), expected.sum(dim=(2, 3)), rtol=1e-3, atol=1e-2)


def test_slices_are_scaled():
    """About the middle, evenly in the logarithm of the length."""
    seen, expected = drawn_slices(slice_scaling=(0.5, 2.0))
    factors = (seen.sum(dim=(1, 2, 3)) / expected.sum(dim=(1, 2, 3))).sqrt()
    assert 0.45 < float(factors.min()) < 0.75 and 1.4 < float(factors.max()) < 2.1
    assert (flat_centre(seen) - flat_centre(expected)).abs().max() < 0.05


def test_slices_are_turned():
    """About the middle; the size stays, the box no longer lies along the axes."""
    seen, expected = drawn_slices(shape=replace(STILL.shape, rotation_deg=40))
    torch.testing.assert_close(seen.sum(dim=(2, 3)), expected.sum(dim=(2, 3)), rtol=0.05, atol=0)
    assert (flat_centre(seen) - flat_centre(expected)).abs().max() < 0.05
    index = torch.stack(torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij"))
    tilt = (index[0] * index[1] * seen[:, 0]).sum(dim=(1, 2)) / seen.sum(dim=(1, 2, 3))
    assert float(tilt.min()) < -0.5 and float(tilt.max()) > 0.5  # both ways


@pytest.mark.parametrize("config", [COARSE, SLICES])
def test_an_empty_mask_teaches_nothing(config):
    with pytest.raises(InputError, match="empty"):
        quality_task(Scan(np.zeros((8, 8, 8), dtype=bool), np.eye(4)), config, TRAIN, CPU)


@pytest.mark.parametrize("config", [COARSE, SLICES])
@pytest.mark.parametrize("what", ["a voxel", "a line", "a sheet"])
def test_what_is_too_thin_to_learn_from(config, what):
    """A voxel, a line or a sheet of 0.5 mm in a thick image."""
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[{"a voxel": (20, 20, 20), "a line": (20, 20), "a sheet": 20}[what]] = True
    with pytest.raises(InputError, match="too thin"):
        quality_task(Scan(mask, np.diag([0.5] * 3 + [1])), config, TRAIN, CPU)


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("axis", range(3))
def test_thin_slabs_are_thickened(slices, axis):
    """A disc in an image of one or three slices of 0.5 mm counts as a voxel thick, as in `reconstruct`."""
    spacing_mm = np.array([2.0, 2.0, 2.0])
    spacing_mm[axis] = 0.5
    shape = [60, 60, 60]
    shape[axis] = slices
    vox2world, at = grid(tuple(shape), spacing_mm, middle_mm=(5, -3, 9))
    mask = np.linalg.norm(at - (5, -3, 9), axis=-1) < 50
    distance = VolumeSource(Scan(mask, vox2world), COARSE, TRAIN, CPU).distance[0, 0]
    spacing = COARSE.voxel_size_mm / 2
    inside = distance < 0
    assert 1 <= int(inside.sum(dim=axis).max()) <= 2
    assert float(inside.any(dim=axis).sum()) * spacing**2 == pytest.approx(np.pi * 50**2, rel=0.1)
    found = SliceSource(Scan(mask, vox2world), replace(SLICES, axes=(axis,)), CPU).slices
    assert len(found) in (1, 2)
    assert float(found[0].sum()) * SLICES.voxel_size_mm**2 == pytest.approx(np.pi * 50**2, rel=0.1)


def test_the_length_of_a_brain():
    mask, vox2world = box_mask()
    assert brain_mm(Scan(mask, vox2world)) == pytest.approx(60)
    assert brain_mm(Scan(mask, np.diag([1.0, 2, 4, 1]))) == pytest.approx(24)
    assert brain_mm(Scan(mask, np.diag([-1.0, 2, 1, 1])[[2, 0, 1, 3]])) == pytest.approx(16)
    with pytest.raises(InputError, match="empty"):
        brain_mm(Scan(mask & False, vox2world))


# Training


def train_in_memory(mask, vox2world, config, train):
    """The network after all steps, and the mean loss of each epoch."""
    task = quality_task(Scan(mask, vox2world), config, train, CPU)
    run, losses = Run(task), []
    while run.step < task.setup.plan.steps:
        losses.append(run.update()["reconstruction"])
    return task.model.eval(), np.array(losses).reshape(train.epochs, -1).mean(axis=1)


@pytest.fixture(scope="module")
def learnt(phantom):
    """A network trained for a few epochs, and its losses."""
    return train_in_memory(*phantom, COARSE, replace(TRAIN, epochs=30, masks_per_epoch=16, lr=5e-3))


def test_the_loss_falls(learnt):
    _, losses = learnt
    assert len(losses) == 30
    assert losses[-1] < 0.6 * losses[0]
    assert min(losses[:2]) > max(losses[-2:])


def test_a_learnt_brain_scores_above_a_broken_one(learnt, phantom):
    """Of the mask cut in half it knows that more is missing."""
    model, mask, vox2world = QualityModel(learnt[0]), *phantom
    broken = mask.copy()
    broken[:, 24:] = False
    assert model.assess(mask, vox2world).estimated_dice > 0.8
    assert model.assess(mask, vox2world).estimated_dice > model.assess(broken, vox2world).estimated_dice + 0.1


def test_a_file_gives_the_scores_back(learnt, tmp_path, phantom):
    path = tmp_path / "quality.safetensors"
    checkpoint.save_model(path, learnt[0], {})
    loaded = QualityModel.load(path, "cpu")
    assert loaded.config == learnt[0].config == COARSE
    assert loaded.assess(*phantom) == QualityModel(learnt[0]).assess(*phantom)


def trained(phantom, config, **changes):
    """Weights by name."""
    return train_in_memory(*phantom, config, replace(TRAIN, **changes))[0].state_dict()


@pytest.fixture(scope="module")
def plain_weights(phantom):
    return trained(phantom, COARSE)


@pytest.mark.parametrize("config", [COARSE, replace(SLICES, dropout=0.2)])
def test_the_seed_decides_the_network(phantom, config):
    first, again = (trained(phantom, config, epochs=2) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = trained(phantom, config, epochs=2, seed=1)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_step_draws_by_the_seed_its_epoch_and_its_number(phantom, monkeypatch):
    seeds, draw = [], VolumeSource.draw

    def recorded(source, count, train, streams):
        seeds.append(streams.seed("rotation"))
        return draw(source, count, train, streams)

    monkeypatch.setattr(VolumeSource, "draw", recorded)
    for seed in (0, 1, 0):
        trained(phantom, COARSE, epochs=2, seed=seed)
    assert len(seeds) == 3 * 2 * 2  # epochs and steps of 4 of 8 masks
    assert seeds[:4] == seeds[8:]
    assert len(set(seeds[:8])) == 8


@pytest.mark.parametrize(
    "change",
    [{"epochs": 2}, {"batch": 2}, {"lr": 1e-2}, {"weight_decay": 0.1}, {"faults": False}, {"masks_per_epoch": 4},
     {"source_factor": 0.6}, {"margin_mm": 4.0}, {"jitter_mm": 20.0},
     *({"shape": replace(TRAIN.shape, **change)} for change in (
         {"rotation_deg": 1}, {"turn_probability": 1}, {"scaling": (1, 1)}, {"anisotropy": 0}, {"shear": 0},
         {"warp_mm": (0, 0, 0)}, {"flip_probability": 0})),
     {"fault": FaultConfig(clean_probability=1)}],
)  # fmt: skip
def test_every_setting_matters(phantom, plain_weights, change):
    other = trained(phantom, COARSE, **change)
    assert not torch.equal(plain_weights["encoder.0.weight"], other["encoder.0.weight"])


def test_slices_learn_too(phantom):
    _, losses = train_in_memory(*phantom, SLICES, replace(TRAIN, epochs=5, lr=5e-3, batch=8))
    assert losses[-1] < 0.6 * losses[0]


# Reconstructions


def boxes(given, probability, spacing_mm=10.0, outside_ml=0.0, size=10):
    """A reconstruction of two boxes of whole voxels, each given by its slices."""
    parts = []
    for box in (given, probability):
        part = np.zeros((size,) * 3, dtype=np.float32)
        part[tuple(slice(*ends) for ends in box)] = 1
        parts.append(part)
    return Reconstruction(*parts, np.diag([spacing_mm] * 3 + [1.0]), outside_ml)


def test_dice_of_boxes():
    """In ml: 4·4·4 = 64 and 4·4·2 = 32 within it, 1 ml a voxel."""
    rebuilt = boxes([(2, 6)] * 3, [(2, 6), (2, 6), (4, 6)])
    assert rebuilt.dice == pytest.approx(2 * 32 / 96)
    assert boxes([(2, 6)] * 3, [(2, 6), (2, 6), (4, 6)], outside_ml=32).dice == pytest.approx(2 * 32 / 128)
    assert boxes([(2, 6)] * 3, [(2, 6)] * 3, outside_ml=64).dice == pytest.approx(2 * 64 / 192)
    assert boxes([(2, 6)] * 3, [(6, 8)] * 3).dice == 0
    assert boxes([(2, 6)] * 3, [(3, 7)] * 3, spacing_mm=5).dice == pytest.approx(27 / 64)
    assert boxes([(0, 0)] * 3, [(0, 0)] * 3).dice == 0
    assert boxes([(2, 6)] * 3, [(2, 6)] * 3, spacing_mm=5, outside_ml=8).dice == pytest.approx(16 / 24)


def fractions(given, probability, spacing_mm=10.0, outside_ml=0.0):
    """A reconstruction of a few voxels, each given by its parts."""
    parts = (np.array(part, dtype=np.float32).reshape(-1, 1, 1) for part in (given, probability))
    return Reconstruction(*parts, np.diag([spacing_mm] * 3 + [1.0]), outside_ml)


def test_dice_of_fractions():
    """A voxel counts by its part, 1 ml a whole one."""
    # Shared 0.25 + 1, of 1.5 given and 1.25 rebuilt.
    assert fractions([0.5, 1.0], [0.25, 1.0]).dice == pytest.approx(2.5 / 2.75)
    assert fractions([0.25, 1.0], [0.5, 1.0]).dice == pytest.approx(2.5 / 2.75)
    assert fractions([0.5, 1.0], [0.25, 1.0], outside_ml=0.5).dice == pytest.approx(2.5 / 3.25)
    # The same in voxels of 8 ml: shared 10, of 12 and 10 and 3 beyond.
    assert fractions([0.5, 1.0], [0.25, 1.0], spacing_mm=20, outside_ml=3).dice == pytest.approx(20 / 25)
    # Parts below one half count too.
    assert fractions([0.4, 0.2], [0.1, 0.3]).dice == pytest.approx(2 * 0.3 / 1.0)
    assert fractions([0.3, 0.6, 0.0], [0.3, 0.6, 0.0]).dice == pytest.approx(1)
    assert fractions([0.5, 0.0], [0.0, 0.5]).dice == 0


def test_dice_of_nothing():
    assert fractions([0.0, 0.0], [0.0, 0.0]).dice == 0
    assert fractions([0.0, 0.0], [0.0, 0.0], outside_ml=2).dice == 0
    assert fractions([0.0, 0.0], [0.5, 1.0]).dice == 0
    assert fractions([0.5, 1.0], [0.0, 0.0]).dice == 0


def test_dice_of_voxels_of_any_orientation():
    """The volume of a voxel is that of its axes, reversed or not."""
    rebuilt = fractions([0.5, 1.0], [0.25, 1.0], spacing_mm=20, outside_ml=3)
    turn = np.eye(4)
    turn[:3, :3] = turned_about(1, 25) @ np.diag([-1.0, 1, 1])
    assert replace(rebuilt, vox2world=turn @ rebuilt.vox2world).dice == pytest.approx(20 / 25)


def test_hd95_of_boxes():
    assert boxes([(2, 6)] * 3, [(2, 6)] * 3).hd95_mm == 0
    assert boxes([(2, 3)] * 3, [(2, 3), (2, 3), (5, 6)]).hd95_mm == pytest.approx(30)  # two voxels
    assert boxes([(2, 3)] * 3, [(5, 6), (6, 7), (2, 3)], spacing_mm=2).hd95_mm == pytest.approx(10)
    assert boxes([(2, 6)] * 3, [(0, 0)] * 3).hd95_mm == np.inf


def test_dice_of_slices():
    """Slices 1 to 3 in the mask alone, 4 and 5 in both, 6 in the reconstruction alone."""
    scores, lowest = boxes([(2, 6), (2, 6), (1, 6)], [(2, 6), (2, 4), (4, 7)]).slice_dice()
    assert scores == pytest.approx((0, 0, 0, 2 / 3, 2 / 3, 0))
    assert lowest == 0
    scores, lowest = boxes([(2, 6), (2, 6), (4, 7)], [(2, 6), (2, 4), (4, 7)]).slice_dice()
    assert scores == pytest.approx((2 / 3,) * 3)
    assert lowest == pytest.approx(2 / 3)
    assert boxes([(0, 0)] * 3, [(0, 0)] * 3).slice_dice() == ((), 0.0)


def test_slices_count_from_the_lowest_up_and_small_ones_not_for_the_least():
    given, rebuilt = (np.zeros((10, 10, 10), dtype=np.float32) for _ in range(2))
    given[:, :5, 2] = 1  # the largest holds 50 voxels
    rebuilt[:, :5, 2] = 1
    given[0, :5, 3] = 1  # a tenth of it, and wrong
    given[0, :6, 5] = 1  # over a tenth
    rebuilt[0, :2, 5] = 1
    scores, lowest = Reconstruction(given, rebuilt, np.eye(4), 0.0).slice_dice()
    assert scores == (1.0, 0.0, 0.5)
    assert lowest == 0.5


def test_a_reconstruction_goes_back_to_the_image(phantom):
    mask, vox2world = phantom
    found = same().reconstruct(Scan(mask, vox2world))
    assert dice(found.on_grid(Grid(mask.shape, vox2world)), mask) > 0.97
    shape = (60, 70, 50)
    oblique, at = grid(shape, (3.0, 2.5, 3.5), turned_about(1, 25))
    assert dice(found.on_grid(Grid(shape, oblique)), brain(at)) > 0.95


# Scores of masks


@pytest.mark.parametrize("kind", ["volume", "slices"])
def test_a_mask_rebuilt_as_it_is_scores_1(phantom, kind):
    config = AutoencoderConfig(kind, 4.0, 48, (0, 1, 2))
    mask, vox2world = phantom
    found = same(config).assess(mask, vox2world)
    assert found.estimated_dice == pytest.approx(1, abs=1e-3)
    assert (found.flag, found.components, found.holes, found.touches_edge) == ("look", 1, 0, False)
    assert found.hd95_mm == 0
    assert found.lowest_slice_dice == 1 and set(found.slice_dice) == {1}
    assert len(found.slice_dice) == pytest.approx(110 / 4, abs=2)  # from z -50 to 60 mm
    assert found.volume_ml == pytest.approx(np.count_nonzero(mask) * 0.064)


GRIDS = {
    "reversed": ((90, 90, 90), 2.0, np.diag([-1.0, 1, -1])),
    "permuted": ((90, 90, 90), 2.0, np.eye(3)[[2, 0, 1]]),
    "permuted and reversed": ((92, 90, 90), 2.0, np.eye(3)[[1, 2, 0]] * [1, -1, 1]),
    "oblique": ((100, 100, 100), 2.0, turned_about(0, 20) @ turned_about(2, 15)),
    "thick slices": ((90, 90, 30), (2.0, 2.0, 6.0), np.eye(3)),
    "fine": ((120, 120, 114), 1.5, np.eye(3)),
    "elsewhere": ((90, 90, 90), 2.0, np.eye(3)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_of_the_file_does_not_matter(name):
    """One brain, off the middle of the grid, sampled in other ways: one score."""
    model = ball_of(60.0)

    def assess(shape, spacing_mm, turn, move_mm=(0.0, 0.0, 0.0)):
        vox2world, at = grid(shape, spacing_mm, turn, move_mm)
        mask = brain(at - move_mm)
        return model.assess(mask, vox2world), model.reconstruct(Scan(mask, vox2world))

    plain, rebuilt = assess((90, 90, 90), 2.0, np.eye(3))
    assert 0.5 < plain.estimated_dice < 0.9
    move_mm = (300.0, -200.0, 77.0) if name == "elsewhere" else (0.0, 0.0, 0.0)
    other, other_rebuilt = assess(*GRIDS[name], move_mm)
    assert other.estimated_dice == pytest.approx(plain.estimated_dice, abs=4e-3)
    assert other.volume_ml == pytest.approx(plain.volume_ml, rel=0.01)
    assert other.hd95_mm == pytest.approx(plain.hd95_mm, abs=2)
    assert len(other.slice_dice) == pytest.approx(len(plain.slice_dice), abs=1)
    assert dice(other_rebuilt.given > 0.5, rebuilt.given > 0.5) > 0.98
    np.testing.assert_allclose(other_rebuilt.vox2world[:3, 3] - move_mm, rebuilt.vox2world[:3, 3], atol=0.5)


def test_the_window_lies_around_the_centre_of_mass(phantom):
    mask, vox2world = phantom
    found = same().reconstruct(Scan(mask, vox2world))
    np.testing.assert_allclose(np.diag(found.vox2world), [4, 4, 4, 1])
    middle = found.vox2world @ [23.5, 23.5, 23.5, 1]
    where = np.argwhere(mask).mean(0)
    np.testing.assert_allclose(middle, vox2world @ [*where, 1], atol=0.1)
    assert found.given.sum() * 0.064 == pytest.approx(volume_ml(mask, vox2world), rel=2e-3)


def test_an_empty_mask_fails():
    for model in (same(), ball_of(60.0)):
        found = model.assess(np.zeros((20, 20, 20), dtype=bool), np.eye(4))
        assert (found.estimated_dice, found.flag, found.hd95_mm) == (0.0, "fail", np.inf)
        assert (found.volume_ml, found.components, found.holes, found.touches_edge) == (0.0, 0, 0, False)
        assert found.slice_dice == ()
    assert same().reconstruct(Scan(np.zeros((20, 20, 20), dtype=bool), np.eye(4))).dice == 0


def test_what_lies_beyond_the_window_counts_against_the_mask():
    """All of a 256 mm cube: a window of 192 mm is rebuilt, the rest is not."""
    vox2world, at = grid((64, 64, 64), 4.0)
    mask = np.ones(at.shape[:3], dtype=bool)
    rebuilt = same().reconstruct(Scan(mask, vox2world))
    assert rebuilt.outside_ml == pytest.approx((256**3 - 192**3) / 1000)
    assert rebuilt.dice == pytest.approx(2 * 192**3 / (192**3 + 256**3))
    assert same(AutoencoderConfig("slices", 4.0, 48)).reconstruct(Scan(mask, vox2world)).dice == rebuilt.dice


@pytest.mark.parametrize("size", [(64, 64, 64), (10, 10, 10), (25, 25, 9), (15, 15, 15)])
def test_a_mask_that_fills_its_image_fails(size):
    """Though network and mask agree on all that can be seen; as soon as some background is left they may."""
    vox2world, _ = grid(size, 4.0)
    mask = np.ones(size, dtype=bool)
    found = same().assess(mask, vox2world)
    assert (found.estimated_dice, found.flag, found.touches_edge) == (0.0, "fail", True)
    mask[: len(mask) // 5 + 1] = False
    assert same().assess(mask, vox2world).estimated_dice > 0.5


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((4, 4, 4, 1), dtype=bool),
        np.ones((4, 4), dtype=bool),
        np.ones((4, 4, 4), dtype=np.uint8),
        np.ones((4, 4, 4), dtype=np.float32),
    ],
)
def test_only_boolean_volumes_are_masks(mask):
    for call in (same().assess, same().reconstruct):
        with pytest.raises(InputError, match="boolean mask"):
            call(Scan(mask, np.eye(4)))
    with pytest.raises(InputError, match="boolean mask"):
        same().assess(mask, np.eye(4))


def test_a_mask_is_an_array_or_a_scan(phantom):
    mask, vox2world = phantom
    model = ball_of(60.0)
    found = model.assess(mask, vox2world)
    assert found == model.assess(Scan(mask, vox2world)) == model.assess(mask, vox2world.tolist())
    assert found == model.measure(Scan(mask, vox2world), model.reconstruct(Scan(mask, vox2world)))
    assert (found.estimate, found.border) == (found.estimated_dice, found.touches_edge)  # former names
    with pytest.raises(InputError, match="an array needs its vox2world"):
        model.assess(mask)


def slab_of_a_ball():
    """56 mm of a ball of 120 mm, as far as the image goes; and its share, by volume, of mask and ball together."""
    vox2world, at = grid((88, 88, 28), 2.0)
    slab = np.pi * (60**2 * 56 - 2 * 28**3 / 3)
    return np.linalg.norm(at, axis=-1) < 60, vox2world, 2 * slab / (slab + 4 / 3 * np.pi * 60**3)


@pytest.mark.parametrize("kind", ["volume", "slices"])
def test_nothing_is_expected_beyond_the_field_of_view(kind):
    """Of the ball that the network tells of only the slab counts."""
    mask, vox2world, expected = slab_of_a_ball()
    model = ball_of(60.0, kind=kind)
    rebuilt = model.reconstruct(Scan(mask, vox2world))
    assert np.count_nonzero((rebuilt.probability > 0).any(axis=(0, 1))) == 14
    found = model.assess(mask, vox2world)
    if kind == "slices":
        column, ball = np.pi * 60**2 * 56, np.pi * (60**2 * 56 - 2 * 28**3 / 3)
        assert found.estimated_dice == pytest.approx(2 * ball / (ball + column), abs=0.02)
        return
    assert found.estimated_dice > 0.97 and found.touches_edge
    wide, _ = grid((88, 88, 88), 2.0)
    embedded = np.zeros((88, 88, 88), dtype=bool)
    embedded[..., 30:58] = mask
    found = model.assess(embedded, wide)
    assert not found.touches_edge
    assert found.estimated_dice == pytest.approx(expected, abs=0.02)


def test_a_single_slice_has_a_score():
    vox2world, at = grid((90, 90, 1), 2.0)
    mask = np.linalg.norm(at, axis=-1) < 60
    found = ball_of(60.0).assess(mask, vox2world)
    assert found.estimated_dice > 0.96
    assert not found.touches_edge and found.holes == 0
    small = ball_of(60.0).assess(np.linalg.norm(at, axis=-1) < 40, vox2world)
    assert small.estimated_dice == pytest.approx(2 * 40**2 / (40**2 + 60**2), abs=0.02)
    assert small.estimated_dice < found.estimated_dice


@pytest.mark.parametrize("radius_mm", [60, 50, 40])
def test_the_estimate_is_the_dice_of_mask_and_reconstruction(radius_mm):
    vox2world, at = grid((72, 72, 72), 2.0)
    mask = np.linalg.norm(at, axis=-1) < radius_mm
    model = ball_of(60.0)
    found, rebuilt = model.assess(mask, vox2world), model.reconstruct(Scan(mask, vox2world))
    assert found.estimated_dice == rebuilt.dice and found.hd95_mm == rebuilt.hd95_mm
    assert found.estimated_dice == pytest.approx(2 * radius_mm**3 / (radius_mm**3 + 60**3), abs=0.01)
    assert found.flag == flag_of(rebuilt.dice, "mask") == ("look" if radius_mm == 60 else "fail")


def test_slices_without_mask_stay_empty():
    """Each axis has its say: the mean of those that see a slice."""
    config = AutoencoderConfig("slices", 4.0, 48, (0, 2))
    full = QualityModel(Stub(lambda slices: torch.full_like(slices, 20.0), config))
    vox2world, _ = grid((48, 48, 48), 4.0)
    mask = np.zeros((48, 48, 48), dtype=bool)
    mask[20:28, 18:30, 22:26] = True
    rebuilt = full.reconstruct(Scan(mask, vox2world))
    expected = np.zeros((48, 48, 48))
    expected[20:28] += 0.5
    expected[:, :, 22:26] += 0.5
    np.testing.assert_allclose(rebuilt.probability, expected, atol=1e-3)


def judged(mask, spacing_mm=(4.0, 4.0, 4.0)):
    return same().assess(mask, np.diag([*spacing_mm, 1.0]))


def test_parts_are_counted():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[2:8, 2:8, 2:8] = True
    assert judged(mask).components == 1
    mask[8:10, 8:10, 8:10] = True  # touches at a corner
    assert judged(mask).components == 2
    mask[15, 15, 15] = True
    assert judged(mask).components == 3
    assert judged(mask).volume_ml == pytest.approx((216 + 8 + 1) * 0.064)


def test_cavities_are_counted():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[2:14, 2:14, 2:14] = True
    assert judged(mask).holes == 0
    mask[4:6, 4:6, 4:6] = False
    assert judged(mask).holes == 1
    mask[8, 8, 8] = mask[10, 10, 10] = False
    assert judged(mask).holes == 3
    mask[10, 10, 10:] = False  # a channel to the outside is none
    assert judged(mask).holes == 2


@pytest.mark.parametrize("axis", range(3))
def test_cavities_of_thin_masks_are_counted_by_their_image(axis):
    """A ring three slices thick is open at both ends in a thick image, and closed where the image ends there."""
    ring = np.ones((8, 8, 3), dtype=bool)
    ring[3:5, 3:5] = False
    thick = np.zeros((20, 20, 20), dtype=bool)
    thick[4:12, 4:12, 6:9] = ring
    assert judged(np.moveaxis(thick, 2, axis)).holes == 0
    thin = np.zeros((20, 20, 3), dtype=bool)
    thin[4:12, 4:12] = ring
    assert judged(np.moveaxis(thin, 2, axis)).holes == 1
    shell = np.zeros((20, 20, 20), dtype=bool)
    shell[6:9, 6:9, 6:9] = True
    shell[7, 7, 7] = False
    assert judged(shell).holes == 1


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, -1])
def test_touching_a_face(axis, end):
    mask = np.zeros((16, 18, 20), dtype=bool)
    mask[3:12, 3:12, 3:12] = True
    assert not judged(mask).touches_edge
    np.moveaxis(mask, axis, 0)[end, 5, 5] = True
    assert judged(mask).touches_edge


@pytest.mark.parametrize(("slices", "touches"), [(1, False), (3, False), (4, True)])
def test_thin_images_do_not_touch_across_their_slices(slices, touches):
    mask = np.zeros((20, 20, slices), dtype=bool)
    mask[4:12, 4:12] = True
    assert judged(mask).touches_edge == touches
    mask[0, 5, 0] = True
    assert judged(mask).touches_edge


def test_flags_at_their_edges():
    assert flag_of(1.0) == "pass" and flag_of(0.0) == "fail"
    config = FlagConfig(0.9, 0.8, 0.7, 0.6)
    for source, highest, lowest in (("model", 0.9, 0.8), ("image", 0.7, 0.6), ("mask", 0.7, 0.6)):
        for value, expected in ((highest, "pass"), (lowest, "look")):
            assert flag_of(value, source, config) == expected
            below = {"pass": "look", "look": "fail"}[expected]
            assert flag_of(np.nextafter(value, 0), source, config) == below


def test_no_mask_passes_by_its_shape_alone():
    assert flag_of(0.999, "mask") == flag_of(0.999, "image") == "look"
    assert flag_of(0.999, "model") == "pass"


def test_a_model_flags_with_its_own_thresholds():
    vox2world, at = grid((64, 64, 64), 4.0)
    mask = np.ones(at.shape[:3], dtype=bool)
    mask[:16] = False
    network = same().engine
    score = QualityModel(network).reconstruct(Scan(mask, vox2world)).dice
    assert 0.1 < score < 0.9  # it reaches beyond the window
    for flags, expected in (
        (FlagConfig(1, 1, score - 0.05, score - 0.1), "pass"),
        (FlagConfig(0, 0, score + 0.05, score - 0.05), "look"),
        (FlagConfig(0, 0, score + 0.1, score + 0.05), "fail"),
    ):
        model = QualityModel(network, flags, anatomy=Anatomy((volume_ml(mask, vox2world),)))
        assert model.assess(mask, vox2world).flag == expected


def test_a_mask_far_from_the_volume_of_the_anatomy_fails():
    vox2world, at = grid((64, 64, 64), 4.0)
    mask = brain(at)
    usual, tiny, huge = (Anatomy((volume_ml(mask, vox2world) * factor,)) for factor in (1, 10, 0.1))
    model = same().engine
    assert QualityModel(model, anatomy=usual).assess(mask, vox2world).flag == "look"
    for anatomy, word in ((tiny, "smaller"), (huge, "larger")):
        quality = QualityModel(model, anatomy=anatomy).assess(mask, vox2world)
        assert quality.flag == "fail" and word in quality.reasons[0]


def test_a_model_is_used_in_evaluation_mode(phantom):
    """Scores neither vary nor leave a trace in the running statistics."""
    torch.manual_seed(0)
    network = Autoencoder(replace(COARSE, dropout=0.5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = QualityModel(network)
    assert model.assess(*phantom) == model.assess(*phantom)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# Test-time augmentation


@pytest.fixture
def oblique():
    return grid((20, 30, 25), (2.0, 1.0, 3.0), turned_about(2, 12), (7, -5, 40))[0]


def world(vox2world, index):
    return np.asarray(index) @ vox2world[:3, :3].T + vox2world[:3, 3]


def test_turning_keeps_the_middle_and_all_distances(oblique):
    scan = Scan(np.zeros((20, 30, 25)), oblique, 2.0, -3.0)
    copy = turned(scan, np.array([25.0, -14.0, 71.0]))
    assert copy.array is scan.array and (copy.slope, copy.intercept) == (2.0, -3.0)
    middle = (np.array(scan.shape) - 1) / 2
    np.testing.assert_allclose(world(copy.vox2world, middle), world(oblique, middle), atol=1e-9)
    index = np.random.default_rng(0).uniform(-50, 50, (40, 3))
    before, after = world(oblique, index), world(copy.vox2world, index)
    apart = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (before, after)]
    np.testing.assert_allclose(apart[1], apart[0], atol=1e-9)
    assert np.linalg.det(copy.vox2world[:3, :3]) == pytest.approx(np.linalg.det(oblique[:3, :3]))  # not mirrored
    assert np.abs(after - before).max() > 5
    np.testing.assert_array_equal(copy.vox2world[3], [0, 0, 0, 1])


@pytest.mark.parametrize("angles", [(0, 0, 0), (360, 0, 0), (360, -360, 720)])
def test_whole_turns_change_nothing(oblique, angles):
    copy = turned(Scan(np.zeros((20, 30, 25)), oblique), np.array(angles))
    np.testing.assert_allclose(copy.vox2world, oblique, atol=1e-9)


def test_turns_about_one_axis():
    """By the right-hand rule, a right angle maps the axis that follows onto the one after it; turns about one axis
    add up; x comes first."""

    def turn(*angles):
        scan = Scan(np.zeros((1, 1, 1)), np.eye(4))
        return turned(scan, np.array(angles, dtype=float)).vox2world[:3, :3]

    for axis in range(3):
        following, last = (axis + 1) % 3, (axis + 2) % 3
        quarter = turn(*(90 * np.eye(3)[axis]))
        np.testing.assert_allclose(quarter[:, axis], np.eye(3)[axis], atol=1e-12)
        np.testing.assert_allclose(quarter[:, following], np.eye(3)[last], atol=1e-12)
        np.testing.assert_allclose(quarter[:, last], -np.eye(3)[following], atol=1e-12)
        twice = turn(*(20 * np.eye(3)[axis])) @ turn(*(30 * np.eye(3)[axis]))
        np.testing.assert_allclose(twice, turn(*(50 * np.eye(3)[axis])), atol=1e-12)
    np.testing.assert_allclose(turn(10, 20, 30), turn(0, 0, 30) @ turn(0, 20, 0) @ turn(10, 0, 0), atol=1e-12)


@pytest.fixture(scope="module")
def lopsided():
    """A scan of a bright lopsided ellipsoid of 2 mm voxels, and its mask."""
    vox2world, at = grid((40, 40, 32), 2.0)
    x, y, z = at[..., 0] / 24, at[..., 1] / 30, at[..., 2] / 20
    distance = np.sqrt(x**2 + y**2 + z**2)
    image = (1000 * np.clip(3 - 2.5 * distance, 0, 1)).astype(np.int16)
    return Scan(image, vox2world), distance < 1


def copies(stripper, scan, count, seed=0):
    return augmented_masks(stripper, scan, AugmentationConfig(copies=count), seed)


def test_copies_repeat_with_their_seed(phantom_stripper, lopsided):
    scan, _ = lopsided
    masks = copies(phantom_stripper, scan, 3, seed=5)
    assert masks.shape == (3, *scan.shape) and masks.dtype == bool
    again = copies(phantom_stripper, scan, 3, seed=5)
    np.testing.assert_array_equal(masks, again)
    other = copies(phantom_stripper, scan, 3, seed=6)
    assert (masks != other).any()
    assert (masks[0] != masks[1]).any()
    longer = copies(phantom_stripper, scan, 4, seed=5)
    np.testing.assert_array_equal(longer[:3], masks)


def test_copies_come_back_on_the_image(phantom_stripper, lopsided):
    """However the copy was turned: a stripper that is right is right in each."""
    scan, mask = lopsided
    masks = copies(phantom_stripper, scan, 4)
    assert min(dice(copy, mask) for copy in masks) > 0.95
    score, median = agreement(masks)
    assert score > 0.95 and dice(median, mask) > 0.95


def test_what_copies_are_made_of(lopsided):
    """Turned by up to 30° about each axis, intensities scaled by up to 20 %, the scaling of the file kept."""
    scan = replace(lopsided[0], slope=3.0, intercept=-6.0)
    seen = []

    class Recorder:
        def strip(self, copy, centre_mm):
            assert centre_mm is None
            seen.append(copy)
            raise InputError("no brain found")

    masks = copies(Recorder(), scan, 50)
    assert masks.shape == (50, *scan.shape) and not masks.any()  # no brain found: empty
    assert all(copy.array is scan.array for copy in seen)
    gains = np.array([copy.slope / 3 for copy in seen])
    np.testing.assert_allclose([copy.intercept for copy in seen], -6 * gains)
    assert 0.8 <= gains.min() < 0.85 and 1.15 < gains.max() <= 1.2
    turns = np.array([copy.vox2world[:3, :3] @ np.linalg.inv(scan.vox2world[:3, :3]) for copy in seen])
    angles = np.rad2deg(np.arccos(np.clip((turns.trace(axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert angles.max() <= 60 and 15 < np.median(angles) < 45
    about_z = np.rad2deg(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert -30 <= about_z.min() < -20 and 20 < about_z.max() <= 30


def test_a_centre_turns_with_the_copies(lopsided):
    scan, _ = lopsided
    voxels = []

    class Recorder:
        def strip(self, copy, centre_mm):
            voxels.append((np.linalg.inv(copy.vox2world) @ [*centre_mm, 1])[:3])
            raise InputError("no brain found")

    augmented_masks(Recorder(), scan, AugmentationConfig(copies=3), centre_mm=(scan.vox2world @ [3, 30, 7, 1])[:3])
    np.testing.assert_allclose(voxels, [[3, 30, 7]] * 3, atol=1e-9)


def masks_of(*lists):
    masks = np.zeros((len(lists), 2, 3, 1), dtype=bool)
    for mask, voxels in zip(masks, lists, strict=True):
        mask.reshape(-1)[list(voxels)] = True
    return masks


def test_agreement_by_hand():
    """Median of {0, 1}, {1, 2}, {0, 1, 3} is {0, 1}: Dice 1, 1/2 and 4/5."""
    score, median = agreement(masks_of((0, 1), (1, 2), (0, 1, 3)))
    np.testing.assert_array_equal(median, masks_of((0, 1))[0])
    assert score == pytest.approx((1 + 0.5 + 0.8) / 3)


def test_agreement_of_alike_and_of_disjoint_masks():
    assert agreement(masks_of((0, 4), (0, 4), (0, 4)))[0] == 1
    score, median = agreement(masks_of((0, 1), (2, 3), (4, 5)))
    assert score == 0 and not median.any()
    assert agreement(masks_of((), (), ()))[0] == 0
    score, median = agreement(masks_of((0,), (1,)))  # half is not most
    assert score == 0 and not median.any()
    score, _ = agreement(masks_of((0, 1), (0, 1), (0, 1), ()))  # one copy without a brain
    assert score == 0.75


def test_centre_and_grid_of_an_empty_mask():
    found = same().reconstruct(Scan(np.zeros((5, 5, 5), dtype=bool), np.eye(4)))
    np.testing.assert_array_equal(found.vox2world, Grid.conformed(np.zeros(3), (48,) * 3, 4.0).vox2world)
    assert not found.given.any() and not found.probability.any() and found.outside_ml == 0
