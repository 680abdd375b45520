"""The synthesis: replay, streams, geometry, intensities, acquisition, field of view."""

import math
import re
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from phantoms import BRAIN, make_head
from scipy import ndimage

from singlestrip.configuration import ShapeConfig, SynthConfig, TrainConfig, Window
from singlestrip.networks import normalisation
from singlestrip.space.scan import Scan
from singlestrip.synthesis import image as synthesis
from singlestrip.synthesis import intensity_scale
from singlestrip.synthesis.acquisition import slice_matrix
from singlestrip.synthesis.bias import BiasField, SurfaceCoil, apply_bias
from singlestrip.synthesis.class_intensities import Region
from singlestrip.synthesis.field_of_view import Crop
from singlestrip.synthesis.fields import integrate, profile_matrices
from singlestrip.synthesis.found_lesions import LesionBank, find_lesions
from singlestrip.synthesis.image import sample_parameters, synthesise
from singlestrip.synthesis.intensity_scale import normalise
from singlestrip.synthesis.label_map import LabelMap
from singlestrip.synthesis.layer import Layer
from singlestrip.synthesis.shape import window_coordinates
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.synthesis.structures import Structure
from singlestrip.synthesis.surroundings import Surroundings, away_mm
from singlestrip.training import maps as training_maps
from singlestrip.training.maps import ImageSource, WindowMaps

SPACING = 6.0
# An odd number of voxels, as the phantom's brain has: the grids of window and map coincide.
WINDOW = Window((25, 25, 25), SPACING, 6.0)
STILL = Window(WINDOW.shape, SPACING, 0.0)
STILL_SHAPE = ShapeConfig(
    rotation_deg=0,
    turn_probability=0,
    quarter_turn_probability=0,
    scaling=(1, 1),
    anisotropy=0,
    shear=0,
    warp_mm=(0, 0, 0),
    flip_probability=0,
)
PROBABILITIES = [each.name for each in fields(SynthConfig) if each.name.endswith("_probability")]
OFF = SynthConfig(
    shape=STILL_SHAPE,
    class_noise=(0, 0),
    smoothing_mm=(0, 0),
    noise=(0, 0),
    bias=(0, 0),
    gamma=0,
    **dict.fromkeys(PROBABILITIES, 0),
)


def lopsided_labels() -> np.ndarray:
    """A brain of [9, 11, 7] voxels with a heavy corner, in two classes of head."""
    labels = np.ones((33, 31, 33), dtype=np.uint8)
    labels[6:26, 6:27, 6:24] = 2
    labels[10:19, 9:20, 11:18] = 101
    labels[10:19, 16:20, 11:18] = 102
    labels[13:19, 9:13, 11:14] = 103
    labels[10:12, 9:16, 14:18] = 2
    return labels


LABELS = lopsided_labels()
MAP = LabelMap.of(LABELS, SPACING)
MIDDLE = (14, 14, 14)  # of the brain's bounding box


def around_brain(array):
    """The part of a map that a window around the brain sees, [25, 25, 25]."""
    padded = np.pad(array, 12)
    return padded[tuple(slice(m, m + 25) for m in MIDDLE)]


LEVELS = torch.rand(256, generator=torch.Generator().manual_seed(1))
# A lesion as large as the brain, in a scan of noise.
NOISE = np.random.default_rng(0).normal(size=LABELS.shape)
FOUND = LesionBank(tuple(find_lesions(NOISE, Scan(LABELS > 100, np.diag([SPACING] * 3 + [1.0])))))


SHARES = torch.from_numpy(np.bincount(LABELS[LABELS > 100], minlength=256) / np.count_nonzero(LABELS > 100))


def draw(seed=0, config=SynthConfig(), window=WINDOW, scale=1.0, levels=None, found_lesions=None, shares=None):
    streams = RandomStreams((seed,))
    return sample_parameters(config, window, scale, streams, levels, shares=shares, found_lesions=found_lesions)


def shaped(**changes):
    """All off but for the shape."""
    return replace(OFF, shape=replace(STILL_SHAPE, **changes))


def numbers(drawn):
    """What was drawn, as a flat dictionary from names such as "acquisition.slices" to tensors and numbers."""
    found = {}
    for field in fields(drawn):
        value = getattr(drawn, field.name)
        parts = {f".{k}": part for k, part in enumerate(value)} if isinstance(value, tuple) else {"": value}
        for number, part in parts.items():
            name = field.name + number
            found |= {f"{name}.{k}": v for k, v in numbers(part).items()} if is_dataclass(part) else {name: part}
    return found


def differing(a, b):
    """Names of the numbers that two draws do not share to the bit."""
    first, second = numbers(a), numbers(b)

    def equal(x, y):
        return torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y

    return {name for name in first.keys() | second.keys()
            if not (name in first and name in second and equal(first[name], second[name]))}  # fmt: skip


def make(parameters, window=WINDOW, source=MAP):
    """Image, brain and weight [X, Y, Z] of one sample."""
    return [part[0, 0] for part in synthesise([source], window, [parameters])]


def normalised(image, covered):
    """Both [X, Y, Z]; the image in the range of what is covered."""
    image, covered = torch.from_numpy(image).float(), torch.from_numpy(covered)
    return normalise(image[None], covered[None])[0].numpy()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Replay


def test_the_same_state_draws_the_same_batch():
    first, second = draw(5), draw(5)
    assert not differing(first, second)
    assert same(make(first), make(second))
    assert same(make(first), make(first))


def test_another_seed_draws_another_batch():
    assert not torch.equal(make(draw(5))[0], make(draw(6))[0])
    assert not torch.equal(make(draw(5))[1], make(draw(6))[1])


def test_the_noise_seed_changes_the_noise_alone():
    parameters = draw(5)
    noise_seed = parameters.acquisition.noise_seed + 1
    other = replace(parameters, acquisition=replace(parameters.acquisition, noise_seed=noise_seed))
    (image, brain, weight), (image_2, brain_2, weight_2) = make(parameters), make(other)
    assert not torch.equal(image, image_2)
    assert torch.equal(brain, brain_2)
    assert torch.equal(weight, weight_2)


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3), (4, 5)])
def test_a_batch_of_two_is_its_two_singles(seeds):
    head = make_head()
    maps = [MAP, LabelMap.of(head.labels, SPACING)]
    parameters = [draw(seed, SynthConfig(masked_probability=0.5)) for seed in seeds]
    together = synthesise(maps, WINDOW, parameters)
    for k in range(2):
        single = synthesise([maps[k]], WINDOW, [parameters[k]])
        for part, alone in zip(together, single, strict=True):
            torch.testing.assert_close(part[k : k + 1], alone, atol=1e-3, rtol=1e-3)


# Streams: what is drawn for one thing leaves all others as they are


ALWAYS = set(PROBABILITIES) - {
    "brain_range_probability",
    "blank_probability",
    "shell_probability",
    "sheet_probability",
    "lesion_border_probability",
    "lesion_faces_probability",
    "found_lesion_probability",
    "oedema_probability",
    "core_probability",
    "cavity_probability",
    "craniotomy_dark_probability",
    "void_base_probability",
    "distortion_signal_probability",
    "motion_interleaved_probability",
}  # these choose between two things
ALL = SynthConfig(
    shape=ShapeConfig(turn_probability=1.0, quarter_turn_probability=1.0),
    lesions=(3, 3),
    voids=(4, 4),
    motion_slice_mm=(6.0, 18.0),
    **dict.fromkeys(ALWAYS, 1.0),
)
BLOB = {"place.direction", "place.share", "place.inset_mm", "to_unit", "normals", "uneven", "field"}
LESION = {*(f"blob.{part}" for part in BLOB), "texture", "push", "push_mm", "open_mm",
          *(f"zones.{k}.{part}" for k in range(3) for part in ("radii", "intensity", "opacity"))}  # fmt: skip
# Each thing that is random, and all parameters that may change with it.
THINGS = {
    **{name: {"shape.affine"} for name in
       ("rotation", "turn", "quarter turn", "scaling", "anisotropy", "shear", "flip", "jitter")},
    **{f"warp {k}": {f"shape.velocity.{k}"} for k in range(3)},
    "class means": set(),  # all on one curve
    "curve outside": set(),
    "curve inside": set(),
    "joint curve": {"classes.mean", "classes.region.mean"},
    "dark classes": {"classes.mean", "classes.region.mean"},
    "region": {"classes.region.mean", "classes.region.field"},
    "class noise": {"classes.noise"},
    "class grain": {"classes.noise_seed"},
    "structures": {f"structures.{k}.{part}" for k in range(4)
                   for part in ("field", "intensity", "between.0", "between.1", "is_shell")},
    "layer": {"layer.thickness_mm", "layer.intensity"},
    "lesions": {f"lesions.{k}.{part}" for k in range(3) for part in LESION},
    "craniotomy": {f"craniotomy.{part}" for part in
                   ("direction", "radius_mm", "between_mm.0", "between_mm.1", "intensity")},
    "voids": {f"voids.{k}.{part}" for k in range(4)
              for part in ("loss", "edge", "pile_up",
                          *(f"blob.{each}" for each in BLOB - {"normals", "place.share"}))},
    "fat shift": {"fat_shift.is_fat", "fat_shift.axis", "fat_shift.shift_mm"},
    "distortion": {"distortion.axis", "distortion.shift_mm", "distortion.with_signal"},
    "slice motion": {f"slice_motion.{part}" for part in ("axis", "thickness_mm", "shift_mm", "gain")},
    "wrap around": {"wrap_around.axis", "wrap_around.depth_mm"},
    "ghost": {f"ghost.{part}" for part in ("axis", "shift", "strength")},
    "bias": {"bias.log_gain"},
    "coil": {"bias.coil.centre_mm", "bias.coil.radius_mm"},
    "surroundings": {"surroundings.rim_mm"},
    "bodies": {"surroundings.bodies", "surroundings.intensity"},
    "body intensities": {"surroundings.intensity"},
    "dark body": {"surroundings.intensity"},
    "blur": {"acquisition.blur_mm"},
    "slices": {f"acquisition.slices.{part}" for part in ("axis", "spacing_mm", "thickness_mm", "offset")},
    "noise": {"acquisition.noise"},
    "noise grain": {"acquisition.noise_seed"},
    "brain range": {"intensity_scale.by_brain"},
    "gamma": {"intensity_scale.gamma"},
    "crop": {"crop.depth_mm"},
    "masking": {"masking.rim_mm"},
    "blank": {"masking.intensity"},
}  # fmt: skip


class Moved(RandomStreams):
    """Streams of which that of one name gives other numbers."""

    moved = ""

    def seed(self, name):
        return super().seed(name) + (name == self.moved)


@pytest.mark.parametrize("thing", THINGS)
def test_other_numbers_for_one_thing_move_no_other(thing, monkeypatch):
    monkeypatch.setattr(Moved, "moved", thing)
    changed = set()
    for seed in range(12):
        usual, other = (sample_parameters(ALL, WINDOW, 1.0, of((seed,)), LEVELS) for of in (RandomStreams, Moved))
        changed |= differing(usual, other)
    together = {
        re.sub(r"^(acquisition\.blur_mm|crop\.depth_mm|wrap_around\.depth_mm)\.\d$", r"\1", name)
        for name in changed
    }
    assert together == THINGS[thing]


def test_every_stream_is_asked_for_once(monkeypatch):
    asked, seed = [], RandomStreams.seed
    monkeypatch.setattr(RandomStreams, "seed", lambda self, name: asked.append(name) or seed(self, name))
    draw(0, ALL, levels=LEVELS)
    assert sorted(asked) == sorted(THINGS)


def test_a_sampler_that_draws_more_moves_no_other(monkeypatch):
    """Another way to draw the bias, from a new stream beside the old one."""
    usual = draw(3, ALL, levels=LEVELS)

    def draw_more(config, window, scale, streams):
        torch.rand(1000, generator=streams("ring artefact"))
        return BiasField(torch.randn(1, 1, 9, 9, 9, generator=streams("bias")), usual.bias.coil)

    monkeypatch.setattr(synthesis, "sample_bias", draw_more)
    assert differing(usual, draw(3, ALL, levels=LEVELS)) == {"bias.log_gain"}


def test_the_choice_of_the_label_map_depends_on_the_run_and_the_image_alone(monkeypatch):
    """Whatever else is drawn; and the same image is drawn of it, whatever other images there are in the batch."""
    chosen = []
    monkeypatch.setattr(training_maps, "synthesise", lambda maps, window, drawn, _: chosen.append((maps, drawn)))
    maps = [MAP, LabelMap.of(make_head().labels, SPACING)]
    for config, images in ((SynthConfig(), range(12)), (ALL, range(12)), (SynthConfig(), range(4, 7))):
        ImageSource([WindowMaps(WINDOW, maps)], TrainConfig(synth=config), 1.0, 1).draw(images, 0)
    (usual, drawn), (with_all, _), (some, drawn_again) = chosen
    second = [[source is maps[1] for source in sources] for sources in (usual, with_all, some)]
    assert second[0] == second[1] and second[0][4:7] == second[2]
    assert set(second[0]) == {False, True}
    assert not any(differing(a, b) for a, b in zip(drawn[4:7], drawn_again, strict=True))


def test_streams_are_those_of_their_numbers_and_name():
    streams = [RandomStreams((0, 1)), RandomStreams((0, 2)), RandomStreams((1, 0)), RandomStreams((0,)),
               RandomStreams((0, 0)), RandomStreams((0,)).part(3)]  # fmt: skip
    seeds = [each.seed(name) for each in streams for name in ("bias", "gamma")]
    assert len(set(seeds)) == len(seeds)
    assert RandomStreams((0,)).part(3) == RandomStreams((0, 3))
    first, second = (torch.rand(5, generator=RandomStreams((4, 2))("bias")) for _ in range(2))
    assert torch.equal(first, second)


def test_streams_are_the_same_everywhere():
    """In each process, on each machine and in each version to come: a seed gives the same images."""
    assert RandomStreams((0, 1, 2)).seed("bias") == 7643742135071013250


# Everything off


def test_with_everything_off_the_brain_is_that_of_the_map():
    _, brain, weight = make(draw(config=OFF, window=STILL), STILL)
    np.testing.assert_allclose(brain, around_brain(LABELS > 100), atol=1e-4)
    np.testing.assert_array_equal(weight, around_brain(LABELS > 0))


@pytest.mark.parametrize("seed", range(3))
def test_with_everything_off_each_class_has_its_mean(seed):
    parameters = draw(seed, OFF, STILL)
    image, _, _ = make(parameters, STILL)
    classes = around_brain(LABELS)
    expected = normalised(parameters.classes.mean.numpy()[classes], classes > 0)
    np.testing.assert_allclose(image, expected, atol=1e-3)


def test_gamma_is_an_exponent():
    parameters = draw(1, OFF, STILL)
    plain, _, _ = make(parameters, STILL)
    bent, _, _ = make(replace(parameters, intensity_scale=replace(parameters.intensity_scale, gamma=2.0)), STILL)
    torch.testing.assert_close(bent, plain.square())


def test_fine_windows_interpolate_the_map():
    """At half the spacing the target's volume in mm³ stays."""
    fine = Window((50, 50, 50), SPACING / 2, 0.0)
    _, brain, _ = make(draw(config=OFF, window=fine), fine)
    assert brain.sum() / 8 == pytest.approx((LABELS > 100).sum(), rel=0.01)


# Geometry


def moved(matrix=np.eye(3), shift_mm=(0, 0, 0)):
    """The brain under a known affine, window mm to map mm."""
    affine = torch.eye(4)
    affine[:3, :3] = torch.as_tensor(np.asarray(matrix), dtype=torch.float32)
    affine[:3, 3] = torch.tensor(shift_mm, dtype=torch.float32)
    return make(with_affine(draw(config=OFF, window=STILL), affine), STILL)[1].numpy()


def with_affine(parameters, affine):
    return replace(parameters, shape=replace(parameters.shape, affine=affine))


@pytest.mark.parametrize("steps", [(2, 0, 0), (0, -3, 0), (1, 2, -3)])
def test_a_translation_moves_the_brain_against_it(steps):
    expected = np.roll(around_brain(LABELS > 100), [-s for s in steps], (0, 1, 2))
    np.testing.assert_allclose(moved(shift_mm=[SPACING * s for s in steps]), expected, atol=1e-4)


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_a_quarter_turn_turns_the_brain(plane):
    a, b = plane
    matrix = np.eye(3)
    matrix[[a, b]] = matrix[[b, a]] * [[-1], [1]]  # reads map +b at window +a turned into -a
    still = around_brain(LABELS > 100)
    turned = moved(matrix)
    # The voxel read at window x is that of the map at matrix · x.
    at = np.indices(still.shape).reshape(3, -1) - 12
    expected = still[tuple((matrix.astype(int) @ at) + 12)].reshape(still.shape)
    np.testing.assert_allclose(turned, expected, atol=1e-4)
    assert (abs(turned - still) > 0.5).sum() > 50
    assert any(np.allclose(turned, np.rot90(still, k, plane), atol=1e-4) for k in (1, 3))


def test_quarter_turns_exchange_axes():
    config = shaped(quarter_turn_probability=1.0)
    matrices = [draw(seed, config, STILL).shape.affine[:3, :3].numpy() for seed in range(200)]
    assert all(np.allclose(np.sort(np.abs(m), axis=1), [0, 0, 1], atol=1e-6) for m in matrices)
    assert all(np.linalg.det(m) > 0.99 for m in matrices)
    assert len({tuple(m.round().astype(int).ravel()) for m in matrices}) == 24


def test_the_flip_mirrors_left_and_right():
    _, brain, _ = make(draw(config=shaped(flip_probability=1), window=STILL), STILL)
    np.testing.assert_allclose(brain, around_brain(LABELS > 100)[::-1], atol=1e-4)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_scaling_scales_the_volume(factor):
    _, brain, _ = make(draw(config=shaped(scaling=(factor, factor)), window=STILL), STILL)
    assert brain.sum() == pytest.approx(factor**3 * (LABELS > 100).sum(), rel=0.03)


def test_a_turned_head_is_turned_about_one_axis_by_any_angle():
    config = shaped(turn_probability=1.0)
    angles, axes = [], set()
    for seed in range(60):
        matrix = draw(seed, config).shape.affine[:3, :3].numpy()
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
        (fixed,) = np.flatnonzero(np.abs(np.diag(matrix) - 1) < 1e-6)
        axes.add(int(fixed))
        angles.append(np.degrees(np.arccos((np.trace(matrix) - 1) / 2)))
    assert axes == {0, 1, 2}
    assert min(angles) < 20 and max(angles) > 160


def joint_means(seed, levels=LEVELS, **changes):
    return draw(seed, replace(OFF, joint_probability=1.0, **changes), levels=levels).classes.mean


def test_classes_alike_in_the_scan_are_alike_on_both_sides_of_the_border():
    levels = LEVELS.clone()
    levels[105] = levels[4]
    for seed in range(10):
        means = joint_means(seed, levels)
        assert means[105] == means[4]
        assert len(means[1:].unique()) > 200


def test_with_two_knots_joint_intensities_are_linear_in_those_of_the_scan():
    for seed in range(10):
        means = joint_means(seed, smooth_knots=(2, 2))[1:].numpy()
        slope, start = np.polyfit(LEVELS[1:].numpy(), means, 1)
        np.testing.assert_allclose(means, slope * LEVELS[1:].numpy() + start, atol=1e-5)
        assert means.min() >= 0 and means.max() <= 1


def test_without_levels_nothing_is_joint():
    config = replace(OFF, joint_probability=1.0)
    assert torch.equal(draw(3, config).classes.mean, draw(3, OFF).classes.mean)


@pytest.mark.parametrize("seed", range(5))
def test_regions_change_the_outside_and_leave_the_brain(seed):
    parameters = draw(seed, replace(OFF, region_probability=1.0), STILL)
    mean, region_mean = parameters.classes.mean, parameters.classes.region.mean
    assert torch.equal(mean[101:], region_mean[101:])
    assert (mean[1:101] != region_mean[1:101]).all()
    half = torch.full((1, 1, 2, 2, 2), 1.0)
    half[:, :, 0] = -1.0  # the first half of what is seen of the map is one region, the rest the other
    image, _, _ = make(
        replace(parameters, classes=replace(parameters.classes, region=Region(region_mean, half))), STILL
    )
    labels = around_brain(LABELS)
    voxel = np.arange(25)[:, None, None]
    means = [mean.numpy(), region_mean.numpy()]
    expected = np.where(voxel < 12, means[0][labels], means[1][labels])
    expected = normalised(expected, labels > 0)
    scanned = (labels > 0) & (np.abs(voxel - 12) > 1)  # two voxels more of the map are seen at a face
    np.testing.assert_allclose(image.numpy()[scanned], expected[scanned], atol=1e-3)


def test_regions_are_as_often_as_asked_and_keep_air_dark():
    counts = {0.0: 0, 0.5: 0, 1.0: 0}
    for probability in counts:
        config = replace(OFF, region_probability=probability, dark_probability=1.0, dark_classes=(3, 3))
        for seed in range(60):
            classes = draw(seed, config).classes
            assert classes.mean[1:4].max() <= 0.08
            if classes.region is not None:
                counts[probability] += 1
                assert torch.equal(classes.mean[:4], classes.region.mean[:4])
    assert counts[0.0] == 0
    assert 15 < counts[0.5] < 45
    assert counts[1.0] == 60


def test_away_is_the_distance_to_the_surface_between_two_voxels():
    away = MAP.away_mm.numpy()
    assert (away[LABELS > 100] == 0).all()
    # Along a line that leaves the brain at its first face, voxel by voxel: half a voxel, one and a half, ...
    np.testing.assert_allclose(away[9:4:-1, 18, 12], SPACING * (np.arange(5) + 0.5))
    assert away[LABELS <= 100].min() == SPACING / 2


def test_structures_lie_in_the_brain_later_ones_over_earlier_ones():
    parameters = draw(1, OFF, STILL)
    halves = torch.full((1, 1, 2, 2, 2), 1.0)
    halves[:, :, 0] = -1.0
    structures = Structure(torch.ones(1, 1, 2, 2, 2), (0, math.inf), 0.2), Structure(halves, (0, 2), 0.9)
    image, brain, weight = make(replace(parameters, structures=structures), STILL)
    labels, voxel = around_brain(LABELS), np.arange(25)[:, None, None]
    inside = np.where(voxel < 12, 0.2, 0.9)
    expected = np.where(labels > 100, inside, parameters.classes.mean.numpy()[labels])
    expected = normalised(expected, labels > 0)
    compared = (labels > 0) & (np.abs(voxel - 12) > 1)
    np.testing.assert_allclose(image.numpy()[compared], expected[compared], atol=1e-3)
    assert same((brain, weight), make(parameters, STILL)[1:])


def test_shells_lie_at_their_depth():
    parameters = draw(1, OFF, STILL)
    depth = torch.full((1, 1, 2, 2, 2), 1.5 * SPACING)
    shell = Structure(depth, (-0.7 * SPACING, 0.7 * SPACING), 0.9, is_shell=True)
    image, brain, weight = make(replace(parameters, structures=(shell,)), STILL)
    labels = around_brain(LABELS)
    voxels_deep = ndimage.distance_transform_edt(around_brain(LABELS > 100))  # 1 at the surface
    within = (voxels_deep > 1.3) & (voxels_deep < 2.7)
    assert 0 < within.sum() < (labels > 100).sum()
    expected = normalised(np.where(within, 0.9, parameters.classes.mean.numpy()[labels]), labels > 0)
    np.testing.assert_allclose(image.numpy()[labels > 0], expected[labels > 0], atol=1e-3)
    assert same((brain, weight), make(parameters, STILL)[1:])


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_is_as_thick_as_it_says_has_one_intensity_and_leaves_all_else(seed):
    parameters = draw(seed, OFF, STILL)
    thickness = torch.full((1, 1, 2, 2, 2), 2.4 * SPACING)
    with_layer = replace(parameters, layer=Layer(thickness, 0.3 + 0.1 * seed))
    labels = around_brain(LABELS)
    distance = ndimage.distance_transform_edt(around_brain(LABELS <= 100))
    within = (distance > 0) & (distance < 2.9) & (labels > 0)
    expected = np.where(within, 0.3 + 0.1 * seed, parameters.classes.mean.numpy()[labels])
    expected = normalised(expected, labels > 0)
    scanned = labels > 0
    image, brain, weight = make(with_layer, STILL)
    np.testing.assert_allclose(image.numpy()[scanned], expected[scanned], atol=1e-3)
    assert same((brain, weight), make(parameters, STILL)[1:])


def test_a_layer_of_no_thickness_changes_nothing():
    parameters = draw(2, OFF)
    nothing = replace(parameters, layer=Layer(torch.full((1, 1, 2, 2, 2), -1.0), 0.5))
    assert same(make(parameters), make(nothing))


def test_layers_are_as_often_and_as_thick_as_asked():
    for probability, (fewest, most) in {0.0: (0, 0), 0.5: (15, 45), 1.0: (60, 60)}.items():
        config = replace(OFF, layer_probability=probability, layer_mm=(2.0, 5.0), layer_uneven_mm=(0.0, 0.0))
        drawn = [draw(seed, config).layer for seed in range(60)]
        there = [each.thickness_mm for each in drawn if each is not None]
        assert fewest <= len(there) <= most
        assert all(2.0 <= thickness.min() == thickness.max() <= 5.0 for thickness in there)


@pytest.mark.parametrize("seed", range(5))
def test_the_range_of_the_brain_makes_what_is_brighter_outside_of_it_alike(seed):
    usual = draw(seed, OFF, STILL)
    means = usual.classes.mean.clone()
    means[101:] *= 0.3
    means[1:101:2], means[2:101:2] = 0.6, 1.0
    usual = replace(usual, classes=replace(usual.classes, mean=means))
    by_brain = replace(usual, intensity_scale=replace(usual.intensity_scale, by_brain=True))
    labels = around_brain(LABELS)
    brain, outside = labels > 100, (labels > 0) & (labels <= 100)
    image = make(usual, STILL)[0].numpy()
    assert image[brain].max() < 0.4 and len(np.unique(image[outside].round(3))) > 1
    image = make(by_brain, STILL)[0].numpy()
    assert image[brain].max() > 0.99 and (image[outside] == 1).all()


def test_the_range_of_the_brain_is_taken_as_often_as_asked():
    for probability, (fewest, most) in {0.0: (0, 0), 0.5: (15, 45), 1.0: (60, 60)}.items():
        config = replace(OFF, brain_range_probability=probability)
        assert fewest <= sum(draw(seed, config).intensity_scale.by_brain for seed in range(60)) <= most


def test_rotations_are_rotations_within_the_range():
    config = shaped(rotation_deg=20.0)
    for seed in range(20):
        matrix = draw(seed, config, STILL).shape.affine[:3, :3]
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-5, rtol=0)
        assert torch.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
        angle = math.degrees(math.acos((float(matrix.trace()) - 1) / 2))
        assert 0 < angle <= 20 * math.sqrt(3) + 1e-3


def test_jitter_moves_the_brain_by_no_more_than_it_says():
    middle = np.array(ndimage.center_of_mass(around_brain(LABELS > 100)))
    window = Window(WINDOW.shape, SPACING, 12.0)
    shifts = []
    for seed in range(10):
        _, brain, _ = make(draw(seed, OFF, window), window)
        shifts.append(SPACING * (np.array(ndimage.center_of_mass(brain.numpy())) - middle))
    assert np.abs(shifts).max() <= 12.1
    assert np.abs(shifts).max() > 6


def test_lengths_scale_with_the_anatomy():
    """A mouse at a tenth of the size gives the same images as a human."""
    small = LabelMap.of(LABELS, SPACING / 10)
    window = Window(WINDOW.shape, SPACING / 10, 0.6)
    config = SynthConfig(
        bias=(0, 0), coil_probability=0.5, surroundings_probability=0.5
    )  # the bias field's spacing comes from the coil, not the head
    for seed in range(3):
        image, brain, weight = make(draw(seed, config))
        image_2, brain_2, weight_2 = make(draw(seed, config, window, 0.1), window, small)
        torch.testing.assert_close(brain_2, brain, atol=1e-3, rtol=0)
        torch.testing.assert_close(image_2, image, atol=2e-2, rtol=0)
        assert torch.equal(weight_2, weight)


# Deformation

HEAD_WINDOW = Window((96, 96, 96), 2.0, 12.0)
EXTENT = [192.0] * 3
COARSE = 24


def velocity_of(seed, factor=1.0):
    scales = draw(seed, window=HEAD_WINDOW).shape.velocity
    size = (COARSE,) * 3
    return factor * sum(
        torch.nn.functional.interpolate(v, size=size, mode="trilinear", align_corners=True) for v in scales
    )


def jacobian(positions, spacing):
    """Determinants of positions [3, X, Y, Z] by forward differences."""
    inner = (slice(None), slice(-1), slice(-1), slice(-1))
    columns = [np.diff(positions, axis=k + 1)[tuple(s if i != k + 1 else slice(None) for i, s in enumerate(inner))]
               for k in range(3)]  # fmt: skip
    return np.linalg.det(np.moveaxis(np.stack(columns, -1), (0, 4), (3, 4)) / spacing)


@pytest.mark.parametrize("seed", range(10))
def test_the_deformation_does_not_fold(seed):
    displacement = integrate(velocity_of(seed), EXTENT)[0].numpy()
    spacing = EXTENT[0] / (COARSE - 1)
    assert np.abs(displacement).max() > 2
    assert jacobian(np.indices((COARSE,) * 3) * spacing + displacement, spacing).min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_all_of_space_does_not_fold(seed):
    window = Window((48, 48, 48), 4.0, 12.0)
    config = SynthConfig(shape=ShapeConfig(flip_probability=0))
    at_mm = window_coordinates(window, [draw(seed, config, window).shape], "cpu")[0].permute(3, 0, 1, 2).numpy()
    assert jacobian(at_mm, 4.0).min() > 0


@pytest.mark.parametrize("seed", range(5))
def test_the_inverse_field_undoes_the_deformation(seed):
    forward, backward = (integrate(velocity_of(seed, sign), EXTENT)[0].numpy() for sign in (1.0, -1.0))
    spacing = EXTENT[0] / (COARSE - 1)
    at = np.indices((COARSE,) * 3) + backward / spacing
    there = np.stack([ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in forward])
    inner = (slice(None), *[slice(6, -6)] * 3)
    error = np.linalg.norm((backward + there)[inner], axis=0)
    moved_by = np.linalg.norm(backward[inner], axis=0)
    assert error.max() < 0.2 * moved_by.max()
    assert np.median(error) < 0.1 * np.median(moved_by)


def test_a_constant_velocity_is_a_translation():
    velocity = torch.tensor([3.0, -2.0, 1.0]).view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8)
    torch.testing.assert_close(integrate(velocity, [50.0] * 3), velocity.contiguous())


def test_a_linear_velocity_grows_exponentially():
    """v = a x moves x to x exp(a)."""
    x = torch.linspace(-50, 50, 41)
    velocity = torch.zeros(1, 3, 41, 3, 3)
    velocity[0, 0] = -0.3 * x[:, None, None]
    displacement = integrate(velocity, [100.0] * 3)[0, 0, :, 1, 1]
    torch.testing.assert_close(displacement, x * (math.exp(-0.3) - 1), atol=0.1, rtol=0)


# Acquisition


@pytest.mark.parametrize("offset", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("spacing", [1.0, 2.0, 3.7, 30.0])
def test_slices_keep_constants(spacing, offset):
    matrix = slice_matrix(20, 1.0, spacing, offset)
    torch.testing.assert_close(matrix.sum(1), torch.ones(20))
    assert matrix.min() >= -1e-6


def test_slices_as_thin_as_voxels_change_nothing():
    torch.testing.assert_close(slice_matrix(16, 2.0, 2.0, 0.0), torch.eye(16))
    torch.testing.assert_close(slice_matrix(16, 2.0, 1.0, 0.0), torch.eye(16))


def test_slices_interpolate_between_those_kept():
    matrix = slice_matrix(9, 1.0, 4.0, 0.0)
    signal = torch.randn(9)
    kept = signal[::4]
    expected = [kept[0], *(torch.lerp(kept[0], kept[1], k / 4) for k in (1, 2, 3)), kept[1]]
    torch.testing.assert_close((matrix @ signal)[:5], torch.stack(expected))


@pytest.mark.parametrize("blur", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("box", [0.0, 2.5, 8.0])
def test_blur_keeps_constants(blur, box):
    matrix = profile_matrices(20, 2.0, torch.tensor([blur, 1.0]), torch.tensor([box, 0.0]))
    assert matrix.shape == (2, 20, 20)
    torch.testing.assert_close(matrix.sum(2), torch.ones(2, 20))
    if blur == box == 0:
        torch.testing.assert_close(matrix[0], torch.eye(20))


def test_blur_has_the_width_it_says():
    offset = (torch.arange(61) - 30) * 2.0
    gaussian, box = profile_matrices(61, 2.0, torch.tensor([5.0, 0.0]), torch.tensor([0.0, 14.0]))
    assert (gaussian[30] * offset.square()).sum().sqrt() == pytest.approx(5.0, rel=0.01)
    torch.testing.assert_close(box[30][27:34], torch.full((7,), 1 / 7))
    assert box[30].sum() == pytest.approx(1)


def test_thick_slices_are_linear_between_them():
    config = replace(OFF, slice_probability=1.0, slice_spacing_mm=(4 * SPACING, 4 * SPACING))
    parameters = draw(4, config, STILL)
    slices = replace(parameters.acquisition.slices, axis=2, offset=0.0)
    parameters = replace(parameters, acquisition=replace(parameters.acquisition, slices=slices))
    image, _, _ = make(parameters, STILL)
    for start in (4, 8, 12):
        ramp = torch.lerp(image[..., start], image[..., start + 4], 0.25)
        free = (image[..., start] < 1) & (image[..., start + 4] < 1)  # normalisation clips the brightest
        assert free.float().mean() > 0.8
        torch.testing.assert_close(image[..., start + 1][free], ramp[free], atol=1e-5, rtol=0)


# Field of view


def test_beyond_the_scan_there_is_no_weight():
    affine = torch.eye(4)
    affine[0, 3] = -15 * SPACING  # the window begins at voxel 14 - 15 - 12 of the map
    image, brain, weight = make(with_affine(draw(0, OFF, STILL), affine), STILL)
    assert not weight[:13].any()
    assert weight[13:].all()
    assert not image[:13].any()
    assert not brain[:13].any()


def test_cropped_parts_have_no_weight():
    whole = draw(0, OFF, STILL)
    crop = Crop(((5 * SPACING, 0.0), (0.0, 0.0), (0.0, 3 * SPACING)))
    image, brain, weight = make(replace(whole, crop=crop), STILL)
    image_whole, brain_whole, _ = make(whole, STILL)
    kept = np.zeros(STILL.shape, dtype=bool)
    kept[5:, :, :-3] = True
    np.testing.assert_array_equal(weight, kept)
    np.testing.assert_array_equal(image, image_whole.numpy() * kept)
    assert torch.equal(brain, brain_whole)


def test_crops_cut_one_or_two_faces():
    config = replace(SynthConfig(), crop_probability=1.0)
    cut = np.array([draw(seed, config).crop.depth_mm for seed in range(40)])
    assert set((cut > 0).sum((1, 2)).tolist()) == {1, 2}
    assert (cut > 0).any(0).all()
    assert 0.8 * config.crop_depth_mm < cut.max() <= config.crop_depth_mm


@pytest.mark.parametrize("blank_probability", [0.0, 1.0])
@pytest.mark.parametrize("rim_mm", [2.0, 8.0])
def test_masked_images_are_blank_beyond_the_rim(rim_mm, blank_probability):
    config = replace(
        OFF, masked_probability=1.0, masked_rim_mm=(rim_mm, rim_mm), blank_probability=blank_probability
    )
    parameters = draw(4, config, STILL)
    image, brain, weight = make(parameters, STILL)
    plain, _, _ = make(replace(parameters, masking=None), STILL)
    distance = SPACING * ndimage.distance_transform_edt(brain.numpy() < 0.5)
    # A Gaussian of width rim_mm over the brain falls below 2 % at most 2.1 widths from it.
    far = (distance > 2.1 * rim_mm + SPACING) & (weight.numpy() > 0)
    assert far.sum() > 1000
    blank = parameters.masking.intensity
    assert (blank == 0) == (blank_probability == 1.0)
    assert (image[torch.from_numpy(far)] == torch.tensor(blank)).all()
    assert torch.equal(image[brain > 0.5], plain[brain > 0.5])
    assert not torch.equal(image, plain)


# All of it


def test_images_are_finite_and_within_range():
    for seed in range(30):
        image, brain, weight = make(draw(seed))
        assert torch.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.max() > image.min()
        assert brain.min() >= 0
        assert brain.max() <= 1 + 1e-6
        assert set(weight.unique().tolist()) <= {0.0, 1.0}
        assert not image[weight == 0].any()


# A setting of each field that differs much from its default.
STRONG_SHAPE = {
    "rotation_deg": 90.0,
    "turn_probability": 1.0,
    "quarter_turn_probability": 1.0,
    "scaling": (1.5, 1.6),
    "anisotropy": 0.4,
    "shear": 0.5,
    "warp_spacing_mm": (30.0, 20.0, 10.0),
    "warp_mm": (30.0, 20.0, 10.0),
    "flip_probability": 1.0,
}
STRONG = {
    **{name: ShapeConfig(**{name: value}) for name, value in STRONG_SHAPE.items()},
    "smooth_classes_probability": 1.0,
    "smooth_knots": (9, 10),
    "joint_probability": 1.0,
    "least_contrast": 0.3,
    "contrast_share": 1.0,
    "region_probability": 1.0,
    "region_spacing_mm": (20.0, 30.0),
    "structures_probability": 1.0,
    "structures": (9, 10),
    "structures_spacing_mm": (5.0, 6.0),
    "structures_least": (-3.0, -2.0),
    "sheet_probability": 0.0,
    "shell_probability": 0.0,
    "shell_depth_mm": (20.0, 30.0),
    "shell_uneven_mm": (20.0, 30.0),
    "shell_half_width_mm": (20.0, 30.0),
    "sheet_half_width": (2.0, 3.0),
    "layer_probability": 1.0,
    "layer_mm": (12.0, 20.0),
    "layer_uneven_mm": (9.0, 12.0),
    "layer_spacing_mm": (100.0, 150.0),
    "class_noise": (0.5, 0.6),
    "dark_probability": 0.0,
    "dark_classes": (3, 3),
    "dark_intensity": (0.4, 0.5),
    "surroundings_probability": 1.0,
    "surroundings_rim_mm": (1.0, 2.0),
    "surroundings_uneven": (1.0, 2.0),
    "surroundings_spacing_mm": (10.0, 15.0),
    "bodies": (9, 10),
    "lesion_probability": 1.0,
    "lesions": (9, 10),
    "lesion_radius_mm": (30.0, 40.0),
    "lesion_border_probability": 1.0,
    "lesion_inset": (2.0, 3.0),
    "lesion_stretch": 2.0,
    "lesion_uneven": (1.0, 2.0),
    "lesion_faces_probability": 1.0,
    "lesion_faces": (4, 4),
    "lesion_intensity": (4.0, 5.0),
    "lesion_opacity": (0.0, 0.1),
    "lesion_texture": (3.0, 4.0),
    "lesion_texture_points": (3, 4),
    "oedema_probability": 1.0,
    "oedema_radii": (4.0, 5.0),
    "core_probability": 1.0,
    "core_radii": (0.9, 0.99),
    "lesion_push": (0.9, 0.95),
    "lesion_push_reach": (4.0, 5.0),
    "cavity_probability": 1.0,
    "cavity_open_mm": (30.0, 40.0),
    "found_lesion_probability": 1.0,
    "found_lesion_size": (3.0, 4.0),
    "found_lesion_gain": (3.0, 4.0),
    "craniotomy_probability": 1.0,
    "craniotomy_radius_mm": (80.0, 90.0),
    "craniotomy_above_mm": (20.0, 30.0),
    "craniotomy_thickness_mm": (90.0, 100.0),
    "craniotomy_dark_probability": 1.0,
    "void_probability": 1.0,
    "voids": (9, 10),
    "void_base_probability": 0.0,
    "void_inset_mm": (10.0, 20.0),
    "void_radius_mm": (30.0, 40.0),
    "void_stretch": 2.0,
    "void_uneven": (1.0, 2.0),
    "void_loss": (0.0, 0.1),
    "void_edge": (2.0, 3.0),
    "void_pile_up": (3.0, 4.0),
    "fat_shift_probability": 1.0,
    "fat_share": (1.0, 1.0),
    "fat_shift_mm": (20.0, 30.0),
    "distortion_probability": 1.0,
    "distortion_mm": (15.0, 20.0),
    "distortion_spacing_mm": (20.0, 25.0),
    "distortion_signal_probability": 0.0,
    "motion_probability": 1.0,
    "motion_slice_mm": (20.0, 30.0),
    "motion_interleaved_probability": 0.0,
    "motion_mm": (10.0, 20.0),
    "motion_lost": (0.9, 1.0),
    "ghost_probability": 1.0,
    "ghost_shift": (0.1, 0.2),
    "ghost_strength": (0.9, 1.0),
    "wrap_probability": 1.0,
    "wrap_depth_mm": (60.0, 90.0),
    "coil_probability": 1.0,
    "coil_radius": (0.05, 0.1),
    "coil_distance": (0.05, 0.1),
    "smoothing_mm": (10.0, 12.0),
    "slice_probability": 1.0,
    "slice_spacing_mm": (30.0, 40.0),
    "slice_profile": (3.0, 4.0),
    "noise": (0.5, 0.6),
    "bias_spacing_mm": (20.0, 30.0),
    "bias": (2.0, 3.0),
    "brain_range_probability": 1.0,
    "gamma": 2.0,
    "crop_probability": 1.0,
    "crop_faces": (5, 6),
    "crop_depth_mm": 140.0,
    "masked_probability": 1.0,
    "masked_rim_mm": (30.0, 40.0),
    "masked_share": 0.4,
    "blank_probability": 0.0,
}


def test_large_classes_of_the_brain_differ():
    shares = torch.zeros(256)
    shares[[101, 103, 107]], shares[110] = 0.3, 0.01
    config = replace(OFF, smooth_classes_probability=0.0, joint_probability=0.0, least_contrast=0.2)
    means = [draw(seed, config, shares=shares).classes.mean[[101, 103, 107]] for seed in range(20)]
    assert all(mean.sort().values.diff().min() >= 0.2 for mean in means)
    plain = [draw(seed, config).classes.mean[[101, 103, 107]] for seed in range(20)]
    assert any(mean.sort().values.diff().min() < 0.05 for mean in plain)
    # Others stay as they are, and so do those that lie apart already.
    for seed, mean in enumerate(plain):
        kept = draw(seed, config, shares=shares).classes.mean
        assert kept[110] == draw(seed, config).classes.mean[110]
        if mean.sort().values.diff().min() >= 0.2:
            assert torch.equal(kept[[101, 103, 107]], mean)


def test_every_field_has_a_strong_setting():
    assert set(STRONG_SHAPE) == {field.name for field in fields(ShapeConfig)}
    assert set(STRONG) == {*STRONG_SHAPE, *(field.name for field in fields(SynthConfig) if field.name != "shape")}


def with_strong(config, name):
    return replace(config, **{"shape" if name in STRONG_SHAPE else name: STRONG[name]})


@pytest.mark.parametrize("name", STRONG)
def test_every_field_changes_the_batch(name):
    # Not rare, so that a few seeds show what belongs to each.
    often = ("masked", "coil", "surroundings", "lesion", "craniotomy", "void", "fat_shift", "distortion", "motion",
             "ghost", "wrap")  # fmt: skip
    usual = SynthConfig(
        lesion_radius_mm=(15.0, 27.0), least_contrast=0.05, **{f"{thing}_probability": 0.5 for thing in often}
    )
    strong = with_strong(usual, name)
    bank = FOUND if name.startswith("found") else None
    assert any(
        not same(
            *(
                make(draw(seed, config, levels=LEVELS, found_lesions=bank, shares=SHARES))
                for config in (usual, strong)
            )
        )
        for seed in range(24)
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("noise", {"acquisition.noise"}), ("gamma", {"intensity_scale.gamma"}),
     ("slice_profile", {"acquisition.slices.thickness_mm"}),
     ("slice_spacing_mm", {"acquisition.slices.thickness_mm", "acquisition.slices.spacing_mm"}),
     ("smoothing_mm", {"acquisition.blur_mm"}), ("masked_rim_mm", {"masking.rim_mm"}),
     ("masked_share", {"masking.share"}), ("crop_depth_mm", {"crop.depth_mm"}), ("class_noise", {"classes.noise"}),
     ("rotation_deg", {"shape.affine"}), ("scaling", {"shape.affine"}), ("shear", {"shape.affine"}),
     ("layer_mm", {"layer.thickness_mm"}), ("bias", {"bias.log_gain"})],
)  # fmt: skip
def test_a_range_changes_its_own_parameter_alone(name, parameters):
    usual = SynthConfig(masked_probability=1.0, crop_probability=1.0, slice_probability=1.0, layer_probability=1.0)
    changed = differing(draw(3, usual), draw(3, with_strong(usual, name)))
    assert {re.sub(r"\.\d$", "", each) for each in changed} == parameters


# What lies around, and the coil


@pytest.mark.parametrize("rim_mm", [1.6 * SPACING, 4.55 * SPACING])
def test_surroundings_begin_at_the_rim_and_have_data(rim_mm):
    parameters = draw(1, OFF, STILL)
    rim = torch.full((1, 1, 2, 2, 2), rim_mm)
    bodies = torch.zeros(1, 2, 2, 2, 2)
    bodies[:, 0, 0], bodies[:, 1, 1] = 1.0, 1.0  # one body on each side along the first axis
    surroundings = Surroundings(rim, bodies, torch.tensor([0.25, 0.75]))
    image, brain, weight = make(replace(parameters, surroundings=surroundings), STILL)
    labels = around_brain(LABELS)
    distance = SPACING * (ndimage.distance_transform_edt(around_brain(LABELS <= 100)) - 0.5)
    side = np.where(np.arange(25) < 12, 0.25, 0.75)[:, None, None]
    expected = np.where(distance > rim_mm, side, parameters.classes.mean.numpy()[labels])
    has_data = (labels > 0) | (distance > rim_mm)
    np.testing.assert_array_equal(weight, has_data)
    at_middle = np.arange(25)[:, None, None] == 12  # between both bodies
    compared = has_data & ~at_middle
    expected = normalised(np.broadcast_to(expected, labels.shape).copy(), has_data)
    np.testing.assert_allclose(image.numpy()[compared], expected[compared], atol=1e-3)
    assert torch.equal(brain, make(parameters, STILL)[1])


def test_surroundings_fill_a_window_that_reaches_beyond_the_map():
    wide = Window(WINDOW.shape, 3 * SPACING, 0.0)
    config = replace(OFF, surroundings_probability=1.0, surroundings_rim_mm=(SPACING, SPACING))
    beyond = make(draw(0, OFF, wide), wide)[2] == 0
    assert beyond.sum() > beyond.numel() / 2
    image, _, weight = make(draw(0, config, wide), wide)
    assert weight[beyond].all()
    assert len(image[beyond].unique()) > 1 or int(config.bodies[0]) == 1


def test_the_distance_to_the_brain_goes_on_beyond_the_map():
    """Along the first axis from the last voxel, whose distance is known, each voxel is one spacing further."""
    x = torch.arange(33, 43)
    at = torch.zeros(1, 10, 1, 1, 3)
    at[0, :, 0, 0, 2] = (2 * x + 1) / 33 - 1
    face = MAP.away_mm[32, 15, 16]
    expected = face + (x - 32.5) * SPACING
    torch.testing.assert_close(away_mm(MAP, at)[0, :, 0, 0], expected, atol=1e-2, rtol=0)


def test_the_gain_of_a_coil_by_hand():
    window = Window((3, 1, 1), 20.0, 0.0)
    coil = SurfaceCoil(torch.tensor([-15.0, 0.0, 0.0]), 10.0)
    flat = BiasField(torch.zeros(1, 1, 2, 2, 2), coil)
    gained = apply_bias(torch.ones(1, 3, 1, 1), window, [flat], [torch.tensor([-5.0, 0.0, 0.0])])
    # The coil lies on the first voxel, at -20 mm; the others are 2 and 4 radii away.
    torch.testing.assert_close(gained.flatten(), torch.tensor([1.0, 5**-1.5, 17**-1.5]))


def test_the_part_around_points_is_sampled_as_the_whole():
    generator = torch.Generator().manual_seed(0)
    at = (torch.rand(1, 5, 6, 7, 3, generator=generator) - 0.5) * 1.2 + torch.tensor([0.3, -0.6, 0.5])
    part, at_part = MAP.part_around(at)
    assert part.labels.numel() < MAP.labels.numel() / 2
    whole, cut = (
        F.grid_sample(m.away_mm[None, None], p, align_corners=False) for m, p in ((MAP, at), (part, at_part))
    )
    inside = (at.abs() <= 1).all(-1)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(inside, (at_part.abs() <= 1).all(-1))
    torch.testing.assert_close(whole[:, 0][inside], cut[:, 0][inside], atol=1e-2, rtol=0)


def test_the_maps_classes():
    assert set(BRAIN) <= set(np.unique(LABELS))
    assert MAP.brain_mm.tolist() == [
        SPACING * (m - (n - 1) / 2) for m, n in zip(MIDDLE, LABELS.shape, strict=True)
    ]
    np.testing.assert_array_equal(MAP.brain, LABELS > 100)


# Normalisation


def test_normalise_by_hand():
    values = torch.arange(201.0) * 3 + 7  # the 99.5th percentile is value number 199
    image = values.view(1, 201, 1, 1)
    covered = torch.ones_like(image, dtype=torch.bool)
    expected = (torch.arange(201.0) / 199).clamp(max=1).view_as(image)
    torch.testing.assert_close(normalise(image, covered), expected)


def test_normalise_heeds_covered_voxels_alone():
    image = torch.tensor([5.0, 1.0, 3.0, -100.0]).view(1, 4, 1, 1)
    covered = torch.tensor([True, True, True, False]).view(1, 4, 1, 1)
    high = 3 + 0.99 * 2  # between the two highest of three values
    expected = torch.tensor([1.0, 0.0, 2 / (high - 1), 0.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(normalise(image, covered), expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_normalise_takes_any_scale(scale):
    image = torch.rand(1, 6, 6, 6)
    covered = torch.ones_like(image, dtype=torch.bool)
    torch.testing.assert_close(
        normalise(image * scale + 5 * scale, covered), normalise(image, covered), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("value", [0.0, 1.0, -1e6, 1e6])
def test_normalise_makes_a_constant_zero(value):
    image = torch.full((1, 4, 4, 4), value)
    assert not normalise(image, torch.ones_like(image, dtype=torch.bool)).any()


def test_normalise_by_the_range_of_the_brain():
    values = torch.arange(201.0) * 3 + 7
    fat, not_covered = torch.full((30,), 5e3), torch.full((5,), 1e6)
    image = torch.cat([values, fat, not_covered]).view(1, -1, 1, 1)
    covered, brain = image < 1e6, (image < 1e3) | (image == 1e6)
    expected = (torch.arange(201.0) / 199).clamp(max=1)
    expected = torch.cat([expected, torch.ones(30), torch.zeros(5)]).view_as(image)
    torch.testing.assert_close(normalise(image, covered, brain), expected)


def test_normalise_by_the_range_of_the_brain_keeps_what_is_darker_than_it():
    image = torch.tensor([1.0, 2.0, 4.0, 5.0, 9.0]).view(1, 5, 1, 1)
    brain = torch.tensor([False, False, False, True, False]).view(1, 5, 1, 1)
    expected = torch.tensor([0, 0.25, 0.75, 1, 1]).view(1, 5, 1, 1)
    torch.testing.assert_close(normalise(image, torch.ones_like(brain), brain), expected)


def test_without_a_brain_in_sight_normalise_takes_all_that_is_covered():
    image = torch.rand(2, 6, 6, 6)
    covered = torch.rand(2, 6, 6, 6) < 0.8
    brain = torch.stack([~covered[0], covered[1] & (image[1] < 0.5)])  # of the first none is covered
    both = normalise(image, covered, brain)
    assert torch.equal(both[0], normalise(image, covered)[0])
    assert not torch.equal(both[1], normalise(image, covered)[1])


@pytest.mark.parametrize("size", [3, 20, 40])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("brain", ["none", "empty", "some"])
@pytest.mark.parametrize(("samples", "tolerance"), [(10**6, 1e-5), (intensity_scale.MAX_SAMPLES, 0.02)])
def test_batches_are_normalised_as_single_images_are(size, scale, brain, samples, tolerance, monkeypatch):
    """In training and in stripping, but for percentiles of a sample; also images without values."""
    monkeypatch.setattr(intensity_scale, "MAX_SAMPLES", samples)
    rng = np.random.default_rng(size)
    images = (scale * (rng.gamma(2, 1, (3, size, size, size)) - 1)).astype(np.float32)
    covered = rng.random(images.shape) < np.array([0.0, 0.4, 1.0]).reshape(3, 1, 1, 1)
    brains = {"none": None, "empty": np.zeros_like(covered), "some": rng.random(images.shape) < 0.3}[brain]
    batch = normalise(*(each if each is None else torch.from_numpy(each) for each in (images, covered, brains)))
    for index, (image, within) in enumerate(zip(images, covered, strict=True)):
        alone = normalisation.normalise(image, within, None if brains is None else brains[index])
        assert alone.dtype == np.float32
        np.testing.assert_allclose(alone, batch[index], rtol=0, atol=tolerance)


def test_normalise_of_nothing_is_zero():
    assert not normalise(torch.rand(2, 3, 3, 3), torch.zeros(2, 3, 3, 3, dtype=torch.bool)).any()
