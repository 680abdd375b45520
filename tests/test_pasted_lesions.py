"""What the benchmarks do to scans: lesions that are pasted, signal that is lost, distortion, ghosts."""

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VOX2WORLD = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def head():
    """Image and brain [60, 60, 60] of 3 mm: a ball of 2 l in a larger one."""
    radii = np.sqrt(((np.indices((60, 60, 60)) - 29.5) ** 2).sum(0)) * 3
    noise = np.random.default_rng(0).standard_normal(radii.shape)
    return np.where(radii < 78, 100 + 20 * noise, np.where(radii < 86, 60.0, 0.0)), radii < 78


@pytest.mark.parametrize("ml", [5, 60])
@pytest.mark.parametrize("kind", ["border", "cavity"])
def test_lesions_have_their_volume_and_place(kind, ml, head, benchmarks):
    from pasted_lesions import GAP_MM, paste

    image, brain = head
    pasted = paste(image, brain, VOX2WORLD, "T1w", kind, ml, seed=3)
    assert pasted.lesion.sum() * 27 == pytest.approx(ml * 1000, rel=0.02)
    assert not (pasted.lesion & ~brain).any() and (pasted.near & pasted.lesion == pasted.lesion).all()
    changed = np.abs(pasted.image - image) > 1
    radii = np.sqrt(((np.indices(brain.shape) - 29.5) ** 2).sum(0)) * 3
    assert changed[pasted.lesion].mean() > 0.8
    furthest = {"inside": 80, "border": 80, "cavity": 80 + GAP_MM, "craniotomy": np.inf}[kind]
    assert radii[changed].max() < furthest
    if kind == "inside":
        assert radii[pasted.lesion].max() < 75
    else:
        assert radii[pasted.lesion].max() > 75
    if kind == "craniotomy":
        assert (changed & (radii > 86)).any()  # swollen
    again = paste(image, brain, VOX2WORLD, "T1w", kind, ml, seed=3)
    assert np.array_equal(again.image, pasted.image)


def test_lesions_that_are_found_and_others(head, benchmarks, monkeypatch):
    """What finds all that was changed finds each lesion, its oedema as well, and nothing before."""
    import found_lesions
    import lesions

    monkeypatch.setattr(lesions, "KINDS", ("border", "cavity"))
    image, brain = head
    monkeypatch.setattr(
        found_lesions, "find", lambda stripper, finder, scan: brain & (np.abs(scan.array - image) > 1)
    )
    example = lesions.Example("made", "T1w", image, brain, VOX2WORLD)
    rows = list(found_lesions.pasted_rows(None, None, example, [20.0]))
    assert [row["kind"] for row in rows] == ["border", "cavity"]
    assert all(row["found"] and row["marked"] > 0.8 and row["dice"] > 0.5 for row in rows)
    assert all(row["elsewhere_ml"] < 20 for row in rows)
    assert "| cavity | 20 | 1 | 1 |" in found_lesions.found_table(rows)
    healthy = found_lesions.row_as_it_is(None, None, example, "healthy")
    assert (healthy["lesions"], healthy["ml"]) == (0, 0)
    patient = {**healthy, "people": "ill", "lesions": 3, "ml": 4.5}
    first, second = found_lesions.table_as_they_are([healthy, patient]).splitlines()[2:]
    assert first == "| healthy | T1w | 1 | 1 | 0.00 | 0.00 | 0.00 |"
    assert second == "| ill | T1w | 1 | 0 | 3.00 | 4.50 | 4.50 |"


def test_a_change_of_signal_leaves_the_mask(head, benchmarks):
    from robustness import ghosted, without_signal

    image, brain = head
    lost, mask, _ = without_signal((image, brain, VOX2WORLD), 14)
    assert np.array_equal(mask, brain)
    gone = brain & (lost < 0.3 * image)
    assert 0.003 < gone.sum() / brain.sum() < 0.1
    assert np.argwhere(gone)[:, 2].max() < 30  # at the base
    ghost, mask, _ = ghosted((image, brain, VOX2WORLD), 0.2)
    assert np.array_equal(mask, brain)
    assert ghost[30, 0, 30] == pytest.approx(image[30, 0, 30] + 0.2 * image[30, 30, 30])


def test_distortion_moves_image_and_mask_alike(head, benchmarks):
    from robustness import distorted

    _, brain = head
    image, mask, _ = distorted((brain.astype(float), brain, VOX2WORLD), 9)
    changed = np.argwhere(mask != brain)
    assert len(changed) > 100
    assert np.array_equal(image[~mask] < 0.8, np.ones((~mask).sum(), dtype=bool))
    assert changed[:, 1].mean() > 35 and changed[:, 2].mean() < 30  # at the front of the base
