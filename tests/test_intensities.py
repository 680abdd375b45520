"""The range of intensities: damaged voxels, padding and extreme scaling must not press the contrast together."""

import numpy as np
import pytest

from singlestrip.errors import InputError
from singlestrip.space.scan import Scan
from singlestrip.stripping import intensities
from singlestrip.stripping.intensities import Intensities

SHAPE = (40, 40, 40)


def intensities_of(stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Intensities:
    return intensities.intensities_of(Scan(stored, np.eye(4), slope, intercept))


def head(seed=0):
    """Intensities float64 of air, from -1000 on, and tissue up to 1500, without a gap."""
    return np.linspace(-1000, 1500, 64000)[np.random.default_rng(seed).permutation(64000)].reshape(SHAPE)


def test_an_ordinary_range_is_that_of_the_image():
    found = intensities_of(head())
    assert (found.low, found.rescaled) == (-1000, False)
    assert found.high == pytest.approx(1500 - 0.005 * 2500, rel=0.01)


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_ordinary_values_are_as_they_are(dtype):
    stored = head().astype(dtype)
    np.testing.assert_array_equal(intensities_of(stored).of(stored), stored.astype(np.float32))
    np.testing.assert_array_equal(
        intensities_of(stored, 0.5, -7).of(stored), stored.astype(np.float32) * np.float32(0.5) - np.float32(7)
    )


@pytest.mark.parametrize("value", [-1e6, -3e38, -1e300])
@pytest.mark.parametrize("count", [1, 100])
def test_a_few_voxels_far_below_do_not_count(value, count):
    image = head()
    image.ravel()[:: image.size // count][:count] = value * np.linspace(1, 0.1, count)
    found = intensities_of(image)
    assert found.rescaled and found.low == pytest.approx(-1000, abs=25)
    values = found.of(image)
    assert values.min() == 0 and np.median(values) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, -1e30])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_padding_counts_as_the_darkest_of_the_rest(padding, share):
    image, beyond = head(), np.random.default_rng(1).random(SHAPE) < share
    image[beyond] = padding
    found = intensities_of(image)
    assert found.low == pytest.approx(-1000, abs=10)
    assert (found.of(image)[beyond] == 0).all()


def test_two_kinds_of_padding():
    image = head()
    image[:10], image[10:15] = -1e5, -5000
    assert intensities_of(image).low == pytest.approx(-1000, abs=10)


def test_dark_air_is_no_padding():
    """Zero around a head, and few values in all, are a range like any other."""
    image = np.where(np.indices(SHAPE)[0] < 20, 0, np.abs(head()))
    assert intensities_of(image).low == 0
    few = np.array([0, 60, 100])[np.random.default_rng(0).integers(3, size=SHAPE)]
    assert (intensities_of(few).low, intensities_of(few).high) == (0, 100)


@pytest.mark.parametrize("factor", [1e-300, 1e-40, 1e-20, 1e-7, 1e30, 1e300])
def test_scale_does_not_matter(factor):
    image = head() + 1000
    values = intensities_of(image * factor).of(image * factor)
    expected = image / np.percentile(image, 99.5)
    np.testing.assert_allclose(values / values.max(), expected / expected.max(), atol=1e-3)


@pytest.mark.parametrize("slope, intercept", [(1e38, 0), (1e-45, 0), (1, 1e10), (-1e38, 5), (1e300, -1e300)])
def test_scaling_in_the_header_does_not_matter(slope, intercept):
    stored = (head() + 1000).astype(np.int16)
    values = intensities_of(stored, slope, intercept).of(stored)
    expected = stored if slope > 0 else stored.max() - stored
    assert np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize(
    "slope, intercept, sentence",
    [
        (1, 1e38, "constant"),
        (0, 5, "constant"),
        (1e-45, 1.0, "constant"),
        (1e306, 0, "scaling are damaged"),
        (np.inf, 0, "scaling are damaged"),
        (np.nan, 0, "scaling are damaged"),
        (1, np.nan, "scaling are damaged"),
    ],
)
def test_a_range_that_is_none(slope, intercept, sentence):
    with pytest.raises(InputError, match=sentence):
        intensities_of((head() + 1000).astype(np.int16), slope, intercept)


def test_a_constant_but_for_a_damaged_voxel():
    image = np.full(SHAPE, 7.0)
    image[3, 3, 3] = -1e6
    with pytest.raises(InputError, match="constant"):
        intensities_of(image)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_darkest(bad):
    image = head()
    beyond = (slice(20),) if np.isnan(bad) else (0, slice(10))  # many infinite ones are refused
    image[beyond] = bad
    found = intensities_of(image)
    assert (found.of(image)[beyond] == found.low).all()


def test_few_finite_voxels():
    image = np.full((100, 100, 100), np.nan)
    image[50, 50, :2] = 3, 5
    found = intensities_of(image)
    assert (found.low, found.high) == (3, 5)


@pytest.mark.parametrize("factor", [1.0, 1e-40, 1e300])
def test_shares_of_the_range(factor):
    image = (head() + 1000) * factor
    found = intensities_of(image)
    shares = found.relative(np.array([image.min(), image.mean(), found.high]))
    np.testing.assert_allclose(shares, [0, 0.5, 1], atol=0.01)


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_image_that_overflowed_is_refused_and_one_with_padding_of_nan_is_not(dtype, value):
    for share, refused in ((0.009, False), (0.012, True), (0.45, True)):
        image = head().astype(dtype)
        image.ravel()[: round(share * image.size)] = value
        if refused:
            with pytest.raises(InputError, match=f"{100 * share:.2g} % of the voxels are infinite"):
                intensities_of(image)
        else:
            assert intensities_of(image).high > 1000
    image[np.isinf(image)] = np.nan
    assert intensities_of(image).high > 1000
