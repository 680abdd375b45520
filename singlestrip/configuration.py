"""Every default of the method, in frozen dataclasses.

Options on the command line override them; a model file carries those it was made with. Where fields are read from
a file, their ranges stand beside them (see `io.text.typed`).

Sources named below: SingleStrip (Specktor-Fadida & Hoffmann, arXiv 2508.10464), SynthStrip (Hoopes
et al., NeuroImage 2022), SynthSeg (Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msgspec import Meta

# An adult brain is about 165 mm long; the window that holds it, whichever way it is turned, 192 mm.
HEAD_BRAIN_MM = 165.0
HEAD_WINDOW_MM = 192.0

# Images of heads in a BIDS data set, by folder; the mask of the first of each needs no word in its name to tell
# of what it is (bids/layout.py). Maps, angiograms and the parts of composed images are left to --suffix.
BIDS_SUFFIXES = {
    "anat": ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "T2star", "inplaneT1", "inplaneT2", "UNIT1"),
    "dwi": ("dwi", "sbref"),
    "fmap": ("magnitude1", "magnitude2", "magnitude"),
    "func": ("bold", "sbref"),
    "perf": ("asl", "m0scan"),
    "pet": ("pet",),
}


# Ranges of what model files hold: far beyond what has been tried, and far below what no machine could hold.
VoxelSize = Annotated[float, Meta(ge=0.001, le=50)]
MAX_SEGMENTER_SIZE = 256
MIN_SEGMENTER_SIZE = 8  # voxels along a side: fewer do not show the shape of a brain
ENGINES = ("auto", "openvino", "torch")  # what may run networks; see networks/engine.py
MAX_LOCATOR_SIZE = 160  # stripping takes no field of view of more voxels
WindowSize = Annotated[int, Meta(ge=2, le=MAX_SEGMENTER_SIZE)]
Axis = Annotated[int, Meta(ge=0, le=2)]  # 0 left-right, 1 back-front, 2 bottom-top
Width = Annotated[int, Meta(ge=1, le=1024)]
Byte = Annotated[int, Meta(ge=0, le=255)]
MAX_CLASSES = 250  # that a segmenter tells apart: their places are stored in bytes
ClassNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]
STRUCTURES_MODEL = "tissues"  # the model that tells structures apart if none is named
LESIONS_MODEL = "lesions"  # the model that finds lesions if none is named
LESION = "lesion"  # the name of the class by which a model finds lesions
INSIDE_BASE = 100  # outside classes are 1, 2, …; inside classes are 101, 102, …; 0 is never used


@dataclass(frozen=True)
class DiffusionConfig:
    """Which frames of a diffusion image count as b=0: those up to a b-value, s/mm².

    Scanners write 5 or 50 where they mean 0.
    """

    b0_limit: float = 50.0


@dataclass(frozen=True)
class SynthStripConfig:
    """What mri_singlestrip does if its options do not say otherwise, as SynthStrip's mri_synthstrip 1.8 does."""

    border_mm: float = 1.0
    device: str = "cpu"


@dataclass(frozen=True)
class GMMConfig:
    """How to fit the mixtures. 10 and 6 classes: SingleStrip."""

    inside: int = 10
    outside: int = 6
    seed: int = 0
    # Voxels each mixture is fitted on. Neighbouring classes overlap, so that where they divide is loosely
    # determined: on all 0.9 million brain voxels of the example 6 % of labels move, to the next class.
    sample: int = 200_000
    voxels_per_class: int = 10  # fewest on a side of the mask
    iterations: int = 500  # most steps of expectation maximisation, and
    tolerance: float = 1e-4  # the gain of the mean log likelihood below which it stops before


@dataclass(frozen=True)
class GenerationConfig:
    """How label maps of other programs become classes that images are made of; lengths are shares of the brain's.

    Few labels are parted: where all tissue outside has one label, images show nothing like skull, fat and muscle
    (SynthSeg; FetalSynthSeg, Zalevskyi et al., MICCAI 2024).
    """

    # With an image, each label is parted by its intensities into about so many classes,
    gmm: GMMConfig = GMMConfig()
    # without an image, where it takes more than so great a part of its side, not counting air.
    outside: int = 6
    inside: int = 4
    most: int = 24  # labels of a side; neighbours in number are taken together where there are more
    mirror: float = 0.08  # how far apart a left and a right label of one structure lie in a mirror between them
    blob: float = 0.2  # control points of the fields that part a label
    unevenness: float = 2.0  # their standard deviation; 1 is from a layer to the next
    # Pieces of brain labels apart from the brain are outside where they are smaller than this share of it.
    island: float = 0.08
    closing: float = 0.02  # what the brain encloses in furrows up to twice as wide as this is brain too
    # The background holds head as well as air where the other labels outside have less than so many volumes of the
    # brain: fluid has up to 0.5; skull, scalp and the rest have 2.5 in adults, 6 in monkeys and more in rodents.
    tissue: float = 1.0
    head: float = 0.15  # so much around the brain is then head, the rest air: median, and
    head_uneven: float = 0.5  # standard deviation of its logarithm,
    head_blob: float = 0.5  # and control points of the field that makes it uneven
    seed: int = 0


@dataclass(frozen=True)
class ClassGenerationConfig(GenerationConfig):
    """How labels become classes that images are made of, if a segmenter is to tell the labels apart.

    They keep intensities of their own, which two labels of one class would not have.
    """

    most: int = 64


@dataclass(frozen=True)
class MaskGridConfig:
    """How far the grid of a mask may lie from that of its image. Both have the same shape.

    The distance is the largest one between corresponding corners. Voxels that lie less than half a voxel aside are
    nearest to those of the same index: to resample the mask would change nothing.
    """

    # Of a voxel. The surface of a mask is known to 0.3 voxels, the standard deviation of rounding to whole ones.
    share: float = 0.1
    rounding_mm: float = 0.01  # headers are rounded: such a difference is none, however small the voxels
    trust_voxels: bool = False  # take the mask's voxels for those of the image however far the grids lie apart


@dataclass(frozen=True)
class ShapeConfig:
    """How the shape and pose of a subject vary; lengths are millimetres of an adult human head.

    Pairs are ranges, uniform unless the comment says otherwise; `_probability` is how often a thing happens.
    The defaults are to learn stripping: one subject stands for all. Its shape varies more than between adults.
    """

    rotation_deg: float = 25.0  # ± about each axis. SynthSeg 15, SynthStrip 45; tilted heads reach 25
    turn_probability: float = 0.2  # by any angle about one axis: heads on their side, headers that are wrong
    quarter_turn_probability: float = 0.0  # by right angles about any axes, as headers that name axes otherwise
    scaling: tuple[float, float] = (0.72, 1.25)  # of all axes alike, uniform in its logarithm; SynthSeg 0.8-1.2
    anisotropy: float = 0.12  # ± of each axis about the common scaling: narrow and broad heads
    shear: float = 0.08  # ± per plane; SynthSeg 0.012 is below what oblique heads show
    warp_spacing_mm: tuple[float, ...] = (64.0, 32.0, 16.0)  # control points of the velocity field
    warp_mm: tuple[float, ...] = (12.0, 6.0, 2.5)  # greatest standard deviation at each spacing
    flip_probability: float = 0.5  # left-right, SynthSeg


@dataclass(frozen=True)
class ShapeBankConfig:
    """How a bank of shapes is made of masks, and how shapes are drawn from it; lengths are millimetres of an adult
    human head. Figures: docs/tried.md."""

    voxel_size_mm: float = 4.0  # of the distance maps that are registered
    spacing_mm: float = 24.0  # control points of the velocity fields
    reach_mm: float = 16.0  # how far from the border of a mask its distance map counts
    bending: float = 0.05  # weight of the squared second differences of the velocity beside the squared distance
    rigid_steps: int = 30  # of Adam for the pose alone, which is not part of a shape
    steps: int = 80  # of Adam for the velocity
    turn: float = 0.02  # radians of the pose in a step
    rate_mm: float = 0.5  # of the pose's shift and of the velocity in a step
    variance: float = 0.98  # explained by the components that are kept
    largest_weight: float = 2.0  # of a component, in standard deviations


@dataclass(frozen=True)
class LesionBankConfig:
    """How lesions are taken from scans; lengths and volumes are of an adult human head.

    All numbers are this project's.
    """

    least_ml: float = 0.1  # of a component: that of a ball with the least radius of lesions made by hand
    voxel_size_mm: float = 1.0  # of the grid of a lesion: finer than those of label maps and networks
    # The tissue around a lesion lies so far from all lesions: nearer it may be swollen, farther it may be another.
    around_mm: tuple[float, float] = (3.0, 10.0)
    most: float = 5.0  # ± of the texture, in standard deviations of the tissue around


@dataclass(frozen=True)
class SynthConfig:
    """Every range of the synthesis; lengths are millimetres of an adult human head.

    Pairs are ranges, uniform unless the comment says otherwise; `_probability` is how often a thing happens.
    """

    shape: ShapeConfig = ShapeConfig()
    # Intensity of the classes.
    smooth_classes_probability: float = 0.6  # neighbouring classes alike, as tissues in real contrasts
    smooth_knots: tuple[int, int] = (2, 6)  # turning points of intensity over ten classes, or over all levels
    # One curve over the classes of both sides, by their intensity in the labelled scan: what looks alike on both
    # sides of the border there, as fluid and dura do, mostly looks alike in other contrasts.
    joint_probability: float = 0.4
    dark_probability: float = 0.75  # darkest outside classes near zero, as air is in magnitude images
    dark_classes: tuple[int, int] = (1, 3)  # how many; noise spreads air over several classes
    dark_intensity: tuple[float, float] = (0.0, 0.08)  # of a range of 0 to 1 for the other classes
    # Six classes are fewer than the tissues of a head: in parts of it the outside classes have other intensities.
    region_probability: float = 0.4
    # Control points of the field that parts the map.
    region_spacing_mm: tuple[float, float] = (40.0, 120.0)
    # Large classes of the brain differ by at least so much, of a range of 0 to 1, unless they lie on curves.
    least_contrast: float = 0.0
    contrast_share: float = 0.1  # of the brain; larger classes count as large
    class_noise: tuple[float, float] = (0.0, 0.08)  # mean standard deviation of the classes; SynthSeg 0-25 of 255
    # Within the brain structures of one intensity each, such as ventricles: a labelled scan may not show its own.
    structures_probability: float = 0.4
    structures: tuple[int, int] = (1, 4)
    structures_spacing_mm: tuple[float, float] = (15.0, 60.0)  # log-uniform; of control points of their shapes
    structures_least: tuple[float, float] = (
        0.0,
        1.2,
    )  # of a field of unit variance: what is above is the structure
    # Some are shells along the brain's surface, as layers of the cortex and the fluid below a thin one are.
    shell_probability: float = 0.4
    shell_depth_mm: tuple[float, float] = (2.0, 30.0)  # mean depth of the middle of a shell
    shell_uneven_mm: tuple[float, float] = (0.0, 6.0)  # standard deviation of the depth
    shell_half_width_mm: tuple[float, float] = (0.5, 4.0)
    # Others are thin sheets, as flat ventricles and fluid in furrows are: where a field of variance 1 is near 0.
    sheet_probability: float = 0.5
    sheet_half_width: tuple[float, float] = (0.05, 0.3)
    # Around the brain a layer of one intensity and uneven thickness, as fluid is: in a labelled T1w it shares its
    # classes with other dark tissue, in T2w it is alone in being bright.
    layer_probability: float = 0.5
    layer_mm: tuple[float, float] = (0.0, 6.0)  # mean thickness
    layer_uneven_mm: tuple[float, float] = (0.0, 3.0)  # standard deviation of the thickness
    layer_spacing_mm: tuple[float, float] = (20.0, 80.0)  # of its control points
    # Surroundings: beyond a rim around the brain other bodies of random shape, or blank space.
    surroundings_probability: float = 0.3
    surroundings_rim_mm: tuple[float, float] = (12.0, 80.0)  # log-uniform; the mean distance from the brain
    surroundings_uneven: tuple[float, float] = (0.0, 0.4)  # standard deviation of the logarithm of the distance
    surroundings_spacing_mm: tuple[float, float] = (20.0, 120.0)  # log-uniform; of control points of their shapes
    bodies: tuple[int, int] = (1, 6)  # how many kinds; the first is dark as often as air is
    # Lesions; half of them at the border, where masks suffer. Of 80 ml a ball has a radius of 27 mm, about the
    # largest of gliomas. All ranges of pathology and of images that are not whole are this project's.
    lesion_probability: float = 0.3
    lesions: tuple[int, int] = (1, 3)
    lesion_radius_mm: tuple[float, float] = (3.0, 27.0)  # log-uniform
    lesion_border_probability: float = 0.5  # else anywhere between the middle of the brain and its surface
    lesion_inset: tuple[float, float] = (-0.2, 0.9)  # radii from the surface to the centre of those at the border
    lesion_stretch: float = 0.4  # ± of the logarithm of each half axis
    lesion_uneven: tuple[float, float] = (0.0, 0.25)  # standard deviation of the radius over it
    lesion_faces_probability: float = 0.3  # a polyhedron, else round
    lesion_faces: tuple[int, int] = (8, 20)
    lesion_intensity: tuple[float, float] = (-0.2, 1.3)  # of a range of 0 to 1 for the classes: bleeding, fluid
    lesion_opacity: tuple[float, float] = (0.4, 1.0)  # below 1 the tissue shows through
    lesion_texture: tuple[float, float] = (0.0, 0.15)  # standard deviation of the intensity
    lesion_texture_points: tuple[int, int] = (8, 24)  # control points of the texture over four radii
    oedema_probability: float = 0.4  # around a lesion, up to so many radii of it
    oedema_radii: tuple[float, float] = (1.1, 2.0)
    core_probability: float = 0.5  # of another intensity, as dead tissue within a rim
    core_radii: tuple[float, float] = (0.3, 0.85)
    lesion_push: tuple[float, float] = (0.0, 0.4)  # share by which the tissue in its middle is drawn apart
    lesion_push_reach: tuple[float, float] = (1.0, 2.0)  # radii over which that fades
    cavity_probability: float = 0.4  # a lesion is a cavity: fluid alone, open to what is above the brain
    cavity_open_mm: tuple[float, float] = (0.0, 8.0)  # the fluid reaches so far above the brain
    # If there is a bank of lesions found in scans: the share of the lesions that are found ones.
    found_lesion_probability: float = 0.5
    found_lesion_size: tuple[float, float] = (0.7, 1.4)  # log-uniform; over that in its scan
    # Of the texture: the intensity that a standard deviation of the tissue around it becomes, up or down.
    found_lesion_gain: tuple[float, float] = (0.02, 0.15)
    # What an operation leaves above the brain: one intensity between two distances from it, in a cylinder.
    craniotomy_probability: float = 0.1
    craniotomy_radius_mm: tuple[float, float] = (10.0, 45.0)
    craniotomy_above_mm: tuple[float, float] = (0.0, 10.0)  # where it begins
    craniotomy_thickness_mm: tuple[float, float] = (3.0, 40.0)  # log-uniform
    craniotomy_dark_probability: float = 0.4  # dark as air or metal, else any intensity
    # Voids of signal at the brain's surface: above sinuses and ear canals, and around metal.
    void_probability: float = 0.2
    voids: tuple[int, int] = (1, 4)
    void_base_probability: float = 0.8  # in the lower half of the brain, else anywhere
    void_inset_mm: tuple[float, float] = (-12.0, 8.0)  # of the middle below the surface
    void_radius_mm: tuple[float, float] = (3.0, 25.0)  # log-uniform
    void_stretch: float = 0.5  # ± of the logarithm of each half axis
    void_uneven: tuple[float, float] = (0.0, 0.3)  # standard deviation of the radius over it
    void_loss: tuple[float, float] = (0.5, 1.0)  # of the signal
    void_edge: tuple[float, float] = (0.1, 0.6)  # radii over which the signal comes back
    void_pile_up: tuple[float, float] = (0.0, 0.8)  # gain just outside
    # Fat lies aside: 3.5 ppm are 2 to 14 mm in images of a low bandwidth.
    fat_shift_probability: float = 0.1
    fat_share: tuple[float, float] = (0.2, 0.6)  # of the outside classes are fat
    fat_shift_mm: tuple[float, float] = (2.0, 14.0)
    # Distortion along one axis.
    distortion_probability: float = 0.2
    distortion_mm: tuple[float, float] = (0.0, 6.0)  # standard deviation of the shift
    distortion_spacing_mm: tuple[float, float] = (35.0, 90.0)  # of its control points
    distortion_signal_probability: float = 0.7  # brightness follows, as if it was not corrected
    # Motion between slices.
    motion_probability: float = 0.1
    motion_slice_mm: tuple[float, float] = (2.0, 6.0)  # log-uniform; thickness of a slice
    motion_interleaved_probability: float = 0.7  # every second slice is taken first
    motion_mm: tuple[float, float] = (0.0, 2.0)  # standard deviation of the shift
    motion_lost: tuple[float, float] = (0.0, 0.15)  # share of slices that lost signal
    # Ghosts, and what lies beyond a short field of view, over the image.
    ghost_probability: float = 0.1
    ghost_shift: tuple[float, float] = (0.35, 0.65)  # of the window: half a field of view
    ghost_strength: tuple[float, float] = (0.02, 0.3)  # of the signal
    wrap_probability: float = 0.07
    wrap_depth_mm: tuple[float, float] = (0.0, 45.0)  # left out at each face of one axis
    # Bias field and acquisition.
    bias_spacing_mm: tuple[float, float] = (50.0, 160.0)  # control points of the log bias field
    bias: tuple[float, float] = (0.0, 0.6)  # standard deviation of its logarithm, SynthSeg 0.7 at 64 mm
    # Beside a small receive coil the gain falls with the distance to it, as on the axis of a loop. Shares of the
    # window's side: of wider fields of view the coils are larger and further away.
    coil_probability: float = 0.35
    coil_radius: tuple[float, float] = (0.2, 0.6)  # log-uniform
    coil_distance: tuple[float, float] = (0.3, 0.6)  # of the coil from the middle of the brain
    smoothing_mm: tuple[float, float] = (0.0, 2.0)  # standard deviation per axis, SynthStrip 0-2
    slice_probability: float = 0.5
    slice_spacing_mm: tuple[float, float] = (2.0, 8.0)  # along one random axis, log-uniform, SynthSeg up to 8
    slice_profile: tuple[float, float] = (0.4, 1.0)  # thickness over spacing: gaps as clinics leave them
    noise: tuple[float, float] = (0.0, 0.08)  # standard deviation, image in [0, 1]
    # Scale of the intensities.
    brain_range_probability: float = 0.5  # intensities by the brain's range, as in the second look of stripping
    gamma: float = 0.6  # exponent exp(U(±)), SynthSeg's log-normal 0.4
    # Field of view.
    crop_probability: float = 0.4  # part of the head missing, as in slabs or short fields of view
    crop_faces: tuple[int, int] = (1, 2)  # how many faces of the window are cut: more would leave no head
    crop_depth_mm: float = 60.0  # greatest depth cut from a face of the window
    masked_probability: float = 0.08  # everything beyond a rim around the brain blank
    masked_rim_mm: tuple[float, float] = (1.0, 12.0)
    # Blank is where the brain, blurred by a Gaussian of that standard deviation, has less than this: about two of
    # them away.
    masked_share: float = 0.02
    blank_probability: float = 0.5  # blank is zero, else a random constant

    def with_lesions(self) -> SynthConfig:
        """The same with lesions: as often as by default if there were none."""
        return replace(self, lesion_probability=self.lesion_probability or SynthConfig.lesion_probability)

    def whole(self) -> SynthConfig:
        """The same without lesions, and without what spoils whole images."""
        return replace(
            self,
            lesion_probability=0.0,
            craniotomy_probability=0.0,
            void_probability=0.0,
            fat_shift_probability=0.0,
            distortion_probability=0.0,
            motion_probability=0.0,
            ghost_probability=0.0,
            wrap_probability=0.0,
        )


@dataclass(frozen=True)
class UNetConfig:
    """Shape of one network.

    `patch` folds blocks of patch³ voxels into channels before the first level and unfolds them
    after the last. The top level of a U-Net takes over half of all arithmetic; with `patch=2` a
    step takes 0.4 times as long at the same voxel size (docs/tried.md), which buys 2.5
    times the training.
    """

    widths: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=8)] = (32, 64, 96, 96)
    norm: Literal["instance", "none"] = "instance"  # SynthStrip has none
    patch: Annotated[int, Meta(ge=1, le=8)] = 2

    @property
    def multiple(self) -> int:
        """Sizes the network accepts are multiples of this many voxels."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def layer_bytes(self, voxels: int) -> int:
        """What the outputs of all layers take for an image of so many voxels, in 32 bits."""
        levels = zip(self.widths, (*self.widths[1:], 0), strict=True)  # each with what comes up from below
        # Two convolutions and normalisations on each side, and what is joined before the decoder's.
        channels = sum((10 * width + below) / 8**depth for depth, (width, below) in enumerate(levels))
        return int(4 * channels * voxels / self.patch**3)


@dataclass(frozen=True)
class Window:
    """The grid a network sees: `shape` voxels of `voxel_size_mm`, the brain's middle within
    ± `jitter_mm` of its own along each axis."""

    shape: tuple[int, int, int]
    voxel_size_mm: float
    jitter_mm: float

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Size along each axis."""
        return tuple(n * self.voxel_size_mm for n in self.shape)


@dataclass(frozen=True)
class TargetClass:
    """A class of voxels that a segmenter tells apart from other classes and from the background.

    number: of its voxels in a label map. side: where it lies in the body. partner: the number of the same
    structure on the other side, None if `side` is "none". brain: whether it belongs to the brain mask. fluid:
    whether it is fluid around the brain, which a tight brain mask leaves out. largest: whether only its largest
    component is kept. colour: red, green and blue, None if it has none.
    """

    number: ClassNumber
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    side: Literal["left", "right", "none"] = "none"
    partner: ClassNumber | None = None
    brain: bool = False
    fluid: bool = False
    largest: bool = False
    colour: tuple[Byte, Byte, Byte] | None = None


# What a model that finds lesions tells apart; both are brain.
LESION_CLASSES = (TargetClass(1, "brain", brain=True), TargetClass(2, LESION, brain=True))


@dataclass(frozen=True)
class EvidenceConfig:
    """How the intensities of classes are estimated in an image; see networks/evidence.py. Intensities lie in
    [0, 1]; lengths are shares of the window's."""

    stride: Annotated[int, Meta(ge=1, le=16)] = 3  # of so many voxels along each axis one is looked at
    iterations: Annotated[int, Meta(ge=1, le=100)] = 10
    # Of a small class, so many more voxels are as if seen, with the image's mean and this standard deviation.
    pseudo_voxels: Annotated[float, Meta(gt=0, le=1e6)] = 2.0
    pseudo_spread: Annotated[float, Meta(gt=0, le=1)] = 0.1
    least_spread: Annotated[float, Meta(gt=0, le=1)] = 0.02  # standard deviation
    lowest: Annotated[float, Meta(ge=-1000, lt=0)] = -6.0  # an intensity that a class never has says no more
    bias_width: Annotated[float, Meta(gt=0, le=10)] = 0.1  # standard deviation of the field's Gaussian
    bias_doubt: Annotated[float, Meta(gt=0, le=1e9)] = 300.0  # as many voxels without a field
    largest_bias: Annotated[float, Meta(ge=0, lt=1)] = 0.5


@dataclass(frozen=True)
class CascadeConfig:
    """Grids and shapes of both networks; lengths in mm of the anatomy the model is for."""

    voxel_size_mm: VoxelSize = 2.0
    segmenter: UNetConfig = UNetConfig()
    segmenter_size: WindowSize = 96  # voxels along each side of the window
    locator: UNetConfig = UNetConfig(widths=(16, 32, 64, 64))
    # Voxels along each side in training; in stripping the least.
    locator_size: Annotated[int, Meta(ge=2, le=MAX_LOCATOR_SIZE)] = 64
    locator_factor: Annotated[float, Meta(ge=1, le=16)] = 2.0  # voxel size over that of the segmenter
    # How often the locator's voxel size may be doubled: it then sees a wider field, in which the brain is smaller.
    locator_doublings: Annotated[int, Meta(ge=0, le=3)] = 2
    # What the segmenter tells apart beside the background, in the order of its outputs; none: the brain alone.
    classes: Annotated[tuple[TargetClass, ...], Meta(max_length=MAX_CLASSES)] = ()
    # How the image's own intensities tell classes apart beside the network; None: they do not.
    class_evidence: EvidenceConfig | None = EvidenceConfig()

    def __post_init__(self) -> None:
        for name in ("segmenter", "locator"):
            multiple = getattr(self, name).multiple
            if getattr(self, f"{name}_size") % multiple:
                raise ValueError(f"{name}_size: expected a multiple of {multiple}")
        by_number = {each.number: each for each in self.classes}
        if len(by_number) < len(self.classes):
            raise ValueError("classes: two have the same number")
        for each in self.classes:
            sides = {"left": "right", "right": "left"}
            partner = by_number.get(each.partner or 0)
            if (each.side in sides) != (partner is not None):
                raise ValueError(f"classes: {each.number} needs a side and a partner, or neither")
            if partner is not None and (partner.partner, partner.side) != (each.number, sides[each.side]):
                raise ValueError(f"classes: {each.number} and its partner {partner.number} do not agree")

    @property
    def segmenter_outputs(self) -> int:
        """Channels of the segmenter: the brain's logit, or a logit of the background and of each class."""
        return 1 + len(self.classes)

    @property
    def evidence(self) -> EvidenceConfig | None:
        """How an image is asked for its classes; None if it is not, or if there are none."""
        return self.class_evidence if self.classes else None

    @property
    def brain_channels(self) -> tuple[int, ...]:
        """The channels of the classes that are brain; the background has channel 0."""
        return tuple(channel for channel, each in enumerate(self.classes, start=1) if each.brain)

    @property
    def lesion_channel(self) -> int | None:
        """The channel of the class of lesions; None if there is none."""
        return next((n for n, each in enumerate(self.classes, start=1) if each.name == LESION), None)

    @property
    def mirrored_channels(self) -> tuple[int, ...]:
        """For each channel, the background's first, the one that it is in a mirrored head."""
        channels = {each.number: channel for channel, each in enumerate(self.classes, start=1)}
        return (0, *(channels[each.partner or each.number] for each in self.classes))

    @property
    def locator_voxel_size_mm(self) -> float:
        return self.voxel_size_mm * self.locator_factor

    @property
    def locator_mm(self) -> float:
        """Side of the locator's window in training."""
        return self.locator_voxel_size_mm * self.locator_size

    @property
    def window_mm(self) -> float:
        """Side of the segmenter's window."""
        return self.voxel_size_mm * self.segmenter_size

    @property
    def scale(self) -> float:
        """Size of the anatomy over that of an adult human head."""
        return self.window_mm / HEAD_WINDOW_MM

    @staticmethod
    def fitting(brain_mm: float, voxel_size_mm: float | None = None, norm: str = UNetConfig.norm) -> CascadeConfig:
        """The default networks for brains whose bounding box is up to `brain_mm` long; see `fitted_to`."""
        default = CascadeConfig()
        networks = {name: replace(getattr(default, name), norm=norm) for name in ("segmenter", "locator")}
        return replace(default, **networks).fitted_to(brain_mm, voxel_size_mm)

    def fitted_to(self, brain_mm: float, voxel_size_mm: float | None = None) -> CascadeConfig:
        """These networks for brains whose bounding box is up to `brain_mm` long.

        The windows keep their proportions to the brain. Without a voxel size they keep their number of voxels too.
        """
        scale = brain_mm / (HEAD_BRAIN_MM * self.scale)
        voxel_size_mm = voxel_size_mm or float(f"{scale * self.voxel_size_mm:.2g}")
        finer = scale * self.voxel_size_mm / voxel_size_mm

        def size(voxels: int, multiple: int) -> int:
            # 3 voxels at the deepest level: 1 leaves nothing to normalise, and of 2 the bfloat16 gradient of
            # oneDNN's convolution is now and then not finite (torch 2.13).
            return max(3, round(voxels * finer / multiple)) * multiple

        return replace(
            self,
            voxel_size_mm=voxel_size_mm,
            segmenter_size=size(self.segmenter_size, self.segmenter.multiple),
            locator_size=size(self.locator_size, self.locator.multiple),
        )

    @property
    def working_bytes(self) -> int:
        """What the layers of the larger network take, about, while it strips: 0.6 of them are held at once."""
        sizes = {"segmenter": self.segmenter_size, "locator": self.locator_size}
        layers = max(getattr(self, name).layer_bytes(size**3) for name, size in sizes.items())
        return int(0.6 * layers) + self.output_bytes

    @property
    def output_bytes(self) -> int:
        """What the logits of classes take, in 32 bits; 0 for a brain's logit."""
        return 4 * self.segmenter_outputs * self.segmenter_size**3 if self.classes else 0


@dataclass(frozen=True)
class TrainConfig:
    """How to train the cascade; lengths are mm of an adult human head.

    The learning rate rises over `warmup` steps, stays, and falls to zero over the last `decay` of the steps. A run
    that has not reached the fall can be given more steps and loses nothing.
    """

    steps: int = 8000
    batch: int = 1
    # Batches of the locator in a step: it is small, a batch takes a sixth of the time of one of the segmenter.
    locator_draws: int = 1
    lr: float = 1e-3
    warmup: int = 200
    decay: float = 0.6
    weight_decay: float = 1e-2
    clip: float = 1.0  # greatest norm of the gradient
    average: float = 0.998  # of the weights' exponential moving average, which is what is kept
    cross_entropy: float = 0.0  # beside soft Dice; see networks/losses.py
    amp: str = "auto"  # bfloat16 where it is fast: "auto", "on" or "off"
    seed: int = 0
    validate_every: int = 500
    save_every: int = 250
    report_every: int = 20  # steps between rows of metrics.csv
    source_factor: float = 0.75  # spacing of a label map over the voxel size: finer, so that nothing aliases
    locator_jitter_mm: float = 50.0  # ± of the brain's middle in the window, along each axis: it may be anywhere
    wide_probability: float = 0.5  # how often the locator sees one of the wider fields
    segmenter_jitter_mm: float = 12.0  # the same; covers the locator's error
    largest_level: float = 2.0  # ± the border's logit may be moved by calibration: beyond, another thing is wrong
    synth: SynthConfig = field(default_factory=SynthConfig)

    def windows(self, cascade: CascadeConfig) -> dict[str, tuple[Window, ...]]:
        """The grids that each network of a cascade sees in training; of the locator first its own, then wider
        ones."""
        size, jitter_mm = cascade.locator_size, self.locator_jitter_mm * cascade.scale
        locator = []
        for doublings in range(1 + cascade.locator_doublings):
            voxel_size_mm = cascade.locator_voxel_size_mm * 2**doublings
            wider_mm = size * (voxel_size_mm - cascade.locator_voxel_size_mm)
            locator.append(Window((size,) * 3, voxel_size_mm, jitter_mm + wider_mm / 2))
        jitter_mm = self.segmenter_jitter_mm * cascade.scale
        segmenter = Window((cascade.segmenter_size,) * 3, cascade.voxel_size_mm, jitter_mm)
        return {"locator": tuple(locator), "segmenter": (segmenter,)}

    def without_flips(self) -> TrainConfig:
        """The same for maps of which it is not known what lies left or right: heads are not mirrored."""
        shape = replace(self.synth.shape, flip_probability=0.0)
        return replace(self, synth=replace(self.synth, shape=shape))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        falling = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.lr * rising * falling


@dataclass(frozen=True)
class TransferConfig(TrainConfig):
    """How to train from the weights of another anatomy: networks that have learned need few steps. Figures:
    docs/benchmarks.md."""

    steps: int = 600
    locator_draws: int = 3
    lr: float = 5e-4
    warmup: int = 20
    average: float = 0.99
    # Subjects of other anatomies lie in any direction, and headers of animals name axes at will. Contrasts are
    # mostly akin to that of the labelled scan; fluid around the brain is added less often than to adults. Brains
    # and images are whole: what the others do within so few steps has not been measured.
    synth: SynthConfig = field(
        default_factory=lambda: SynthConfig(
            shape=ShapeConfig(quarter_turn_probability=0.2),
            joint_probability=0.6,
            layer_probability=0.2,
        ).whole()
    )


@dataclass(frozen=True)
class ClassTrainConfig(TrainConfig):
    """How to train a segmenter that tells classes apart.

    It needs more steps than one of another anatomy's brain: the last layer begins anew. The locator needs few.
    """

    steps: int = 4000
    warmup: int = 50
    average: float = 0.995
    # Soft Dice alone leaves a class that begins without overlap where it is; nnU-Net (Isensee et al., Nature
    # Methods 2021) takes the sum of both losses.
    cross_entropy: float = 1.0
    # Sulci and the skull are thin: of a head's classes at 2 mm, put back to 1 mm, the mean Dice with its labels is
    # 0.90, 0.91 and 0.94 for maps of 1.5, 1.2 and 1 mm.
    source_factor: float = 0.5
    # Labels have contrast of their own: it is drawn independently for most images (SynthSeg), and less is painted
    # over the labels. Noise hides folds: there is less of it. Heads that lie on a side are rarer, since left and
    # right must be told apart. What lies in a lesion has no class: brains are whole.
    synth: SynthConfig = field(
        default_factory=lambda: SynthConfig(
            shape=ShapeConfig(turn_probability=0.1),
            smooth_classes_probability=0.0,
            least_contrast=0.15,
            region_probability=0.2,
            structures_probability=0.1,
            layer_probability=0.0,
            surroundings_probability=0.15,
            crop_probability=0.25,
            class_noise=(0.0, 0.04),
            coil_probability=0.1,
            noise=(0.0, 0.04),
            smoothing_mm=(0.0, 1.5),
        ).whole()
    )


@dataclass(frozen=True)
class LesionTrainConfig(TrainConfig):
    """How to train a segmenter that tells lesions from the rest of the brain."""

    steps: int = 2000
    warmup: int = 50
    average: float = 0.995
    cross_entropy: float = 1.0  # the last layer begins anew, as in `ClassTrainConfig`
    # A lesion is a target if it changes the image by so much on average, of a range of 0 to 1 for the classes. The
    # change depends on its opacity, intensity and texture, and on what lies below. A fainter lesion is lost in the
    # strongest noise, which has this standard deviation. Networks asked for it would find lesions everywhere.
    least_change: float = 0.08
    # Most images have lesions; the others teach that healthy brains have none. Bodies of one intensity in the
    # brain look like lesions and are none: there are fewer than in other trainings.
    synth: SynthConfig = field(
        default_factory=lambda: SynthConfig(lesion_probability=0.7, structures_probability=0.1)
    )


@dataclass(frozen=True)
class StudentTrainConfig(TrainConfig):
    """How networks learn to see through lesions and faults of images: from a teacher, which is what they were.

    The student sees an image with them, the teacher the same image without (distillation: Hinton, Vinyals & Dean
    2015; to learn and not forget: Li & Hoiem, ECCV 2016). Where both say the same there is nothing to learn, so
    that whole brains are drawn as before. Figures: docs/tried.md.
    """

    steps: int = 3500
    lr: float = 2e-4
    warmup: int = 100
    clip: float = 0.1  # few images are hard: all count about alike
    # Every image has something to learn from. Cavities at the border and what operations leave cost most.
    synth: SynthConfig = field(
        default_factory=lambda: SynthConfig(
            lesion_probability=1.0,
            lesion_border_probability=0.85,
            cavity_probability=0.65,
            craniotomy_probability=0.35,
            void_probability=0.3,
            ghost_probability=0.2,
        )
    )


@dataclass(frozen=True)
class LesionConfig:
    """Which voxels count as lesions that a model finds; volumes are those of an adult human head.

    The least volume is that of a ball with the least radius of the lesions that networks learn from, 3 mm.
    """

    probability: float = 0.5  # a voxel of the brain mask is lesion above this probability
    least_ml: float = 0.1  # smaller components are left out


@dataclass(frozen=True)
class FittingConfig:
    """When an anatomy counts as that of the networks to begin with, which then keep their voxel size."""

    same_anatomy: tuple[float, float] = (0.75, 1.3)  # length of the brain over that of theirs


@dataclass(frozen=True)
class IntensityConfig:
    """How the range of an image's intensities is found, without damaged voxels and padding."""

    sample: int = 200_000  # voxels that percentiles are taken of
    low_percent: float = 0.5
    high_percent: float = 99.5
    # Values lie apart from the others where the gap between both is larger than this share of the others' range.
    # Padding of CT at -2000 lies 0.4 below air, at -3024 0.8 below. None of the development scans has a gap.
    apart: float = 1 / 3
    few: int = 32  # an image of so few different values has gaps everywhere


@dataclass(frozen=True)
class BrightnessConfig:
    """What counts as bright in an image at the locator's voxel size, and when the networks look there alone.

    Brightness is relative: 0 for the darkest of the image, 1 for its brightest. Figures: docs/benchmarks.md.
    """

    brightest_voxels: int = 100  # the brightness of an image is that of so many voxels, or of a 200th of them
    bright: float = 0.1  # what reaches this belongs to the head
    # It must also stand out of the noise, where most of the image is noise that stays below this brightness:
    air: float = 0.5
    deviations: float = 4.0  # of the noise, above its median
    speck_voxels: int = 27  # what is smaller and bright is damage, such as hot voxels
    dim_brain: float = 0.05  # a brain whose median is below it is looked for again
    # So much of a brain must lie among what is bright; so much of what is bright is one part in a small head.
    most: float = 0.5
    black: float = 0.005  # of the range of intensities: a mask whose median is below it holds no brain
    # What is bright counts as the whole head where it is shorter than this share of the window, and the field of
    # view is longer by this factor; it is then magnified to this share, as long as a brain or a head may be.
    small: float = 0.6
    wide: float = 1.25
    magnified: float = 0.9
    margin: float = 0.1  # shown around what is bright, as a share of its length


@dataclass(frozen=True)
class VolumeConfig:
    """Which volumes a brain may have before stripping remarks on it."""

    # Shares of the smallest and of the largest labelled brain. Adults have 1000 to 2000 ml: any of them may be the
    # labelled one, and none is remarked on.
    least: float = 0.5
    greatest: float = 2.0
    # If a model does not tell its labelled brains: the volume of an adult's brain, which is scaled as the networks
    # are, and the least share of it. Brains of rodents are long, and have half of this volume.
    adult_ml: float = 1400.0
    least_in_proportion: float = 0.3


@dataclass(frozen=True)
class StrippingConfig:
    """How the networks are shown an image; lengths in mm of an adult human head."""

    # A second look where the brain lies further from the window's middle than this,
    recentre_mm: float = 8.0
    dim: float = 0.9  # or where all of it is darker than this share of the brightest in the window
    peak: float = 0.7  # the intensity that the peaked view makes the brightest
    # In a field of view wider than the locator's window by this factor,
    widest: float = 1.5
    parts: int = 3  # so many parts of each look that may be the brain are looked at closer
    least_share: float = 0.02  # of the locator's voxels, taken as brain where none is positive
    least_piece: float = 0.1  # of organs, which are sought together: the size of a piece over that of the largest
    # A mask is doubted where the mean Dice of the views with their mean is lower than this: on synthetic images
    # such masks had a Dice of 0.83 at most;
    view_dice: float = 0.9
    dark: float = 0.02  # or where what is as dark as this share of the range of intensities
    dark_share: float = 0.2  # is a larger share of the mask
    intensities: IntensityConfig = IntensityConfig()
    brightness: BrightnessConfig = BrightnessConfig()
    volume: VolumeConfig = VolumeConfig()


@dataclass(frozen=True)
class RoundTrainConfig(TrainConfig):
    """How to train in a round of self-training: fewer steps at a lower rate, since the networks have learned."""

    steps: int = 3000
    lr: float = 3e-4


# Kernel, stride and channels of the encoder's layers; the decoder mirrors them.
Layer = tuple[Annotated[int, Meta(ge=1, le=16)], Annotated[int, Meta(ge=1, le=8)], Width]
SLICE_LAYERS = (
    *((4, 2, 32), (4, 2, 32), (4, 2, 32), (3, 1, 32), (4, 2, 64)),
    *((3, 1, 64), (4, 2, 128), (3, 1, 64), (3, 1, 32), (4, 2, 100)),
)
VOLUME_LAYERS = ((4, 2, 16), (4, 2, 32), (4, 2, 64), (4, 2, 64), (3, 2, 128), (4, 2, 100))
SLICE_BATCH = 32  # slices of a mask that the network sees at once while it scores


@dataclass(frozen=True)
class AutoencoderConfig:
    """Grid and shape of the quality network; lengths in mm of the anatomy that it is for.

    "volume" sees a mask whole and has learned to mend faults; "slices" is the published network,
    which sees slices across `axes` (0 sagittal, 1 coronal, 2 axial) one by one.
    """

    kind: Literal["volume", "slices"] = "volume"
    voxel_size_mm: VoxelSize = 4.0
    size: WindowSize = 48  # voxels along each side of the window
    axes: Annotated[tuple[Axis, ...], Meta(min_length=1, max_length=3)] = (2,)  # of "slices"
    layers: Annotated[tuple[Layer, ...], Meta(min_length=1, max_length=32)] = VOLUME_LAYERS
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        size = self.size
        for number, (kernel, stride, _) in enumerate(self.layers):
            # The decoder mirrors the encoder, and gives back this size only where nothing is left over.
            size, left = divmod(size + 2 - kernel, stride)
            size += 1
            if left or size < 1:
                raise ValueError(f"layers[{number}]: does not divide what is left of the window")

    @property
    def dimensions(self) -> int:
        """Number of axes of what the network sees."""
        return {"volume": 3, "slices": 2}[self.kind]

    @property
    def working_bytes(self) -> int:
        """What the layers take, about, while a mask is scored: outputs of both halves, in 32 bits."""
        images = {"volume": 1, "slices": SLICE_BATCH}[self.kind]
        size, numbers = self.size, 0
        for kernel, stride, width in self.layers:
            size = (size + 2 - kernel) // stride + 1
            numbers += 2 * width * size**self.dimensions
        return 4 * images * numbers

    @property
    def scale(self) -> float:
        """Size of the anatomy over that of an adult human head."""
        adult = AutoencoderConfig.fitting(HEAD_BRAIN_MM, self.kind)
        return self.voxel_size_mm * self.size / (adult.voxel_size_mm * adult.size)

    @staticmethod
    def fitting(
        brain_mm: float, kind: Literal["volume", "slices"] = "volume", axes: tuple[Axis, ...] = (2,)
    ) -> AutoencoderConfig:
        """For brains whose bounding box is up to `brain_mm` long."""
        finest = {"volume": AutoencoderConfig.voxel_size_mm, "slices": 2.0}[kind]
        voxel_size_mm = float(f"{finest * brain_mm / HEAD_BRAIN_MM:.2g}")
        if kind == "volume":
            return AutoencoderConfig(voxel_size_mm=voxel_size_mm)
        return AutoencoderConfig(kind, voxel_size_mm, 128, axes, SLICE_LAYERS, dropout=0.2)


@dataclass(frozen=True)
class FaultConfig:
    """Faults planted in masks for the quality network to mend; lengths are mm of an adult human head."""

    clean_probability: float = 0.15  # nothing planted
    offset_probability: float = 0.5
    offset_mm: float = 10.0  # ± the whole surface moved
    smooth_probability: float = 0.4
    smooth_mm: float = 12.0  # greatest standard deviation that rounds the surface off, as young networks do
    uneven_probability: float = 0.7
    uneven_mm: float = 8.0  # greatest standard deviation of a smooth field that moves the surface
    uneven_spacing_mm: tuple[float, float] = (12.0, 80.0)  # of its control points
    cut_probability: float = 0.25  # all beyond a plane missing
    cut_mm: tuple[float, float] = (-20.0, 70.0)  # the plane's distance from the middle
    added: int = 3  # most ellipsoids added, and
    removed: int = 2  # most taken away
    radius_mm: tuple[float, float] = (5.0, 45.0)  # their half axes
    reach_mm: float = 95.0  # how far from the middle they lie
    shell_probability: float = 0.25  # part of a layer around the brain, as skull or scalp
    shell_distance_mm: tuple[float, float] = (5.0, 18.0)
    shell_half_width_mm: tuple[float, float] = (1.5, 5.0)
    shell_plane_mm: float = 60.0  # ± the distance from the middle of the plane beyond which there is none of it


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """How to train the quality network. Numbers of the slice network: SingleStrip."""

    epochs: int = 500
    batch: int = 8
    masks_per_epoch: int = 40  # drawn for "volume"; an epoch of "slices" is every slice of the mask once
    lr: float = 1e-3
    weight_decay: float = 1e-5
    decay: float = 0.3  # the last share of the steps, over which the rate falls to zero
    seed: int = 0
    save_every: int = 25  # epochs between checkpoints
    # Of "volume"; lengths are mm of an adult human head.
    source_factor: float = 0.5  # spacing of the distance map over the voxel size
    margin_mm: float = 30.0  # how far from the brain the distance is known
    jitter_mm: float = 4.0  # ± of a mask's middle along each axis, after it is laid in the middle
    faults: bool = True  # "volume" only: learn to mend planted faults, not only to reconstruct
    # Narrower than to learn stripping, since a brainstem as thick as a dilated one's must not count as another
    # brain's. Of "slices" the rotation alone: SingleStrip.
    shape: ShapeConfig = ShapeConfig(
        rotation_deg=30.0,
        turn_probability=0.0,
        scaling=(0.85, 1.18),
        anisotropy=0.08,
        shear=0.05,
        warp_mm=(5.0, 2.5, 1.0),
    )
    slice_scaling: tuple[float, float] = (0.7, 1.4)  # of "slices", and
    slice_shift: float = 0.1  # ± of the window's side
    fault: FaultConfig = field(default_factory=FaultConfig)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        left = 1 - epoch / self.epochs
        return self.lr * min(1.0, left / max(self.decay, 1e-9))


@dataclass(frozen=True)
class QualityPartTrainConfig(AutoencoderTrainConfig):
    """How to train the quality network that goes into the file of a cascade.

    It starts from the weights of the shipped one. It took 104 s on one core of an Intel Xeon.
    """

    epochs: int = 60
    save_every: int = 10


@dataclass(frozen=True)
class FlagConfig:
    """What an estimated Dice is flagged as. Thresholds: docs/benchmarks.md.

    By its shape alone no mask passes: a mask of good shape may lie in the wrong place.
    """

    pass_from: float = 0.94  # estimates by way of the networks
    look_from: float = 0.88
    shape_pass_from: float = 1.0  # estimates by shape
    shape_look_from: float = 0.80
    full: float = 0.9  # a mask that fills more of its image has the estimated Dice 0
    dark: float = 0.5  # a mask of which more is as dark as the darkest of its image fails


@dataclass(frozen=True)
class AugmentationConfig:
    """Test-time augmentation of an image. Numbers: SingleStrip."""

    copies: int = 10
    scaling: float = 0.2  # ± of the intensities
    rotation_deg: float = 30.0  # ± about each axis


@dataclass(frozen=True)
class DoubtConfig:
    """Maps of where a mask is in doubt, and what pictures show of them."""

    least_vote: float = 0.01  # a vote's lower probabilities of brain do not count where nothing else is
    blur_mm: float = 4.0  # standard deviation; the place of most doubt is that of the blurred map
    large_slice: float = 0.1  # of the largest: slices with less, the tips of a brain, say little
    slices: int = 4  # shown, those of most doubt


@dataclass(frozen=True)
class GuardConfig:
    """When the model of a round is worse than the one before; see `self_training.guard`.

    The margins are of the Dice: by so much each measure may fall. They lie above what chance does: another seed
    moves the mean Dice of real scans by 0.001, and 15 harmless steps from the shipped weights move no measure by
    more than 0.0005 (benchmarks/guard.py). How far long harmless rounds move them has not been measured.
    """

    images: int = 24  # synthetic images of the labelled scan that each network is measured on
    first_image: int = 2**31  # the number of the first: no training gets so far
    labelled: float = 0.003
    segmenter: float = 0.005
    locator: float = 0.02
    agreement: float = 0.005


@dataclass(frozen=True)
class SelfTrainConfig:
    """Rounds of self-training. Numbers of rounds and pseudo-labels: SingleStrip.

    rank: what scans are ranked by. "estimate": estimated Dice, by the shape of a mask and the networks that made
    it; "ae": Dice of a mask and its reconstruction by the quality network, as in SingleStrip; "tta": agreement of
    augmented masks; "truth": Dice to references.
    """

    rounds: int = 2
    keep: int = 10  # pseudo-labels of a round, the best
    # Lowest score of a pseudo-label. None: with "estimate" and "ae", what is not flagged fail; otherwise none.
    threshold: float | None = None
    rank: str = "estimate"
    from_scratch: bool = False  # train each round's networks anew instead of those of the round before
    example_share: float = 0.5  # of the images; the others are made of the pseudo-labels
    spared_voxels: float = 1.0  # no loss is taken so close to the border of a pseudo-label; 0 for none
    shapes: bool = False  # of the pseudo-labels learn the shapes alone, which deform the labelled map
    usual_volumes: bool = True  # a brain of unusual volume is no pseudo-label
    halves: bool = (
        False  # rounds learn from two halves of the scans in turn: none from the masks of its own teacher
    )
    # Scans that are no pseudo-labels: models are compared on them. A share of all, and so many at most.
    held_out: float = 0.2
    most_held_out: int = 10
    accept_worse: bool = False  # go on with the model of a round also if it is worse
    guard: GuardConfig = GuardConfig()


@dataclass(frozen=True)
class CaseConfig:
    """Synthetic cases that the estimator learns from; lengths are millimetres of an adult human head.

    hard: images as the networks learn from; easy: images as good scans are; strange: other anatomies, in which the
    networks find the wrong thing. shares: how often each is drawn.
    """

    images: int = 200
    seed: int = 0
    shares: tuple[float, float, float] = (0.3, 0.5, 0.2)
    hard: SynthConfig = SynthConfig()
    easy: SynthConfig = SynthConfig(
        shape=ShapeConfig(
            rotation_deg=15.0,
            turn_probability=0.0,
            scaling=(0.88, 1.12),
            anisotropy=0.06,
            shear=0.03,
            warp_mm=(8.0, 4.0, 1.5),
        ),
        smooth_classes_probability=1.0,
        joint_probability=0.8,
        region_probability=0.2,
        class_noise=(0.0, 0.04),
        structures_probability=0.2,
        surroundings_probability=0.0,
        bias=(0.0, 0.3),
        coil_probability=0.1,
        smoothing_mm=(0.0, 1.0),
        slice_probability=0.0,
        noise=(0.0, 0.03),
        gamma=0.4,
        crop_probability=0.1,
        masked_probability=0.0,
    ).whole()
    strange: SynthConfig = SynthConfig(
        shape=ShapeConfig(scaling=(0.22, 0.45)), surroundings_probability=0.8, crop_probability=0.1
    )
    field_of_view: float = 1.17  # side of an image over that of the segmenter's window
    thickness: tuple[int, ...] = (1, 1, 2, 3)  # voxels of the segmenter in a slice, each as often
    disturbance: tuple[float, float] = (0.2, 1.5)  # log-uniform; relative standard deviation of errors in weights
    faults: FaultConfig = FaultConfig(clean_probability=0.0)
    small_faults: FaultConfig = FaultConfig(
        clean_probability=0.0,
        offset_mm=3.0,
        smooth_mm=5.0,
        uneven_mm=3.0,
        cut_probability=0.05,
        added=1,
        removed=1,
        shell_probability=0.1,
    )
    offset_mm: float = 10.0  # most that a mask is grown or shrunk by
    shift_mm: tuple[float, float] = (2.0, 40.0)  # log-uniform
    quantile: tuple[float, float] = (0.3, 0.9)  # of the intensities above which a mask takes all
    least_voxels: int = 500  # of the brain in an image


@dataclass(frozen=True)
class EstimatorConfig:
    """How the estimate of Dice is fitted to synthetic cases."""

    least_cases: int = 200  # fewer say too little
    trees: int = 60
    leaves: int = 8  # of a tree
    least_in_leaf: int = 20
    learning_rate: float = 0.1
    quantiles: tuple[float, float] = (
        0.05,
        0.95,
    )  # of the Dice of masks with about the same estimate: the interval
    knots: int = 16  # estimates at which the interval is known


@dataclass(frozen=True)
class ReasonConfig:
    """From where on evidence is told as a reason to look at a mask. Shares, or Dice."""

    dark: float = 0.2
    model_dice: float = 0.92
    volume: float = 0.08
    view_dice: float = 0.9
    shape_dice: float = 0.85
    apart: float = 0.01
    holes: float = 0.005
