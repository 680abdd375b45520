"""Brains and images that are not whole: lesions, craniotomies, voids, shifted fat, distortion, motion, copies."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from phantoms import make_head

from singlestrip.configuration import CaseConfig, ClassTrainConfig, SynthConfig, TransferConfig, Window
from singlestrip.synthesis.aliasing import Ghost, WrapAround, add_ghosts, wrap_around
from singlestrip.synthesis.blobs import Blob, Place, centre_of, distance_in_radii, offsets_mm, surface_mm
from singlestrip.synthesis.craniotomy import Craniotomy, open_skull
from singlestrip.synthesis.distortion import Distortion, distortion_mm, follow_signal
from singlestrip.synthesis.fat_shift import FatShift, shift_fat
from singlestrip.synthesis.fields import shifted
from singlestrip.synthesis.image import SynthParameters, sample_parameters, synthesise
from singlestrip.synthesis.label_map import LabelMap
from singlestrip.synthesis.lesions import Lesion, Zone, add_lesions, push_aside
from singlestrip.synthesis.signal_loss import Void, lose_signal
from singlestrip.synthesis.slice_motion import SliceMotion, dim_slices, motion_mm
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.synthesis.surroundings import away_mm

# Each field of what is drawn, and the probability it has.
STEPS = {
    "lesions": "lesion",
    "craniotomy": "craniotomy",
    "voids": "void",
    "fat_shift": "fat_shift",
    "distortion": "distortion",
    "slice_motion": "motion",
    "wrap_around": "wrap",
    "ghost": "ghost",
}
SPACING = 3.0
UP = torch.tensor([0.0, 0.0, 1.0])


def ball_map() -> LabelMap:
    """A ball of brain of 30 mm in a cube of head of 123 mm."""
    at = np.indices((41, 41, 41)) - 20
    return LabelMap.of(np.where((at**2).sum(0) <= 100, 101, 1).astype(np.uint8), SPACING)


MAP = ball_map()
# On the map's own voxels, in the coordinates of grid_sample.
POINTS = torch.stack(torch.meshgrid(*[(2 * torch.arange(41) + 1) / 41 - 1] * 3, indexing="ij")[::-1], -1)[None]
WINDOW = Window((41, 41, 41), SPACING, 0.0)
IMAGE = MAP.brain[None] * 0.5 + 0.25


def probabilities(value: float) -> dict[str, float]:
    """Of all steps that make brains and images not whole."""
    return {f"{thing}_probability": value for thing in STEPS.values()}


def round_blob(radius_mm: float, share: float = 1.0, inset_mm: float = 0.0, direction: torch.Tensor = UP) -> Blob:
    """A ball."""
    field = torch.zeros(1, 1, 5, 5, 5)
    return Blob(Place(direction, share, inset_mm), torch.eye(3) / radius_mm, None, 0.0, field)


def lesion(blob: Blob, zones: tuple[Zone, ...], push: float = 0.0, open_mm: float = 0.0) -> Lesion:
    """A lesion without texture."""
    return Lesion(blob, zones, None, push, 20.0, open_mm)


def distance_mm(centre_mm: tuple[float, float, float]) -> torch.Tensor:
    """Distance of each voxel of the map to a point, [41, 41, 41]."""
    axes = torch.meshgrid(*[(torch.arange(41) - 20) * SPACING] * 3, indexing="ij")
    return sum((axis - at) ** 2 for axis, at in zip(axes, centre_mm, strict=True)).sqrt()


# Configuration


@pytest.mark.parametrize("config", [TransferConfig().synth, ClassTrainConfig().synth, CaseConfig().easy])
def test_trainings_from_weights_or_for_classes_and_easy_cases_have_whole_brains(config):
    assert all(getattr(config, name) == 0 for name in probabilities(0))


def test_with_all_off_the_same_is_drawn_and_none_of_the_new():
    """What else is drawn does not depend on them."""
    whole = SynthConfig().whole()
    for seed in range(5):
        usual, other = (
            sample_parameters(config, WINDOW, 1.0, RandomStreams((seed,)))
            for config in (whole, SynthConfig(**probabilities(1.0)))
        )
        assert not any(getattr(usual, name) for name in STEPS)
        assert all(getattr(other, name) for name in STEPS)
        without = replace(other, **{name: getattr(usual, name) for name in STEPS})
        images = [synthesise([MAP], WINDOW, [parameters]) for parameters in (usual, without)]
        assert all(torch.equal(a, b) for a, b in zip(*images, strict=True))
    assert set(STEPS) < {field.name for field in fields(SynthParameters)}


@pytest.mark.parametrize("name", STEPS)
def test_the_brain_stays_whole_unless_the_anatomy_moves(name):
    """Lesions that push, distortion and motion move the brain to find; nothing makes it smaller."""
    still = {"lesion_push": (0.0, 0.0)} if name == "lesions" else {}
    config = replace(SynthConfig().whole(), **{f"{STEPS[name]}_probability": 1.0}, **still)
    source = LabelMap.of(make_head().labels, 6.0)
    window = Window((25, 25, 25), 6.0, 0.0)
    for seed in range(3):
        drawn = sample_parameters(config, window, 1.0, RandomStreams((seed,)))
        nothing = () if isinstance(getattr(drawn, name), tuple) else None
        (image, brain, _), (_, target, _) = (
            synthesise([source], window, [p]) for p in (drawn, replace(drawn, **{name: nothing}))
        )
        assert float(image.min()) >= 0 and float(image.max()) <= 1
        if name in ("distortion", "slice_motion"):
            assert float(brain.sum()) == pytest.approx(float(target.sum()), rel=0.25)
        else:
            assert torch.equal(brain, target)


# Blobs


def test_a_ray_leaves_the_brain_at_its_surface():
    assert surface_mm(MAP, UP) == pytest.approx(30, abs=SPACING)
    assert centre_of(Place(UP, 0.5, 3.0), MAP).tolist() == pytest.approx([0, 0, 12], abs=SPACING)
    assert centre_of(Place(UP, 0.0, 9.0), MAP).tolist() == [0, 0, 0]  # not on the other side


def test_a_round_blob_is_a_ball():
    offsets = offsets_mm(MAP, POINTS, torch.tensor([0.0, 6.0, -3.0]))
    expected = distance_mm((0, 6, -3)) / 12
    torch.testing.assert_close(distance_in_radii(round_blob(12.0), offsets), expected, atol=1e-4, rtol=1e-4)


def test_a_blob_with_faces_is_a_polyhedron():
    normals = torch.cat([torch.eye(3), -torch.eye(3)], 1)  # a cube
    blob = replace(round_blob(9.0), normals=normals)
    offsets = offsets_mm(MAP, POINTS, torch.zeros(3))
    torch.testing.assert_close(distance_in_radii(blob, offsets), offsets.abs().amax(-1) / 9)


def test_a_field_moves_the_surface():
    blob = replace(round_blob(12.0), uneven=0.5, field=torch.ones(1, 1, 5, 5, 5))
    offsets = offsets_mm(MAP, POINTS, torch.zeros(3))
    torch.testing.assert_close(distance_in_radii(blob, offsets), distance_mm((0, 0, 0)) / 12 + 0.5)


# Lesions


def test_zones_lie_over_each_other_in_the_brain_alone():
    zones = (Zone(1.5, 1.0, 0.5), Zone(1.0, 0.1, 1.0))
    image = add_lesions(IMAGE, MAP.brain[None], MAP, [lesion(round_blob(12.0), zones)], POINTS)[0]
    radii = distance_mm(tuple(centre_of(Place(UP, 1.0, 0.0), MAP).tolist())) / 12
    brain = MAP.brain > 0
    assert torch.equal(image[~brain], IMAGE[0][~brain])
    torch.testing.assert_close(
        image[brain & (radii < 0.99)], torch.tensor(0.1).expand(int((brain & (radii < 0.99)).sum()))
    )
    halo = brain & (radii > 1.01) & (radii < 1.49)
    torch.testing.assert_close(image[halo], torch.full_like(image[halo], 0.875))  # half of 0.75, half of 1


def test_a_texture_varies_within_the_lesion():
    textured = replace(lesion(round_blob(12.0, 0.0), (Zone(1.0, 0.5, 1.0),)), texture=torch.randn(1, 1, 9, 9, 9))
    image = add_lesions(IMAGE, MAP.brain[None], MAP, [textured], POINTS)[0]
    assert float(image[distance_mm((0, 0, 0)) < 11].std()) > 0.3


def test_the_fluid_of_an_open_cavity_lies_above_the_brain_too():
    fluid = (Zone(1.0, 2.0, 1.0),)
    closed, opened = (
        add_lesions(IMAGE, MAP.brain[None], MAP, [lesion(round_blob(15.0), fluid, open_mm=mm)], POINTS)[0] == 2
        for mm in (0.0, 6.0)
    )
    outside = opened & (MAP.brain == 0)
    assert not (closed & (MAP.brain == 0)).any() and outside.any()
    assert float(away_mm(MAP, POINTS)[0][outside].max()) < 6


def test_a_lesion_pushes_what_lies_around_away():
    middle = lesion(round_blob(12.0, 0.0), (Zone(1.0, 0.0, 1.0),), push=0.5)
    radii = (push_aside(POINTS, MAP, [middle])[0] * 61.5).norm(dim=-1)
    before = distance_mm((0, 0, 0))
    near, far = (before > 0) & (before < 10), before > 55
    assert float((radii / before)[near].mean()) == pytest.approx(0.55, abs=0.06)
    torch.testing.assert_close(radii[far], before[far], atol=0.1, rtol=0)
    line = radii[20, 20, 20:]
    assert (line[1:] > line[:-1]).all()  # nothing folds
    assert push_aside(POINTS, MAP, [replace(middle, push=0.0)]) is POINTS


# Above the brain, and signal


def test_a_craniotomy_lies_above_one_place_of_the_brain():
    image = open_skull(IMAGE, MAP.brain[None], MAP, Craniotomy(UP, 15.0, (3.0, 12.0), 2.0), POINTS)[0]
    changed = torch.nonzero(image == 2) - 20
    assert len(changed) and (changed[:, 2] > 8).all()
    assert float((changed[:, :2] * SPACING).float().norm(dim=1).max()) < 15
    away = away_mm(MAP, POINTS)[0][image == 2]
    assert float(away.min()) >= 3 and float(away.max()) < 12
    assert torch.equal(image[MAP.brain > 0], IMAGE[0][MAP.brain > 0])


def test_a_void_loses_signal_inside_and_gains_some_around():
    void = Void(round_blob(12.0, 0.0), 0.9, 0.2, 0.5)
    image = lose_signal(torch.ones(1, 41, 41, 41), MAP, [void], POINTS)[0]
    radii = distance_mm((0, 0, 0)) / 12
    assert float(image[radii < 0.5].max()) == pytest.approx(0.1, abs=0.01)
    assert float(image[(radii > 1.1) & (radii < 1.4)].max()) > 1.3
    assert float((image[radii > 2.5] - 1).abs().max()) < 0.01


def test_fat_moves_by_whole_voxels_and_the_rest_stays():
    is_fat = torch.zeros(256, dtype=torch.bool)
    is_fat[1] = True
    labels = torch.zeros(6, 1, 1, dtype=torch.int32)
    labels[2], labels[4] = 1, 101
    source = replace(MAP, labels=labels, spacing_mm=2.0)
    image = torch.tensor([0.1, 0.2, 0.5, 0.3, 0.4, 0.6])[:, None, None]
    for shift_mm, expected in ((4.0, [0.1, 0.2, 0, 0.3, 0.9, 0.6]), (-4.0, [0.6, 0.2, 0, 0.3, 0.4, 0.6]),
                               (20.0, [0.1, 0.2, 0, 0.3, 0.4, 0.6]), (0.5, image.flatten().tolist())):  # fmt: skip
        moved = shift_fat(image, source, FatShift(is_fat, 0, shift_mm))
        torch.testing.assert_close(moved.flatten(), torch.tensor(expected))


# Distortion, motion, copies


def test_values_are_shifted_linearly_and_go_on_beyond_the_faces():
    values = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 2, 2, 1)
    voxels = torch.zeros(1, 3, 5, 2, 2)
    voxels[:, 0] = 1.5
    expected = torch.tensor([1.5, 2.5, 3.5, 4.0, 4.0]).view(1, 5, 1, 1, 1).expand(1, 5, 2, 2, 1)
    torch.testing.assert_close(shifted(values, voxels), expected)


def test_signal_follows_the_distortion():
    """Where neighbours lie 1.5 times as far apart as they are seen, there is 1.5 times the signal."""
    ramp = torch.linspace(-30, 30, 41).view(1, 1, 1, 41, 1).expand(1, 1, 2, 41, 2)
    drawn = [Distortion(1, ramp, True), Distortion(1, ramp, False), None]
    images = torch.ones(3, *WINDOW.shape)
    slope = 60 / (40 * SPACING)
    followed = follow_signal(images, WINDOW, drawn)
    torch.testing.assert_close(followed[0], (1 + slope) * images[0])
    assert torch.equal(followed[1:], images[1:])
    shift = distortion_mm(WINDOW, drawn, images.device)
    assert (
        (shift[:2, 1, 0, :, 0] == ramp[0, 0, 0, :, 0]).all() and not shift[:, [0, 2]].any() and not shift[2].any()
    )


def test_slices_move_and_lose_signal_as_one():
    drawn = SliceMotion(2, 6.0, torch.arange(63.0).view(21, 3), torch.arange(21.0))
    shift = motion_mm(WINDOW, [drawn, None], torch.device("cpu"))
    slices = torch.arange(41) // 2  # of two voxels
    for axis in range(3):
        assert torch.equal(shift[0, axis, 3, 7], 3.0 * slices + axis)
    assert not shift[1].any()
    dimmed = dim_slices(torch.ones(2, *WINDOW.shape), WINDOW, [drawn, None])
    assert torch.equal(dimmed[0, 1, 2], slices.float()) and (dimmed[1] == 1).all()


def test_a_ghost_is_a_weak_copy_beside():
    images = torch.zeros(2, 4, 1, 1)
    images[:, 0] = 1
    assert add_ghosts(images, [Ghost(0, 0.5, 0.2), None]).flatten().tolist() == pytest.approx(
        [1, 0, 0.2, 0, 1, 0, 0, 0]
    )


def test_what_a_short_field_of_view_leaves_out_is_seen_at_the_other_side():
    window = Window((8, 1, 1), 2.0, 0.0)
    image = torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128]).view(1, 8, 1, 1).repeat(2, 1, 1, 1)
    covered = torch.ones_like(image, dtype=torch.bool)
    covered[0, 7] = False
    image, covered = wrap_around(image, covered, window, [WrapAround(0, (2.0, 4.0)), None])
    assert image[0, 1:6].flatten().tolist() == [2 + 64, 4, 8, 16, 32 + 1]  # 128 had no data
    assert covered[0].flatten().tolist() == [False] + 5 * [True] + 2 * [False]
    assert covered[1].all() and image[1, 0] == 1
