"""Where a mask is in doubt: voxels, slices and places, by hand on tiny grids."""

import numpy as np
import pytest

from singlestrip.configuration import DoubtConfig
from singlestrip.quality.doubt import map_doubt
from singlestrip.quality.reconstruction import Reconstruction
from singlestrip.space.scan import Scan
from singlestrip.stripping.brain_field import BrainField

EYE = np.eye(4)
CERTAIN = 50.0  # the logit of a probability that is 1 in 32 bits


def box(shape, *sides):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def rebuilt(probability, vox2world=EYE):
    probability = np.asarray(probability, dtype=np.float32)
    return Reconstruction(probability, probability, vox2world, 0.0)


def seen(*brains, vox2world=EYE):
    """The output of networks whose views are certain of brains."""
    views = np.stack([np.where(brain, CERTAIN, -CERTAIN) for brain in brains]).astype(np.float32)
    return BrainField(views.mean(0), vox2world, views=views)


def test_doubt_is_the_share_of_votes_against_the_mask():
    """Of four votes, one puts a plane of brain less, one a plane more, two agree."""
    shape = (8, 8, 8)
    mask = box(shape, (2, 6), (2, 6), (2, 6))
    less, more = box(shape, (3, 6), (2, 6), (2, 6)), box(shape, (2, 7), (2, 6), (2, 6))
    doubt = map_doubt(Scan(mask, EYE), rebuilt(mask), seen(mask, less, more)).everywhere()
    expected = np.zeros(shape)
    expected[2, 2:6, 2:6] = 0.25  # only `less` leaves it out
    expected[6, 2:6, 2:6] = 0.25
    assert doubt.dtype == np.float32 and doubt == pytest.approx(expected, abs=1e-6)


def test_half_votes_count_half():
    """Without networks the reconstruction alone votes: 0.75 within the mask, 0.5 beside it."""
    shape = (6, 6, 6)
    mask = box(shape, (2, 4), (2, 4), (2, 4))
    probability = np.where(mask, 0.75, 0.0)
    probability[4, 2:4, 2:4] = 0.5
    doubt = map_doubt(Scan(mask, EYE), rebuilt(probability))
    expected = np.where(mask, 0.25, probability)
    assert doubt.everywhere() == pytest.approx(expected, abs=1e-6)
    # Each slice has 4 voxels of mask; votes of 4 · 0.75 + 2 · 0.5; doubts of 4 · 0.25 + 2 · 0.5.
    assert doubt.by_slice() == pytest.approx([0, 0, 2 / (4 + 4), 2 / (4 + 4), 0, 0])


def test_beyond_its_window_a_view_votes_for_no_brain():
    """The window of the networks ends in the middle of a mask that reaches further."""
    mask = box((8, 4, 4), (1, 7), (1, 3), (1, 3))
    window = np.ones((4, 4, 4), dtype=bool)
    doubt = map_doubt(Scan(mask, EYE), rebuilt(mask), seen(mask[:4])).everywhere()
    assert (doubt[4:][mask[4:]] == 0.5).all() and (doubt[:4] < 1e-6).all()
    everywhere = map_doubt(Scan(np.zeros((8, 4, 4), bool), EYE), rebuilt(mask & False), seen(window)).everywhere()
    assert (everywhere[:4] == 0.5).all() and not everywhere[4:].any()


def test_votes_lie_in_space():
    """A rebuilt mask on a grid that is mirrored, of an image whose axes point elsewhere."""
    mask = box((12, 10, 8), (2, 8), (2, 8), (2, 6))
    image2world = np.array([[0, 0, -1, 5], [1, 0, 0, -3], [0, -1, 0, 2], [0, 0, 0, 1.0]])
    same = np.flip(mask, 1)
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = mask.shape[1] - 1
    doubt = map_doubt(Scan(mask, image2world), rebuilt(same, image2world @ flip))
    assert doubt.everywhere().max() < 1e-5


def test_doubt_lies_within_a_box():
    """Elsewhere there is none: a large image takes little memory."""
    mask = box((100, 90, 80), (40, 44), (40, 44), (40, 44))
    doubt = map_doubt(Scan(mask, EYE), rebuilt(mask))
    assert doubt.values.shape < (12, 12, 12)
    assert doubt.everywhere().shape == mask.shape and doubt.everywhere().flags.f_contiguous
    least = DoubtConfig(least_vote=0.2)
    faint = np.where(mask, 1.0, 0.1)
    assert map_doubt(Scan(mask, EYE), rebuilt(faint), config=least).values.shape < (12, 12, 12)


def test_the_worst_slices_come_first_and_tips_do_not_count():
    shape = (10, 10, 10)
    mask = box(shape, (1, 9), (1, 9), (2, 8))
    votes = mask.copy()
    votes[1:5, :, 4] = False  # half of the slice: 32 of 64 + 32
    votes[1:3, :, 6] = False  # a quarter: 16 of 64 + 48
    votes[5, 5, 9] = True  # a voxel that nobody else has
    doubt = map_doubt(Scan(mask, EYE), rebuilt(votes))
    slices = doubt.by_slice()
    assert slices[4] == pytest.approx(1 / 3) and slices[6] == pytest.approx(1 / 7) and slices[9] == 1
    assert [each.number for each in doubt.worst_slices()][:2] == [4, 6]
    assert len(doubt.worst_slices()) == 4 and doubt.worst_slices()[0].doubt == slices[4]
    turned = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])  # the first axis points down
    moved = map_doubt(Scan(np.moveaxis(mask, 2, 0), turned), rebuilt(np.moveaxis(votes, 2, 0), turned))
    assert moved.by_slice() == pytest.approx(slices)


def test_the_worst_place_is_that_of_a_large_part():
    """A voxel of full doubt is no match for a block of half doubt."""
    mask = box((60, 60, 60), (10, 50), (10, 50), (10, 50))
    probability = mask.astype(np.float32)
    probability[30:42, 30:42, 30:42] = 0.5
    probability[12, 12, 12] = 0
    place = map_doubt(Scan(mask, EYE), rebuilt(probability)).worst_place()
    assert np.abs(place - 35.5).max() < 2


def test_an_empty_mask_without_votes_is_in_no_doubt():
    nothing = np.zeros((6, 5, 4), dtype=bool)
    doubt = map_doubt(Scan(nothing, EYE), rebuilt(nothing))
    assert not doubt.everywhere().any() and doubt.by_slice() == (0,) * 4 and doubt.worst_slices() == ()
    assert doubt.worst_place().tolist() == [3, 2, 2]
