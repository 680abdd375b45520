"""Planted faults on balls, whose signed distance is known: each kind by itself, replay, scale."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from singlestrip.configuration import FaultConfig
from singlestrip.quality.faults import plant_faults
from singlestrip.synthesis.streams import RandomStreams

SIZE, VOXEL_MM, RADIUS_MM = 56, 3.0, 45.0
NONE = FaultConfig(
    clean_probability=0, offset_probability=0, smooth_probability=0, uneven_probability=0, cut_probability=0,
    shell_probability=0, added=0, removed=0,
)  # fmt: skip
SEEDS = range(12)


def positions(size=SIZE, voxel_mm=VOXEL_MM):
    """[size, size, size, 3] mm from the middle."""
    along = (torch.arange(size) - (size - 1) / 2) * voxel_mm
    return torch.stack(torch.meshgrid(along, along, along, indexing="ij"), -1)


def ball(radius_mm=RADIUS_MM, size=SIZE, voxel_mm=VOXEL_MM, centre=(0.0, 0.0, 0.0)):
    return (positions(size, voxel_mm) - torch.tensor(centre)).norm(dim=-1) - radius_mm


def plant(config, seed=0, distance=None, voxel_mm=VOXEL_MM, scale=1.0):
    """Faults in one signed distance [X, Y, Z]."""
    distance = ball() if distance is None else distance
    return plant_faults(distance[None], voxel_mm, config, scale, [RandomStreams((seed,))])[0]


def volume_mm3(distance, voxel_mm=VOXEL_MM):
    return float((distance < 0).sum()) * voxel_mm**3


def fitted_plane(values, where):
    """Unit normal [3] and distance from the middle of the plane whose signed distance is `values` at `where`."""
    at = positions()[where].double().numpy()
    design = np.concatenate([at, np.ones((len(at), 1))], axis=1)
    found, *_ = np.linalg.lstsq(design, values[where].double().numpy(), rcond=None)
    np.testing.assert_allclose(design @ found, values[where].numpy(), atol=1e-3)
    assert np.linalg.norm(found[:3]) == pytest.approx(1, abs=1e-4)
    return found[:3], -found[3]


# Each kind by itself


def test_without_any_kind_nothing_changes():
    for seed in SEEDS:
        assert torch.equal(plant(NONE, seed), ball())


def test_an_offset_moves_the_whole_surface():
    """To a ball of radius r ± d."""
    config = replace(NONE, offset_probability=1, offset_mm=8)
    moved = []
    for seed in SEEDS:
        result = plant(config, seed)
        step = result - ball()
        assert float(step.max() - step.min()) < 1e-4
        moved.append(float(step.mean()))
        expected = 4 / 3 * np.pi * (RADIUS_MM - moved[-1]) ** 3
        assert volume_mm3(result) == pytest.approx(expected, rel=0.025)
    assert max(map(abs, moved)) <= 8
    assert min(moved) < -2 and max(moved) > 2


def test_a_cut_leaves_nothing_beyond_a_plane():
    config = replace(NONE, cut_probability=1, cut_mm=(-20, 30))
    offsets, normals = [], []
    for seed in SEEDS:
        result = plant(config, seed)
        cut = result > ball() + 1e-3
        normal, offset = fitted_plane(result, cut)
        beyond = positions() @ torch.tensor(normal, dtype=torch.float32) - offset
        sure = beyond.abs() > 1e-3
        assert torch.equal((result < 0)[sure], ((ball() < 0) & (beyond < 0))[sure])
        height = RADIUS_MM + offset  # of the cap that stays
        assert volume_mm3(result) == pytest.approx(np.pi * height**2 * (3 * RADIUS_MM - height) / 3, rel=0.03)
        offsets.append(offset)
        normals.append(normal)
    assert -20 <= min(offsets) < 0 < max(offsets) <= 30
    assert (np.ptp(normals, axis=0) > 0.5).all()  # in any direction


@pytest.mark.parametrize("kind", ["added", "removed"])
def test_an_ellipsoid_of_known_size(kind):
    """With half axes of 20 mm in the middle it is a ball, added to one of 6 mm or taken from one of 45 mm."""
    config = replace(NONE, radius_mm=(20, 20), reach_mm=0, **{kind: 1})
    before = ball(6.0) if kind == "added" else ball()
    results = [plant(config, seed, before) for seed in SEEDS]
    happened = [result for result in results if not torch.equal(result, before)]
    assert 0 < len(happened) < len(results)  # none or one
    expected = (ball(20.0) < 0) if kind == "added" else (before < 0) & (ball(20.0) >= 0)
    for result in happened:
        assert torch.equal(result < 0, expected)


def test_what_is_added_only_adds():
    """Within the reach and the largest half axis, and no more than so many parts."""
    config = replace(NONE, added=3, radius_mm=(5, 15), reach_mm=60)
    before = ball(12.0)
    grown = []
    for seed in SEEDS:
        result = plant(config, seed, before)
        assert (result <= before).all()
        new = (result < 0) & (before >= 0)
        assert not new[positions().norm(dim=-1) > 60 + 15].any()
        most = 3 * 4 / 3 * np.pi * 15**3
        assert volume_mm3(result) <= volume_mm3(before) + most
        grown.append(int(new.sum()))
    assert max(grown) > 20


def test_what_is_removed_only_takes_away():
    config = replace(NONE, removed=2, radius_mm=(5, 15), reach_mm=30)
    gone = []
    for seed in SEEDS:
        result = plant(config, seed)
        assert (result >= ball()).all()
        lost = (result >= 0) & (ball() < 0)
        assert not lost[positions().norm(dim=-1) > 30 + 15].any()
        gone.append(int(lost.sum()))
    assert max(gone) > 20
    assert max(gone) * VOXEL_MM**3 < 2 * 4 / 3 * np.pi * 15**3


def test_half_axes_and_places_have_their_ranges():
    """A single ellipsoid in empty space: its extent gives its half axes, its middle how far out it lies."""
    size, voxel_mm = 64, 2.0
    config = replace(NONE, added=1, radius_mm=(8, 20), reach_mm=40)
    nothing = torch.full((size,) * 3, 100.0)
    extents, reaches = [], []
    for seed in range(80):
        where = (plant(config, seed, nothing, voxel_mm) < 0).nonzero().double()
        if len(where) == 0:
            continue
        low, high = where.min(0).values, where.max(0).values
        extents += ((high - low + 1) * voxel_mm / 2).tolist()
        reaches.append(float((where.mean(0) - (size - 1) / 2).norm()) * voxel_mm)
    assert len(reaches) > 20
    assert 8 - voxel_mm <= min(extents) < 11 and 16 < max(extents) <= 20 + voxel_mm / 2
    assert max(reaches) <= 41 and np.median(reaches) > 26  # even in the ball: half beyond 0.79 · 40


def test_a_shell_lies_at_its_distances_on_one_side():
    config = replace(NONE, shell_probability=1, shell_distance_mm=(12, 12), shell_half_width_mm=(4, 4))
    shell = (ball() - 12).abs() - 4
    shares = []
    for seed in SEEDS:
        result = plant(config, seed)
        assert (result <= ball()).all()
        new = (result < 0) & (ball() >= 0)
        assert (ball()[new] > 8 - 1e-3).all() and (ball()[new] < 16 + 1e-3).all()
        shares.append(float(new.sum()) / float((shell < 0).sum()))
        # Where the plane, not the shell, bounds it the result is the plane's distance.
        plane = (result > shell + 1e-3) & (result < ball() - 1e-3)
        if plane.sum() > 10:
            normal, offset = fitted_plane(result, plane)
            side = positions() @ torch.tensor(normal, dtype=torch.float32) - offset
            assert abs(offset) <= 60
            sure = side.abs() > 1e-3
            assert torch.equal(new[sure], ((shell < 0) & (side < 0))[sure])
    assert min(shares) < 0.4 and max(shares) > 0.6


def test_a_shell_of_random_distance_keeps_its_range():
    config = replace(NONE, shell_probability=1, shell_distance_mm=(5, 12), shell_half_width_mm=(2, 4))
    nearest, farthest = [], []
    for seed in SEEDS:
        new = (plant(config, seed) < 0) & (ball() >= 0)
        if new.any():  # the plane may leave nothing of it
            nearest.append(float(ball()[new].min()))
            farthest.append(float(ball()[new].max()))
    assert len(nearest) > len(SEEDS) / 2
    assert min(nearest) >= 5 - 4 and max(farthest) <= 12 + 4
    assert max(nearest) - min(nearest) > 2


def test_an_uneven_surface_keeps_its_mean():
    config = replace(NONE, uneven_probability=1, uneven_mm=4, uneven_spacing_mm=(12, 12))
    near = ball().abs() < 5
    means, spreads = [], []
    for seed in SEEDS:
        result = plant(config, seed)
        step = (result - ball())[near]
        means.append(float(step.mean()))
        spreads.append(float(step.std()))
        assert volume_mm3(result) == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.05)
    assert max(map(abs, means)) < 0.5 and abs(np.mean(means)) < 0.2
    assert max(spreads) <= 4 and max(spreads) > 1.5 and min(spreads) < 1


def test_an_uneven_surface_is_linear_between_control_points():
    config = replace(NONE, uneven_probability=1, uneven_mm=8, uneven_spacing_mm=(1e4, 1e4))
    step = plant(config, 3) - ball()
    assert float(step.max() - step.min()) > 1
    for axis in range(3):
        assert step.diff(n=2, dim=axis).abs().max() < 1e-3


def smoothing(smooth_mm):
    return replace(NONE, smooth_probability=1, smooth_mm=smooth_mm)


def test_smoothing_is_gaussian():
    """It leaves a slope as it is and adds the variance along each axis to a parabola, alike at every place;
    its standard deviation lies below the greatest, and a level field stays level up to the edge."""
    greatest_mm = 2 * VOXEL_MM
    inner = (slice(SIZE // 4, -(SIZE // 4)),) * 3
    at = positions()
    slope = at[..., 0] + 2 * at[..., 1]
    variances = []
    for seed in SEEDS:
        torch.testing.assert_close(
            plant(smoothing(greatest_mm), seed, slope)[inner], slope[inner], rtol=0, atol=1e-2
        )
        added = []
        for axis in range(3):
            parabola = at[..., axis].square() - 100
            gained = (plant(smoothing(greatest_mm), seed, parabola) - parabola)[inner]
            assert gained.max() - gained.min() < 0.05 * greatest_mm**2
            added.append(float(gained.mean()))
        assert max(added) - min(added) < 0.02 * greatest_mm**2
        variances.append(np.mean(added))
    assert (
        -1e-3 < min(variances) < 0.2 * greatest_mm**2 and 0.4 * greatest_mm**2 < max(variances) <= greatest_mm**2
    )
    level = torch.full((SIZE,) * 3, -5.0)
    torch.testing.assert_close(plant(smoothing(18), 0, level), level)


def test_smoothing_keeps_a_sphere_and_takes_a_spike():
    """The spike is 4 mm thick and stands out by 20 mm."""
    at = positions() - torch.tensor([0.0, VOXEL_MM / 2, VOXEL_MM / 2])
    along = at[..., 0].clamp(0, RADIUS_MM + 20)
    spike = (at - torch.stack([along, *[torch.zeros_like(along)] * 2], -1)).norm(dim=-1) - 2
    with_spike = torch.minimum(ball(), spike)
    far = positions()[..., 0] > RADIUS_MM + VOXEL_MM
    assert (with_spike < 0)[far].sum() >= 5
    gone = 0
    for seed in SEEDS:
        smooth = plant(smoothing(6), seed)
        assert 0.93 < volume_mm3(smooth) / volume_mm3(ball()) < 1.01  # to a radius of r - s²/r
        result = plant(smoothing(6), seed, with_spike)
        gone += not (result < 0)[far].any()
    assert gone > len(SEEDS) / 3


def test_smoothing_by_nothing_changes_nothing():
    for seed in SEEDS:
        torch.testing.assert_close(plant(smoothing(0), seed), ball())


# All together


def test_the_same_state_plants_the_same():
    results = [plant(FaultConfig(clean_probability=0), seed) for seed in range(4)]
    assert all(torch.equal(plant(FaultConfig(clean_probability=0), n), result) for n, result in enumerate(results))
    assert not any(torch.equal(a, b) for a, b in pairwise(results))


def test_each_sample_has_its_own_streams():
    """A batch is what its samples are alone."""
    distances = torch.stack([ball(), ball(30.0), ball(centre=(10.0, -6.0, 3.0))])
    streams = [RandomStreams((4, number)) for number in range(3)]
    together = plant_faults(distances, VOXEL_MM, FaultConfig(clean_probability=0), 1.0, streams)
    for distance, sample, expected in zip(distances, streams, together, strict=True):
        single = plant_faults(distance[None], VOXEL_MM, FaultConfig(clean_probability=0), 1.0, [sample])
        assert torch.equal(single[0], expected)


@pytest.mark.parametrize("kind", ["smooth", "uneven", "offset", "shell"])
def test_one_kind_of_fault_does_not_move_another(kind):
    """Whatever comes before it, the same plane cuts the mask."""
    cut = replace(NONE, cut_probability=1, cut_mm=(-20, 0))
    for seed in SEEDS[:4]:
        alone, both = plant(cut, seed), plant(replace(cut, **{f"{kind}_probability": 1}), seed)
        beyond = alone > ball() + 40  # the plane counts there, however far another fault moves the surface
        assert beyond.any()
        torch.testing.assert_close(both[beyond], alone[beyond])


def test_clean_samples_come_back_as_they_were():
    for seed in SEEDS:
        assert torch.equal(plant(replace(FaultConfig(), clean_probability=1), seed), ball())
    faulty = replace(NONE, offset_probability=1, clean_probability=0.5)
    clean = sum(torch.equal(plant(faulty, seed), ball()) for seed in range(60))
    assert 18 <= clean <= 42  # of 60 at one half: four standard deviations are 15


@pytest.mark.parametrize(
    "config",
    [
        replace(NONE, cut_probability=1, cut_mm=(-200, -200)),
        replace(NONE, removed=8, radius_mm=(200, 200), reach_mm=0),
    ],
)
def test_what_would_leave_no_mask_is_not_planted(config):
    for seed in SEEDS:
        assert torch.equal(plant(config, seed), ball())


@pytest.mark.parametrize("seed", range(3))
def test_the_input_is_left_alone(seed):
    distance = torch.stack([ball(), ball(30.0)])
    before = distance.clone()
    streams = [RandomStreams((seed, number)) for number in range(2)]
    result = plant_faults(distance, VOXEL_MM, FaultConfig(), 1.0, streams)
    assert torch.equal(distance, before)
    result.zero_()
    assert torch.equal(distance, before)
    assert result.shape == distance.shape


@pytest.mark.parametrize("scale", [0.5, 0.09])
def test_faults_scale_with_the_anatomy(scale):
    """A brain of another size on a grid as much finer has the same faults, voxel for voxel."""
    config = replace(FaultConfig(), clean_probability=0)
    for seed in range(4):
        full = plant(config, seed)
        small = plant(config, seed, ball() * scale, VOXEL_MM * scale, scale)
        torch.testing.assert_close(small / scale, full, rtol=1e-4, atol=2e-3)
