"""Agreement of masks, against answers derived by hand."""

import numpy as np
import pytest

from singlestrip.space.metrics import dice, hausdorff95, volume_ml


def mask(shape, *boxes) -> np.ndarray:
    out = np.zeros(shape, dtype=bool)
    for box in boxes:
        out[box] = True
    return out


def cube(start, size=6, shape=(30, 30, 30)) -> np.ndarray:
    return mask(shape, tuple(slice(s, s + size) for s in start))


EMPTY = np.zeros((30, 30, 30), dtype=bool)


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0),
        ([1, 1, 1, 0], [0, 1, 1, 1], 2 / 3),
        ([1, 1, 1, 1], [1, 0, 0, 0], 2 / 5),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1),
        ([0, 0, 0, 0], [0, 1, 0, 0], 0),
    ],
)
def test_dice(a, b, expected):
    a, b = np.array(a, bool).reshape(2, 2, 1), np.array(b, bool).reshape(2, 2, 1)
    assert dice(a, b) == dice(b, a) == pytest.approx(expected)


def test_volume():
    assert volume_ml(cube((3, 3, 3), 10), np.eye(4)) == 1
    assert volume_ml(cube((3, 3, 3), 10), np.diag([-0.5, 2, 3, 1])) == pytest.approx(3)  # left-handed
    sheared = np.array([[1, 7, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert volume_ml(cube((3, 3, 3), 10), sheared) == pytest.approx(1)
    assert volume_ml(EMPTY, np.eye(4)) == 0


def test_hausdorff_of_nothing():
    assert hausdorff95(EMPTY, EMPTY, np.eye(4)) == 0
    assert hausdorff95(cube((2, 2, 2)), EMPTY, np.eye(4)) == np.inf
    assert hausdorff95(EMPTY, cube((2, 2, 2)), np.eye(4)) == np.inf


@pytest.mark.parametrize("size", [(1, 1, 1), (0.5, 2, 3)])
@pytest.mark.parametrize("offset", [(5, 0, 0), (0, 7, 0), (0, 0, 3), (4, 3, 2)])
def test_hausdorff_of_displaced_voxels(size, offset):
    a, b = cube((8, 8, 8), 1), cube(8 + np.array(offset), 1)
    vox2world = np.diag([*size, 1.0])
    assert hausdorff95(a, b, vox2world) == pytest.approx(np.linalg.norm(np.multiply(size, offset)))
    assert hausdorff95(a, b, vox2world) == hausdorff95(b, a, vox2world)


@pytest.mark.parametrize("thickness", [1, 2.5])
def test_hausdorff_of_parallel_sheets(thickness):
    """Every voxel of one lies four voxels from the other."""
    a, b = mask((9, 9, 9), np.s_[:, :, 2]), mask((9, 9, 9), np.s_[:, :, 6])
    assert hausdorff95(a, b, np.diag([1, 1, thickness, 1])) == pytest.approx(4 * thickness)


def test_hausdorff_looks_at_surfaces_alone():
    """A hollow cube has the outer surface of a full one, and an inner one two voxels deeper."""
    full, hollow = cube((5, 5, 5), 9), cube((5, 5, 5), 9)
    hollow[8:11, 8:11, 8:11] = False
    # The outer surface, 9³ - 7³ = 386 voxels, is in both. The walls of the cavity, 6·9 = 54 voxels, lie
    # two voxels below it: 54 of 386 + 386 + 54 distances are 2, more than 5 %.
    assert hausdorff95(full, hollow, np.eye(4)) == 2
    assert hausdorff95(full, full, np.eye(4)) == 0


def test_hausdorff_forgives_one_in_twenty():
    """A far voxel among many: out of the 95th percentile, in where it is more than one in twenty."""
    a = cube((5, 5, 5))
    far = a.copy()
    far[25, 8, 8] = True
    assert hausdorff95(a, far, np.eye(4)) == 0
    few, one = mask((30, 3, 3), np.s_[0:3, 1, 1]), mask((30, 3, 3), np.s_[0:3, 1, 1], np.s_[22, 1, 1])
    # Distances 0 six times and 20 once: the 95th percentile lies at place 5.7 of 0 … 6, 70 % of the way to 20.
    assert hausdorff95(few, one, np.eye(4)) == pytest.approx(14)


def test_hausdorff_at_the_border_of_the_grid():
    """Voxels at the border are surface: the distance of two full slabs is that of their faces."""
    a, b = mask((8, 8, 8), np.s_[:4]), mask((8, 8, 8), np.s_[:6])
    assert hausdorff95(a, b, np.eye(4)) == 2
