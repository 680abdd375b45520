"""Where the border is drawn: levels by hand, balls of known volume, and models that keep everything else."""

import numpy as np
import pytest
import torch
from phantoms import make_head, tiny_cascade

from singlestrip.configuration import TrainConfig
from singlestrip.errors import InputError
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.checkpoint import load_model
from singlestrip.space.scan import Scan
from singlestrip.stripping.brain_field import BrainField
from singlestrip.synthesis.labelling import LabelledScan
from singlestrip.training.calibration import border_level, calibrated, level_of
from singlestrip.training.cascade import TrainingData, train_cascade

RADIUS_MM, MM_PER_LOGIT = 30.0, 5.0
LARGEST = 2.0
IMAGE_GRID = np.array([[0, -1.5, 0, 40.3], [2.0, 0, 0, -44.1], [0, 0, 1.2, -38.7], [0, 0, 0, 1.0]])
IMAGE_SHAPE = (45, 55, 65)


def radius_mm(shape, vox2world):
    at = np.moveaxis(np.indices(shape), 0, -1) @ vox2world[:3, :3].T + vox2world[:3, 3]
    return np.linalg.norm(at, axis=-1)


class Ball:
    """A stripper that sees a ball of 30 mm whose logit falls by one in 5 mm, but for images of zeros."""

    def field(self, scan):
        if not scan.array.any():
            raise InputError("nothing to strip")
        grid = np.diag([2.0, 2.0, 2.0, 1.0])
        grid[:3, 3] = -47.0
        logit = (RADIUS_MM - radius_mm((48,) * 3, grid)) / MM_PER_LOGIT
        return BrainField(torch.from_numpy(logit).float(), grid)


def labelled_ball(radius):
    mask = radius_mm(IMAGE_SHAPE, IMAGE_GRID) < radius
    return LabelledScan(Scan(np.ones(IMAGE_SHAPE), IMAGE_GRID), mask)


@pytest.mark.parametrize(("count", "level"), [(1, 7.5), (2, 5.5), (3, 3.5), (4, 2.0)])
def test_a_level_parts_as_many_values_as_asked_from_the_rest(count, level):
    logit = np.array([[3.0, 8.0, -1.0], [1.0, 4.0, 7.0]])
    assert level_of(logit, count) == level
    assert np.count_nonzero(logit > level) == count


def test_beyond_all_values_no_level_parts_them():
    assert level_of(np.zeros((2, 2)), 0) == np.inf
    assert level_of(np.zeros((2, 2)), 4) == level_of(np.zeros(0), 9) == -np.inf


@pytest.mark.parametrize("radius", [22.0, 26.0, 30.0, 34.0, 38.0])
def test_the_level_is_the_logit_at_the_masks_surface(radius):
    level = border_level(Ball(), [labelled_ball(radius)], LARGEST)
    assert level == pytest.approx((RADIUS_MM - radius) / MM_PER_LOGIT, abs=0.05)


@pytest.mark.parametrize(("radius", "sign"), [(5.0, 1), (60.0, -1)])
@pytest.mark.parametrize("largest", [LARGEST, 1.5])
def test_a_mask_of_quite_another_size_does_not_move_the_border_far(radius, sign, largest):
    assert border_level(Ball(), [labelled_ball(radius)], largest) == sign * largest


def test_of_several_scans_the_median_counts_and_what_cannot_be_stripped_does_not():
    blank = LabelledScan(Scan(np.zeros(IMAGE_SHAPE), IMAGE_GRID), labelled_ball(34.0).mask)
    scans = [labelled_ball(24.0), blank, labelled_ball(28.0), labelled_ball(38.0)]
    assert border_level(Ball(), scans, LARGEST) == pytest.approx(0.4, abs=0.05)
    assert border_level(Ball(), [blank], LARGEST) == border_level(Ball(), [], LARGEST) == 0.0


@pytest.fixture(scope="module")
def head():
    return make_head(24, spacing_mm=2.0)


def test_a_calibrated_model_says_the_same_but_for_the_level(head):
    torch.manual_seed(3)
    model = Cascade(tiny_cascade(2.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved, level = calibrated(model, [head.labelled], LARGEST)
    assert level != 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    image = torch.rand(1, 1, *(model.config.segmenter_size,) * 3)
    for network, less in (("locator", 0), ("segmenter", level)):
        said, moved_said = (getattr(each, network)(image) for each in (model, moved))
        torch.testing.assert_close(moved_said, said - less)


def test_training_draws_the_border_by_the_scan_and_says_where(head, tmp_path):
    config = TrainConfig(steps=3, amp="off")
    scan = head.labelled
    paths = [tmp_path / name for name in ("plain.safetensors", "by-scan.safetensors")]
    for path, scans in zip(paths, ([], [scan]), strict=True):
        data = TrainingData([head.native], scans=scans)
        train_cascade(data, path, tiny_cascade(2.0), config, device=torch.device("cpu"))
    (plain, plain_header), (by_scan, header) = (load_model(path) for path in paths)
    level = header["provenance"]["border_level"]
    assert plain_header["provenance"]["border_level"] == 0 != level
    biases = [model.segmenter.head.bias for model in (plain, by_scan)]
    torch.testing.assert_close(biases[1], biases[0] - level, atol=2e-3, rtol=0)
