"""Between grids: every answer worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from singlestrip.space import geometry, resample


def random_affine(rng, scale=(0.5, 4)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() @ np.diag(rng.uniform(*scale, 3))
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def shift(*voxels) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = voxels
    return affine


def ramp(shape, gradient=(1.0, -2.0, 0.5), offset=3.0) -> np.ndarray:
    return np.tensordot(gradient, np.indices(shape), 1).astype(np.float32) + offset


def test_block_mean_with_remainder():
    data = np.arange(5, dtype=np.int16).reshape(5, 1, 1)
    out, vox2world = resample.block_mean(data, np.eye(4), 2)
    np.testing.assert_array_equal(out.ravel(), [0.5, 2.5, 4])  # the last block holds one voxel
    assert out.dtype == np.float32
    np.testing.assert_array_equal(vox2world, [[2, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_block_mean_of_every_axis():
    data = np.random.default_rng(0).normal(size=(4, 5, 3))
    out, _ = resample.block_mean(data, np.diag([1, 0.5, 2, 1]), 2)  # blocks of 2, 4 and 1
    assert out.shape == (2, 2, 3)
    for i, j, k in np.ndindex(out.shape):
        block = data[2 * i : 2 * i + 2, 4 * j : 4 * j + 4, k]
        assert out[i, j, k] == pytest.approx(block.mean(), abs=1e-6)


def test_block_mean_leaves_coarse_voxels():
    data = ramp((3, 3, 3))
    affine = np.diag([2.9, 2, 5, 1])
    out, vox2world = resample.block_mean(data, affine, 2)
    np.testing.assert_array_equal(out, data)
    np.testing.assert_array_equal(vox2world, affine)


def test_block_mean_of_values():
    data = np.array([1, 2, 3, 5], dtype=np.int16).reshape(4, 1, 1)
    out, _ = resample.block_mean(data, np.eye(4), 2, lambda part: part.astype(np.float32) * 2 + 10)
    assert out.ravel().tolist() == [13, 18]
    full = np.full((2, 1, 1), 65535, dtype=np.uint16)
    assert resample.block_mean(full, np.eye(4), 2)[0].item() == 65535  # no overflow


@pytest.mark.parametrize("seed", range(5))
def test_block_mean_puts_blocks_where_they_were(seed):
    rng = np.random.default_rng(seed)
    affine = random_affine(rng)
    shape = np.array((8, 12, 10))
    voxels = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ voxels + affine[:3, 3:]
    for axis in range(3):  # the mean of positions is the position of the block
        out, vox2world = resample.block_mean(world[axis].reshape(shape), affine, 2.0)
        whole = np.array(shape) // np.maximum(1, np.round(2 / geometry.voxel_sizes(affine))).astype(int)
        index = np.indices(whole).reshape(3, -1)
        expected = (vox2world[:3, :3] @ index + vox2world[:3, 3:])[axis].reshape(whole)
        np.testing.assert_allclose(out[tuple(map(slice, whole))], expected, atol=1e-3)


def test_identity_returns_the_same():
    data = torch.rand(5, 6, 7)
    torch.testing.assert_close(resample.sample(data, np.eye(4), (5, 6, 7)), data, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_linear_ramps_are_exact(seed):
    rng = np.random.default_rng(seed)
    shape, target = (20, 22, 24), (4, 5, 6)
    source_from_target = np.eye(4)
    source_from_target[:3, :3] = Rotation.random(random_state=rng).as_matrix() * 1.3
    middle = source_from_target[:3, :3] @ (np.array(target) - 1) / 2
    source_from_target[:3, 3] = (np.array(shape) - 1) / 2 - middle
    at = source_from_target[:3, :3] @ np.indices(target).reshape(3, -1) + source_from_target[:3, 3:]
    expected = np.array([1.0, -2.0, 0.5]) @ at + 3
    found = resample.sample(torch.from_numpy(ramp(shape)), source_from_target, target, fill=-999)
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-3)


def test_a_voxel_reaches_half_a_voxel():
    data = torch.full((1, 1, 3), 7.0)
    positions = np.diag([0.25, 1, 1, 1])
    positions[0, 3] = -1
    found = resample.sample(data, positions, (9, 1, 3), fill=-1)[:, 0, 0].tolist()
    assert found == [-1, -1, 7, 7, 7, 7, 7, -1, -1]  # at -1, -0.75, -0.5 … 0.5, 0.75, 1


@pytest.mark.parametrize("axis", range(3))
def test_fill_beyond_the_source(axis):
    offset = [0, 0, 0]
    offset[axis] = 2
    found = resample.sample(torch.ones(3, 3, 3), shift(*offset), (3, 3, 3), fill=-5).movedim(axis, 0)
    assert (found[0] == 1).all() and (found[1:] == -5).all()


def test_slabs_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    data, affine = torch.rand(9, 8, 7), random_affine(rng, (0.8, 1.2))
    affine[:3, 3] = 3
    whole = resample.sample(data, affine, (11, 4, 5), fill=-1)
    for voxels in (1, 30, 60):
        monkeypatch.setattr(resample, "SLAB_VOXELS", voxels)
        torch.testing.assert_close(resample.sample(data, affine, (11, 4, 5), fill=-1), whole)


@pytest.mark.parametrize("seed", range(3))
def test_conform_and_back(seed):
    """A smooth image to a finer conformed grid and back."""
    rng = np.random.default_rng(seed)
    affine = random_affine(rng, (1.5, 2.5))
    shape = (20, 18, 16)
    x = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
    image = np.sin(2 * x[0] + 1) * np.cos(3 * x[1]) + x[2] ** 2
    low, high = geometry.world_bounds(shape, affine)
    fine = tuple(int(n) for n in np.ceil(high - low))
    target = geometry.conformed_vox2world((low + high) / 2, fine, 1.0)
    conformed = resample.conform(image, affine, fine, target).numpy()
    back = resample.conform(conformed, target, shape, affine).numpy()
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(back[inner], image[inner], atol=0.02)


def test_conformed_grid_is_centred():
    affine = geometry.conformed_vox2world([10, -20, 30], (4, 5, 6), 2.0)
    np.testing.assert_allclose(affine @ [1.5, 2, 2.5, 1], [10, -20, 30, 1])
    np.testing.assert_array_equal(affine[:3, :3], np.eye(3) * 2)


def test_world_bounds_by_hand():
    affine = np.array([[0, -2, 0, 10], [1, 0, 0, 0], [0, 0, 3, -6], [0, 0, 0, 1.0]])
    low, high = geometry.world_bounds((4, 5, 2), affine)
    np.testing.assert_allclose(low, [10 - 9, -0.5, -7.5])
    np.testing.assert_allclose(high, [10 + 1, 3.5, -1.5])


@pytest.mark.parametrize("seed", range(20))
def test_world_bounds_hold_every_point_and_no_more(seed):
    rng = np.random.default_rng(seed)
    affine, shape = random_affine(rng), rng.integers(1, 9, 3)
    low, high = geometry.world_bounds(tuple(shape), affine)
    points = rng.uniform(-0.5, shape - 0.5, (2000, 3)) @ affine[:3, :3].T + affine[:3, 3]
    assert (points >= low).all() and (points <= high).all()
    # Extents of a turned box: the sum of the extents of its edges.
    np.testing.assert_allclose(high - low, np.abs(affine[:3, :3]) @ shape)


def test_labels_by_the_larger_share():
    """Three voxels of 1, one of 2 in one block; inside wins its block over two outside classes."""
    labels = np.ones((4, 2, 1), dtype=np.uint8)
    labels[0, 0] = 2
    labels[2, :, 0] = 101
    labels[3] = [[1], [102]]
    out, vox2world = resample.conform_labels(labels, np.diag([1, 1, 2, 1]), 2.0, 100)
    np.testing.assert_array_equal(out.ravel(), [1, 101])
    np.testing.assert_allclose(vox2world @ [0, 0, 0, 1], [0.5, 0.5, 0, 1])


def test_labels_take_the_side_first():
    """No class inside holds as many voxels as the one outside (4), but together they hold more (5)."""
    labels = np.array([1, 1, 1, 1, 101, 101, 102, 103, 104], dtype=np.uint8).reshape(3, 3, 1)
    out, _ = resample.conform_labels(labels, np.diag([1, 1, 3, 1]), 3.0, 100)
    assert out.item() == 101


def test_labels_are_zero_where_there_is_no_scan():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    out, vox2world = resample.conform_labels(np.full((20, 20, 6), 5, np.uint8), affine, 1.0, 100)
    assert set(np.unique(out)) == {0, 5}
    index = (
        np.linalg.inv(affine) @ vox2world @ np.vstack([np.indices(out.shape).reshape(3, -1), np.ones(out.size)])
    )
    limit = np.array([[20], [20], [6]])
    within = ((index[:3] > -0.4) & (index[:3] < limit - 0.6)).all(0).reshape(out.shape)
    beyond = ((index[:3] < -0.6) | (index[:3] > limit - 0.4)).any(0).reshape(out.shape)
    assert (out[within] == 5).all() and (out[beyond] == 0).all()


def test_a_part_of_a_grid_has_its_voxels_in_the_same_place():
    vox2world = random_affine(np.random.default_rng(3))
    part = geometry.part_of(vox2world, (slice(2, 5), slice(0, 4), slice(7, 9)))
    np.testing.assert_allclose(part @ [1, 3, 0, 1], vox2world @ [3, 3, 7, 1], atol=1e-9)
