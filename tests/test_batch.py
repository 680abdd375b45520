"""Files in, files out: a bright ball in files is its own brain."""

import gzip
import logging
import math
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from singlestrip.batch import records, stages, strip
from singlestrip.batch.jobs import Job, StripOptions, plan_folder, take_images
from singlestrip.batch.ledger import Ledger
from singlestrip.batch.strip import strip_file, strip_files
from singlestrip.errors import InputError, OutputError
from singlestrip.io import memory
from singlestrip.io.images import memory_need, volume
from singlestrip.io.images.lists import images_below, read_list, write_list
from singlestrip.io.text.json_file import read_json, write_json
from singlestrip.networks.model_header import Anatomy
from singlestrip.space.metrics import dice
from singlestrip.stripping.stripper import Stripper
from singlestrip.stripping.views import View

VOX2WORLD = np.array([[-3.0, 0, 0, 60], [0, 3, 0, -50], [0, 0, 4, -40], [0, 0, 0, 1]])
SHAPE = (40, 36, 28)


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 64 * memory.GIB)


def ball(centre=(20, 17, 14), radius=24.0):
    """Distance to the surface in mm, negative inside."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1) - np.array(centre)
    return np.linalg.norm(index @ VOX2WORLD[:3, :3].T, axis=-1) - radius


def scan(path, distances=None, dtype="<i2", scaling=None, background=10):
    """A file of a soft-edged ball, noise around 1000 deep within it and `background` beyond."""
    distances = [ball()] if distances is None else distances
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE)
    frames = [background + (1000 - background + noise) * np.clip(0.5 - d / 4, 0, 1) for d in distances]
    limit = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.inf
    frames = [np.minimum(frame.round(), limit) for frame in frames]
    stored = np.stack(frames, -1) if len(frames) > 1 else frames[0]
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(stored.astype(dtype), VOX2WORLD, header)
    if scaling:
        image.header.set_slope_inter(*scaling)
    image.to_filename(path)
    return path


def job(image, *kinds, folder=None):
    return plan_folder([image], (folder or image.parent) / "out", kinds)[0]


def strip_one(stripper, image, options=StripOptions(), kinds=("brain", "mask")):
    """Outputs by kind, as stored values [X, Y, Z, T]."""
    todo = job(image, *kinds)
    strip_file(stripper, todo, options)
    return {kind: volume.read(path) for kind, path in todo.outputs.items()}


def test_every_output(phantom_stripper, tmp_path):
    todo = job(scan(tmp_path / "a.nii.gz"), "brain", "mask", "sdt", "picture")
    strip_file(phantom_stripper, todo)
    image, brain, mask, sdt = (volume.read(p) for p in (todo.image, *list(todo.outputs.values())[:3]))
    inside = mask.stored > 0
    assert mask.stored.dtype == np.uint8 and set(np.unique(mask.stored)) == {0, 1}
    assert dice(inside[..., 0], ball() < 0) > 0.97
    assert brain.stored.dtype == image.stored.dtype
    np.testing.assert_array_equal(brain.stored[inside], image.stored[inside])
    assert (brain.stored[~inside] == 0).all()
    assert sdt.stored.dtype == np.float32
    np.testing.assert_array_equal(sdt.stored < 0, inside)
    near = np.abs(ball()) < 4
    assert np.abs(sdt.stored[..., 0] - ball())[near].mean() < 1
    assert todo.outputs["picture"].read_bytes().startswith(b"\x89PNG")
    for out in (brain, mask, sdt):
        np.testing.assert_array_equal(out.vox2world, image.vox2world)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_brain.nii.gz",
        "a_mask.nii.gz",
        "a_picture.png",
        "a_sdt.nii.gz",
    ]


@pytest.mark.parametrize(
    "dtype, scaling, background, fill, expected",
    [
        ("<i2", None, 10, None, 0),  # the lower of the image's minimum and zero
        ("<i2", None, -30, None, -30),
        ("<i2", (0.5, -100), 10, None, 10),  # lowest value 0.5·10 - 100 = -95
        ("<i2", (2.0, 50), 10, None, -25),  # zero is stored as -25
        ("u2", (1.0, 7), 10, None, 0),  # zero would be -7: the nearest that can be stored
        ("<i2", (-1.0, 0), 10, None, 1019),  # negative slope: the highest stored value is the lowest
        ("<i2", None, 10, -1000, -1000),
        ("<f4", None, 10, -0.25, -0.25),
        ("<f4", None, 10, np.nan, np.nan),
        ("<i2", (0.5, -100), 10, 0, 200),
    ],
)
def test_background(tmp_path, dtype, scaling, background, fill, expected):
    image = volume.read(scan(tmp_path / "a.nii", dtype=dtype, scaling=scaling, background=background))
    mask = (ball() < 0)[..., None]
    if scaling and scaling[0] < 0:
        expected = int(image.stored.max())
    background = stages.stored_fill(image, fill)
    assert background.dtype == image.stored.dtype
    out = np.where(mask, image.stored, background)
    assert out.dtype == image.stored.dtype
    np.testing.assert_array_equal(out[mask], image.stored[mask])
    np.testing.assert_array_equal(np.unique(out[~mask]), [expected])


@pytest.mark.parametrize(
    "dtype, fill", [("u1", 256), ("u2", -1), ("<i2", 40000), ("<i2", np.nan), ("<i2", np.inf)]
)
def test_fill_that_cannot_be_stored(phantom_stripper, tmp_path, dtype, fill):
    image = scan(tmp_path / "a.nii", [ball() * 1.0], dtype, background=3)
    todo = job(image, "brain")
    with pytest.raises(InputError, match="cannot be stored"):
        strip_file(phantom_stripper, todo, StripOptions(fill=fill))
    assert not list((tmp_path / "out").iterdir())


def test_frames_each_and_together(phantom_stripper, tmp_path):
    """Each frame has its own mask; one mask of the mean covers what most frames show."""
    distances = [ball(), ball(radius=15), ball()]
    image = scan(tmp_path / "a.nii", distances)
    out = strip_one(phantom_stripper, image)
    assert out["mask"].shape == out["brain"].shape == (*SHAPE, 3)
    for t, distance in enumerate(distances):
        assert dice(out["mask"].frame(t) > 0, distance < 0) > 0.95
    together = strip_one(phantom_stripper, image, StripOptions(mean_frame=True))
    assert together["mask"].shape == SHAPE and together["brain"].shape == (*SHAPE, 3)
    inside = together["mask"].frame(0) > 0
    assert dice(inside, ball(radius=23) < 0) > 0.95  # two thirds of the soft edge are half as bright 1 mm deeper
    for t in range(3):
        stored = volume.read(image).frame(t)
        np.testing.assert_array_equal(together["brain"].frame(t), np.where(inside, stored, 0))


def test_mean_of_frames_that_are_not_finite(phantom_stripper, tmp_path):
    """What one frame of three shows is as bright as the rest."""
    frames = np.stack([1000 * np.clip(0.5 - ball() / 4, 0, 1)] * 3, -1).astype(np.float32)
    frames[:20, ..., 1:] = np.nan
    nib.Nifti1Image(frames, VOX2WORLD).to_filename(tmp_path / "a.nii")
    out = strip_one(phantom_stripper, tmp_path / "a.nii", StripOptions(mean_frame=True))
    assert dice(out["mask"].frame(0) > 0, ball() < 0) > 0.97


def test_frame_that_fails_is_named(phantom_stripper, tmp_path):
    frames = np.stack([np.where(ball() < 0, 100, 0), np.full(SHAPE, 7)], -1).astype(np.int16)
    nib.Nifti1Image(frames, VOX2WORLD).to_filename(tmp_path / "a.nii")
    with pytest.raises(
        InputError,
        match=r"a.nii: frame 1 of 0 to 1: the image is constant.*; a single mask of their mean may work$",
    ):
        strip_file(phantom_stripper, job(tmp_path / "a.nii", "mask"))
    assert not list((tmp_path / "out").iterdir())


def test_border_moves_the_mask(phantom_stripper, tmp_path):
    image = scan(tmp_path / "a.nii")
    for border in (-6, 6):
        mask = strip_one(phantom_stripper, image, StripOptions(border_mm=border))["mask"].frame(0) > 0
        assert dice(mask, ball() < border) > 0.95


def test_warning_about_values_that_are_not_finite(phantom_stripper, tmp_path, caplog):
    strip_file(phantom_stripper, job(scan(tmp_path / "a.nii"), "mask"))
    assert caplog.messages == []
    values = np.where(ball() < 0, 100, 0).astype(np.float32)
    values[0, 0, :5] = np.nan
    nib.Nifti1Image(values, VOX2WORLD).to_filename(tmp_path / "b.nii")
    strip_file(phantom_stripper, job(tmp_path / "b.nii", "mask"))
    assert len(caplog.messages) == 1 and "b.nii: 5 voxels are not finite" in caplog.messages[0]
    assert caplog.records[0].levelname == "WARNING" and caplog.records[0].name.startswith("singlestrip.")


def test_a_brain_of_unusual_volume_is_remarked_on_and_stripped(phantom_stripper, tmp_path, caplog):
    """Here 6 to 120 ml are usual."""
    frames = {"usual": [20], "small": [8], "large": [36], "several": [20, 8, 20, 9]}
    images = {
        name: scan(tmp_path / f"{name}.nii", [ball(radius=radius) for radius in radii])
        for name, radii in frames.items()
    }
    for image in images.values():
        strip_one(phantom_stripper, image)
    advice = "is this another anatomy? see 'singlestrip models'"
    usual = "than any that this model is for (6 to 120 ml)"
    volumes = [float(text.split("brain of ")[1].split(" ml")[0]) for text in caplog.messages]
    assert volumes == pytest.approx([2.1, 195, 2.1], rel=0.2)
    small, large, several = (f"{volume:.3g}" for volume in volumes)
    assert caplog.messages == [
        f"{images['small']}: brain of {small} ml, smaller {usual}: {advice}",
        f"{images['large']}: brain of {large} ml, larger {usual}: {advice}",
        f"{images['several']}: frame 1 of 0 to 3: brain of {several} ml, smaller {usual}: {advice}",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_mask_on_which_views_do_not_agree_is_remarked_on(phantom_stripper, tmp_path, caplog):
    """In one of two views nothing is bright enough: the networks see no brain there."""
    image = scan(tmp_path / "a.nii")
    views = [View(lambda shown: shown.clip(max=0.49), mirrored=False)]
    masks = strip_one(Stripper(phantom_stripper.engine, views, anatomy=Anatomy((12.0, 60.0))), image)
    assert masks["mask"].stored.any()
    assert caplog.messages == [f"{image}: the views of the networks agree by 0.50 only: look at the mask"]


def test_a_mask_in_the_dark_is_remarked_on(phantom_stripper, tmp_path, caplog):
    """A ball of 24 mm, dark within 15 mm, which is 24 % of it."""
    image = scan(tmp_path / "a.nii", [np.maximum(ball(), -ball(radius=17.0))])
    strip_one(phantom_stripper, image)
    (said,) = caplog.messages
    share = int(re.fullmatch(rf"{image}: (\d+) % of the mask is as dark as .*: look at the mask", said)[1])
    assert share == pytest.approx(24, abs=4)


def test_a_moved_border_makes_no_unusual_volume(phantom_stripper, tmp_path, caplog):
    usual, small = (scan(tmp_path / f"{r}.nii", [ball(radius=r)]) for r in (15, 9))
    masks = [
        strip_one(phantom_stripper, image, StripOptions(border_mm=border))["mask"].frame(0)
        for image, border in ((usual, -6), (small, 6))
    ]
    voxel_ml = abs(np.linalg.det(VOX2WORLD[:3, :3])) / 1000
    assert masks[0].sum() * voxel_ml < 6 < masks[1].sum() * voxel_ml
    assert len(caplog.messages) == 1 and f"{small}: brain of 2." in caplog.messages[0]


def test_a_small_brain_that_the_image_cuts_off_is_not_remarked_on(phantom_stripper, tmp_path, caplog):
    image = scan(tmp_path / "a.nii")
    slab = volume.read(image).stored[:, :, 14:16, 0]
    nib.Nifti1Image(np.ascontiguousarray(slab), VOX2WORLD).to_filename(tmp_path / "slab.nii")
    mask = strip_one(phantom_stripper, tmp_path / "slab.nii")["mask"].frame(0)
    voxel_ml = abs(np.linalg.det(VOX2WORLD[:3, :3])) / 1000
    assert 0 < mask.sum() * voxel_ml < 15
    assert caplog.messages == []


@pytest.mark.parametrize("options", [StripOptions(), StripOptions(mean_frame=True)])
def test_values_that_became_too_large_are_refused_in_one_sentence(phantom_stripper, tmp_path, caplog, options):
    bright = 1000 * np.clip(0.5 - ball() / 4, 0, 1)
    with np.errstate(over="ignore"):
        too_bright = (bright * 1e36).astype(np.float32)
    frames = {"a.nii": too_bright, "b.nii": np.stack([bright, too_bright], -1).astype(np.float32)}
    for (name, values), place in zip(frames.items(), ("", "frame 1 of 0 to 1: "), strict=True):
        nib.Nifti1Image(values, VOX2WORLD).to_filename(tmp_path / name)
        with pytest.raises(InputError, match=rf"^{tmp_path / name}: {place}[0-9.]+ % of the voxels are infinite"):
            strip_file(phantom_stripper, job(tmp_path / name, "mask"), options)
        assert caplog.messages == [] and not list((tmp_path / "out").iterdir())


def test_outputs_are_checked_before_work(phantom_stripper, tmp_path):
    image = scan(tmp_path / "a.nii")
    for outputs in (
        {"mask": tmp_path / "no" / "m.nii"},
        {"mask": tmp_path / "m.txt"},
        {"picture": tmp_path / "p.nii"},
    ):
        with pytest.raises(OutputError):
            strip_file(phantom_stripper, Job(image, {"brain": tmp_path / "b.nii"} | outputs))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


def test_one_failure_does_not_stop_the_others(phantom_stripper, tmp_path):
    images = [scan(tmp_path / "a.nii"), tmp_path / "b.nii", tmp_path / "gone.nii", scan(tmp_path / "c.nii")]
    images[1].write_bytes(b"not an image")
    jobs = plan_folder(images, tmp_path / "out", ("mask",))
    seen = []
    outcomes = strip_files(
        phantom_stripper, jobs, done=lambda outcome: seen.append((outcome.number, outcome.text))
    )
    failures = [outcome for outcome in outcomes if outcome.failed]
    assert [failed.job.image.name for failed in failures] == ["b.nii", "gone.nii"]
    assert all(failed.job.image.name in failed.text for failed in failures)
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    assert seen[0][1] == seen[3][1] == "stripped"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_mask.nii", "c_mask.nii"]


def test_a_fault_of_the_program(phantom_stripper, tmp_path, monkeypatch):
    """It is a failure like any other, and --debug shows where it came from."""
    jobs = plan_folder([scan(tmp_path / "a.nii"), scan(tmp_path / "b.nii")], tmp_path / "out", ("mask",))

    def fault(*args, **options):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(phantom_stripper, "strip", fault)
    failures = strip_files(phantom_stripper, jobs)
    assert [failed.job.image.name for failed in failures] == ["a.nii", "b.nii"]
    assert all(failed.failed and "ZeroDivisionError: odd" in failed.text for failed in failures)
    with pytest.raises(ZeroDivisionError):
        strip_files(phantom_stripper, jobs, debug=True)


@pytest.fixture
def watched(phantom_stripper, monkeypatch):
    """The images that were read, by name, and how many they were each time the networks were shown one."""
    read, shown = [], []
    read_quietly, find = volume.read_quietly, phantom_stripper.strip

    def reading(path):
        image = read_quietly(path)
        read.append(Path(path).name)
        return image

    def finding(*arguments, **options):
        shown.append(len(read))
        return find(*arguments, **options)

    monkeypatch.setattr(volume, "read_quietly", reading)
    monkeypatch.setattr(phantom_stripper, "strip", finding)
    return read, shown


def scans(folder, names="abc"):
    return plan_folder([scan(folder / f"{name}.nii") for name in names], folder / "out", ("mask",))


def test_reading_finding_and_writing_overlap(phantom_stripper, watched, tmp_path, monkeypatch):
    """The first image is seen until the second is read, and is written until the second is seen."""
    read, shown = watched
    second_seen = threading.Event()
    find, write = phantom_stripper.strip, strip.write_outputs

    def finding(*arguments, **options):
        if len(shown) == 1:
            second_seen.set()
        while len(read) < 2:
            time.sleep(0.001)
        return find(*arguments, **options)

    def writing(*arguments):
        assert second_seen.wait(60)
        write(*arguments)

    monkeypatch.setattr(phantom_stripper, "strip", finding)
    monkeypatch.setattr(strip, "write_outputs", writing)
    outcomes = strip_files(phantom_stripper, scans(tmp_path))
    assert [outcome.text for outcome in outcomes] == ["stripped"] * 3
    assert read == ["a.nii", "b.nii", "c.nii"]
    assert all(number <= count <= number + 1 for number, count in enumerate(shown, start=1))  # one is read ahead


@pytest.mark.parametrize("limited", [False, True])
def test_an_image_for_which_memory_does_not_suffice_beside_another_waits(
    phantom_stripper, watched, tmp_path, monkeypatch, limited
):
    """It is then read and stripped alone."""
    jobs = scans(tmp_path)
    need = memory_need.estimate(volume.read_header(jobs[0].image), False, phantom_stripper.config.window_mm)
    options = StripOptions(memory_gib=(need + 1) / memory.GIB if limited else None)
    if not limited:
        monkeypatch.setattr(memory, "available", lambda: need + 1)
    outcomes = strip_files(phantom_stripper, jobs, options)
    assert [outcome.text for outcome in outcomes] == ["stripped"] * 3
    assert watched[1] == [1, 2, 3]


def test_a_probability_takes_memory(tmp_path):
    """Four bytes a voxel while it is made, two copies of them while it becomes bytes, and the bytes."""
    header = volume.read_header(scans(tmp_path)[0].image)
    plain, more = (memory_need.estimate(header, False, 192, probability=wanted) for wanted in (False, True))
    assert more - plain >= 13 * math.prod(header.space)


def test_memory_of_images_side_by_side():
    networks, image = int(memory_need.NETWORK_BYTES), 2**28
    need = networks + image
    assert memory_need.fits_beside(need, [], limit_gib=0.001)  # `check` is for an image alone
    for others in (1, 2):
        least = networks + (1 + others) * image
        assert memory_need.fits_beside(need, [need] * others, limit_gib=least / memory.GIB)
        assert not memory_need.fits_beside(need, [need] * others, limit_gib=(least - 1) / memory.GIB)


def test_messages_and_outcomes_keep_the_order_of_the_jobs(phantom_stripper, tmp_path):
    """Although the next image is read, and found to be odd, before the work on one has ended."""
    jobs = scans(tmp_path, "abcd")
    for name in "acd":
        path = scan(tmp_path / f"{name}.nii", dtype="<f4")
        raw = bytearray(path.read_bytes())
        raw[352:356] = np.float32("nan").tobytes()
        path.write_bytes(raw)
    (tmp_path / "b.nii").write_bytes(b"not an image")
    events = []

    class Listener(logging.Handler):
        def emit(self, record):
            events.append(record.getMessage().partition(":")[0])

    listener = Listener()
    logging.getLogger("singlestrip").addHandler(listener)
    try:
        strip_files(phantom_stripper, jobs, done=lambda outcome: events.append((outcome.number, outcome.failed)))
    finally:
        logging.getLogger("singlestrip").removeHandler(listener)
    a, c, d = (str(tmp_path / f"{name}.nii") for name in "acd")
    assert events == [a, (1, False), (2, True), c, (3, False), d, (4, False)]


def test_debug_raises_the_first_failure_after_what_came_before(phantom_stripper, tmp_path):
    jobs = scans(tmp_path)
    for name in "bc":
        (tmp_path / f"{name}.nii").write_bytes(b"not an image")
    seen = []
    with pytest.raises(InputError, match=r"b\.nii"):
        strip_files(phantom_stripper, jobs, debug=True, done=seen.append)
    assert [(outcome.number, outcome.text) for outcome in seen] == [(1, "stripped")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_mask.nii"]


def test_an_output_that_cannot_be_written_is_the_failure_of_its_image(phantom_stripper, tmp_path, monkeypatch):
    jobs = scans(tmp_path)
    write_like = volume.write_like

    def writing(image, path, *arguments, **options):
        if path.name == "b_mask.nii":
            raise OutputError(f"{path}: cannot be written (no room)")
        write_like(image, path, *arguments, **options)

    monkeypatch.setattr(volume, "write_like", writing)
    texts = [outcome.text for outcome in strip_files(phantom_stripper, jobs)]
    assert texts == ["stripped", f"{jobs[1].outputs['mask']}: cannot be written (no room)", "stripped"]


def test_resume_keeps_what_is_whole(phantom_stripper, tmp_path):
    jobs = plan_folder([scan(tmp_path / f"{n}.nii.gz") for n in "abc"], tmp_path / "out", ("brain", "mask"))
    strip_files(phantom_stripper, jobs)
    good = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    cut, gone, kept = jobs[1].outputs["brain"], jobs[2].outputs["mask"], jobs[0].outputs["mask"]
    cut.write_bytes(good[cut][: len(good[cut]) // 2])
    gone.unlink()
    before = kept.stat().st_mtime_ns
    outcomes = []
    strip_files(phantom_stripper, jobs, resume=True, done=lambda outcome: outcomes.append(outcome.text))
    assert outcomes == ["kept", "stripped", "stripped"]
    assert kept.stat().st_mtime_ns == before
    for path, raw in good.items():
        assert gzip.decompress(path.read_bytes()) == gzip.decompress(raw)
    strip_files(phantom_stripper, jobs, done=lambda outcome: outcomes.append(outcome.text))
    assert outcomes[3:] == ["stripped"] * 3


def test_resume_does_not_keep_the_mask_of_an_image_that_was_replaced(phantom_stripper, tmp_path):
    jobs = plan_folder([scan(tmp_path / "a.nii")], tmp_path / "out", ("mask",))
    strip_files(phantom_stripper, jobs)
    mask = jobs[0].outputs["mask"]
    image = nib.load(tmp_path / "a.nii")
    moved = image.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], moved), tmp_path / "b.nii")
    (tmp_path / "b.nii").replace(tmp_path / "a.nii")
    (outcome,) = strip_files(phantom_stripper, jobs, resume=True)
    assert outcome.text == "stripped"
    np.testing.assert_array_equal(nib.load(mask).affine, moved)
    assert strip_files(phantom_stripper, jobs, resume=True)[0].text == "kept"


def test_what_ends_a_job_belongs_to_it(phantom_stripper, tmp_path):
    """A record that can't be written is the failure of its image alone, and asked for by resume."""
    jobs = plan_folder([scan(tmp_path / f"{n}.nii") for n in "ab"], tmp_path / "out", ("mask",))
    jobs = [replace(job, records={"mask": job.image.with_suffix(".txt")}) for job in jobs]
    seen = []

    def finish(job, kept, quality):
        seen.append((job.image.name, kept))
        if job.image.name == "a.nii" and len(seen) < 3:
            raise OutputError("a.txt: no room")
        job.records["mask"].touch()

    outcomes = strip_files(phantom_stripper, jobs, resume=True, finish=finish)
    assert [outcome.text for outcome in outcomes] == ["a.txt: no room", "stripped"]
    outcomes = strip_files(phantom_stripper, jobs, resume=True, finish=finish)
    assert [outcome.text for outcome in outcomes] == ["stripped", "kept"]
    assert seen == [("a.nii", False), ("b.nii", False), ("a.nii", False), ("b.nii", True)]


# What outputs were made with

MADE = {"SingleStripVersion": "1", "Model": "a.safetensors", "ModelSHA256": "a" * 64}


@pytest.fixture
def resumed(caplog):
    """Resumes a run; returns what became of the jobs, and what was said."""

    def resume(stripper, jobs, options=StripOptions(), made_with=MADE, **more):
        caplog.clear()
        outcomes = strip_files(stripper, jobs, options, resume=True, made_with=made_with, **more)
        return [outcome.text for outcome in outcomes], list(caplog.messages)

    return resume


@pytest.mark.parametrize(
    ("kind", "options", "made_with", "told"),
    [
        ("mask", {"border_mm": 2.0}, {}, "border in mm 0 (now 2)"),
        ("brain", {"border_mm": -1.5}, {}, "border in mm 0 (now -1.5)"),
        ("picture", {"border_mm": 2.0}, {}, "border in mm 0 (now 2)"),
        ("sdt", {"border_mm": 2.0}, {}, ""),  # to the surface before it was moved
        ("brain", {"fill": -5.0}, {}, "fill default (now -5)"),
        ("mask", {"fill": -5.0}, {}, ""),
        ("mask", {"mean_frame": True}, {}, "frames each (now mean)"),
        ("sdt", {"centre_mm": (30.0, -20.0, 0.5)}, {}, "centre in mm default (now 30 -20 0.5)"),
        ("mask", {}, {"SingleStripVersion": "2"}, "version 1 (now 2)"),
        ("mask", {}, {"ModelSHA256": "b" * 64}, "model a.safetensors aaaaaaaa (now a.safetensors bbbbbbbb)"),
        ("mask", {}, {"Model": "copy.safetensors"}, ""),  # another name of the same model
        ("mask", {"memory_gib": 60.0}, {}, ""),
        ("sdt", {}, {"ModelSHA256": "b" * 64, "Model": "b"}, "model a.safetensors aaaaaaaa (now b bbbbbbbb)"),
    ],
)
def test_what_was_made_in_another_way_is_made_anew(
    phantom_stripper, resumed, tmp_path, kind, options, made_with, told
):
    """And back; the way is told once, of whatever number of outputs."""
    distances = [ball(), ball(radius=18.0)] if "mean_frame" in options else [ball()]
    jobs = plan_folder([scan(tmp_path / f"{n}.nii", distances) for n in "ab"], tmp_path / "out", (kind,))
    strip_files(phantom_stripper, jobs, made_with=MADE)
    output = jobs[0].outputs[kind]
    before = output.read_bytes()
    assert resumed(phantom_stripper, jobs) == (["kept"] * 2, [])
    changed = {"options": StripOptions(**options), "made_with": MADE | made_with}
    texts, said = resumed(phantom_stripper, jobs, **changed)
    if not told:
        assert (texts, said) == (["kept"] * 2, [])
        return
    assert texts == ["stripped"] * 2
    assert said == [f"{output}: was made with {told}; making it anew, and all others like it"]
    assert resumed(phantom_stripper, jobs, **changed) == (["kept"] * 2, [])
    if options:
        assert output.read_bytes() != before
    texts, said = resumed(phantom_stripper, jobs)
    assert texts == ["stripped"] * 2 and len(said) == 1
    if kind != "picture":
        assert output.read_bytes() == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".img", ".mgz"])
def test_another_image_in_its_place_is_another_mask(phantom_stripper, resumed, tmp_path, suffix):
    """On the same grid, so that only its content tells; a record without its checksum keeps."""
    first, second = (volume.read(scan(tmp_path / f"{r}.nii", [ball(radius=r)])) for r in (24.0, 15.0))
    image = tmp_path / f"a{suffix}"
    volume.write_like(first, image, first.stored)
    jobs = [job(image, "brain", "mask")]
    assert resumed(phantom_stripper, jobs) == (["stripped"], [])
    assert resumed(phantom_stripper, jobs) == (["kept"], [])
    volume.write_like(second, image, second.stored)
    hidden = [records.hidden_record(path) for path in jobs[0].outputs.values()]
    full = [read_json(path) for path in hidden]
    for path, record in zip(hidden, full, strict=True):
        write_json(path, {key: value for key, value in record.items() if key != "ImageSHA256"})
    assert resumed(phantom_stripper, jobs) == (["kept"], [])
    for path, record in zip(hidden, full, strict=True):
        write_json(path, record)
    texts, (told,) = resumed(phantom_stripper, jobs)
    assert texts == ["stripped"] and f"was made with image {full[0]['ImageSHA256'][:8]} (now " in told
    assert dice(volume.read(jobs[0].outputs["mask"]).stored[..., 0] > 0, ball(radius=15.0) < 0) > 0.9
    assert resumed(phantom_stripper, jobs) == (["kept"], [])


def test_frames_say_nothing_of_an_image_that_has_one(phantom_stripper, resumed, tmp_path):
    jobs = [job(scan(tmp_path / "a.nii"), "mask")]
    assert resumed(phantom_stripper, jobs) == (["stripped"], [])
    assert resumed(phantom_stripper, jobs, StripOptions(mean_frame=True)) == (["kept"], [])
    path = records.hidden_record(jobs[0].outputs["mask"])
    write_json(path, read_json(path) | {"Frames": "mean"})  # as older records have it
    assert resumed(phantom_stripper, jobs) == (["kept"], [])


def test_other_b_values_are_another_mask(phantom_stripper, resumed, diffusion):
    image, bval = diffusion
    jobs = [Job(image, job(image, "mask").outputs, bval)]
    bval.write_text("1000 0 2000 50\n")
    assert resumed(phantom_stripper, jobs) == (["stripped"], [])
    assert resumed(phantom_stripper, jobs) == (["kept"], [])
    bval.write_text("0 51 5 2000\n")
    texts, said = resumed(phantom_stripper, jobs)
    assert texts == ["stripped"] and "b-values" in said[0]
    assert dice(volume.read(jobs[0].outputs["mask"]).stored[..., 0] > 0, ball((14, 12, 9), 12.0) < 0) > 0.9
    texts, said = resumed(phantom_stripper, [replace(jobs[0], bval=None)], StripOptions(mean_frame=True))
    assert texts == ["stripped"] and "frames b=0 (now mean)" in said[0]


def test_outputs_without_a_record_are_kept_and_counted(phantom_stripper, resumed, tmp_path):
    """Of an older version, of another program, or mended by hand."""
    jobs = plan_folder([scan(tmp_path / f"{n}.nii") for n in "abc"], tmp_path / "out", ("mask",))
    strip_files(phantom_stripper, jobs[:1])
    strip_files(phantom_stripper, jobs[1:], made_with=MADE)
    assert not records.hidden_record(jobs[0].outputs["mask"]).exists()
    by_hand = jobs[1].outputs["mask"]
    mask = nib.load(by_hand)
    nib.save(nib.Nifti1Image(1 - np.asarray(mask.dataobj), mask.affine, mask.header), by_hand)
    before = by_hand.read_bytes()
    for options in (StripOptions(border_mm=3), StripOptions()):
        texts, said = resumed(phantom_stripper, jobs, options)
        assert texts == ["kept", "kept", "stripped"]
        assert len(said) == 2 and "2 of the kept outputs have no record" in said[1]
    assert by_hand.read_bytes() == before
    texts, said = resumed(phantom_stripper, jobs)
    assert texts == ["kept"] * 3 and len(said) == 1


def test_a_mask_mended_by_hand_is_not_lost_with_the_brain_beside_it(phantom_stripper, resumed, tmp_path):
    jobs = [job(scan(tmp_path / "a.nii"), "brain", "mask")]
    strip_files(phantom_stripper, jobs, made_with=MADE)
    brain, mask = (jobs[0].outputs[kind] for kind in ("brain", "mask"))
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), VOX2WORLD), mask)
    before = mask.read_bytes()
    texts, said = resumed(phantom_stripper, jobs, StripOptions(border_mm=2))
    assert texts == ["kept"] and mask.read_bytes() == before
    assert (
        said[0] == f"{brain}: was made with border in mm 0 (now 2); kept: another program wrote a file beside it"
    )
    assert said[1].startswith("1 of the kept outputs")
    mask.unlink()
    assert resumed(phantom_stripper, jobs, StripOptions(border_mm=2)) == (["stripped"], [])


def test_what_a_ledger_can_keep(tmp_path, caplog):
    """By hand: what was recorded as it is wanted, what was not begun anew, and what has no record."""
    todo = job(scan(tmp_path / "a.nii"), "mask", "sdt")
    for path in todo.outputs.values():
        path.write_bytes(b"made")
    plain, wide = Ledger(MADE, StripOptions()), Ledger(MADE, StripOptions(border_mm=2.0))
    assert plain.wanted(todo)["mask"].keys() == {*MADE, "ImageSHA256"}
    assert wide.wanted(todo) == {
        "mask": plain.wanted(todo)["mask"] | {"BorderMM": 2.0},
        "sdt": plain.wanted(todo)["sdt"],  # to the surface before it was moved
    }
    said = []

    def keeps(ledger):
        return ledger.can_keep(todo, ledger.wanted(todo), said.append)

    assert keeps(plain) and plain.unknown == 2  # no records
    plain.begin(todo)
    assert not keeps(plain)  # as where a run ended before they were finished
    plain.finish(todo, plain.wanted(todo), {})
    assert keeps(plain) and plain.unknown == 2
    assert not said
    told = f"{todo.outputs['mask']}: was made with border in mm 0 (now 2)"
    for _ in range(2):  # said once
        assert not keeps(wide)
        assert said == [f"{told}; making it anew, and all others like it"]
    todo.outputs["sdt"].write_bytes(b"mended by hand")
    assert keeps(wide) and wide.unknown == 1
    assert said[1:] == [f"{told}; kept: another program wrote a file beside it"]
    plain.begin(todo)
    assert not keeps(plain)
    Ledger(MADE, StripOptions()).warn_of_unknown()
    assert not caplog.messages
    wide.warn_of_unknown()
    assert len(caplog.messages) == 1 and "1 of the kept outputs have no record" in caplog.messages[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"ModelSHA256": 3', b"\xff\xfe", b"{}"])
def test_a_record_that_cannot_be_read_is_none(phantom_stripper, resumed, tmp_path, content):
    jobs = [job(scan(tmp_path / "a.nii"), "mask")]
    strip_files(phantom_stripper, jobs, made_with=MADE)
    records.hidden_record(jobs[0].outputs["mask"]).write_bytes(content)
    texts, said = resumed(phantom_stripper, jobs, StripOptions(border_mm=2))
    assert texts == ["kept"] and "1 of the kept outputs have no record" in said[0]


@pytest.mark.parametrize("place", ["write_like", "finish_record"])
def test_what_a_killed_run_left_is_made_anew(phantom_stripper, resumed, tmp_path, monkeypatch, place):
    """Before or after the mask stands: it is not told apart from the one of the run before by what it holds."""
    jobs = [job(scan(tmp_path / "a.nii"), "mask")]
    strip_files(phantom_stripper, jobs, made_with=MADE)
    first = jobs[0].outputs["mask"].read_bytes()

    def kill(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(volume if place == "write_like" else records, place, kill)
        with pytest.raises(KeyboardInterrupt):
            resumed(phantom_stripper, jobs, StripOptions(border_mm=6))
    assert (jobs[0].outputs["mask"].read_bytes() == first) == (place == "write_like")
    assert resumed(phantom_stripper, jobs) == (["stripped"], [])
    assert jobs[0].outputs["mask"].read_bytes() == first
    assert resumed(phantom_stripper, jobs) == (["kept"], [])


def test_a_failure_leaves_outputs_and_their_records(phantom_stripper, resumed, tmp_path):
    jobs = [job(scan(tmp_path / "a.nii"), "mask")]
    strip_files(phantom_stripper, jobs, made_with=MADE)
    path = records.hidden_record(jobs[0].outputs["mask"])
    before = path.read_bytes(), jobs[0].outputs["mask"].read_bytes()
    (text,), _ = resumed(phantom_stripper, jobs, StripOptions(border_mm=-99))
    assert "leaves no brain" in text
    assert (path.read_bytes(), jobs[0].outputs["mask"].read_bytes()) == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".img", ".hdr", ".mgz"])
def test_records_of_every_format(phantom_stripper, resumed, tmp_path, suffix):
    todo = Job(scan(tmp_path / "a.nii"), {"mask": tmp_path / f"{'m' * 200}{suffix}"})
    strip_files(phantom_stripper, [todo], made_with=MADE)
    assert resumed(phantom_stripper, [todo]) == (["kept"], [])
    hidden = [path.name for path in (tmp_path / ".singlestrip").iterdir()]
    assert len(hidden) == 1 and hidden[0].endswith(".json") and not volume.suffix_of(Path(hidden[0]))
    assert resumed(phantom_stripper, [todo], StripOptions(border_mm=6))[0] == ["stripped"]
    mask = nib.load(todo.outputs["mask"])
    nib.save(type(mask)(np.zeros(SHAPE, np.uint8), mask.affine, mask.header), todo.outputs["mask"])
    texts, said = resumed(phantom_stripper, [todo])
    assert texts == ["kept"] and "1 of the kept outputs" in said[0]


@pytest.mark.parametrize("left, refused", [(10, False), (0.01, True), (None, False)])
def test_memory_of_the_machine(tmp_path, monkeypatch, left, refused):
    image = volume.read(scan(tmp_path / "a.nii"))
    monkeypatch.setattr(memory, "available", lambda: left and int(left * memory.GIB))
    if refused:
        with pytest.raises(InputError, match=r"a.nii: needs about .* GiB of memory"):
            memory_need.check(image, sdt=True, window_mm=192)
    else:
        memory_need.check(image, sdt=True, window_mm=192)


def test_memory_limit(phantom_stripper, tmp_path):
    image = scan(tmp_path / "a.nii")
    strip_file(phantom_stripper, job(image, "mask"), StripOptions(memory_gib=4))
    with pytest.raises(InputError, match=r"over the limit of 0\.5 GiB"):
        strip_file(phantom_stripper, job(image, "mask"), StripOptions(memory_gib=0.5))


def test_border_takes_the_memory_of_distances(phantom_stripper, tmp_path):
    image = scan(tmp_path / "a.nii")
    window_mm = phantom_stripper.config.window_mm
    limit = (memory_need.estimate(volume.read(image), False, window_mm) + 1) / memory.GIB
    strip_file(phantom_stripper, job(image, "mask"), StripOptions(memory_gib=limit))
    for options, kind in (
        (StripOptions(border_mm=1, memory_gib=limit), "mask"),
        (StripOptions(memory_gib=limit), "sdt"),
    ):
        with pytest.raises(InputError, match="over the limit"):
            strip_file(phantom_stripper, job(image, kind), options)


def test_memory_of_a_map_of_doubt(tmp_path, monkeypatch):
    """The map of each frame, and one vote beside it; without a quality network there is none."""
    image = volume.read(scan(tmp_path / "a.nii", [ball()] * 4))
    need = [memory_need.estimate(image, False, 192, doubt=doubt) for doubt in (False, True)]
    assert need[1] - need[0] >= 4 * image.stored.size + 8 * image.stored[..., 0].size
    monkeypatch.setattr(memory, "available", lambda: 4 * image.stored.size)
    with pytest.raises(InputError, match=r"a\.nii: needs about .*; leave out the map of doubt"):
        memory_need.check_map(image, 4)


def test_a_map_of_doubt_needs_a_quality_network(phantom_stripper, tmp_path):
    todo = job(scan(tmp_path / "a.nii"), "mask", "doubt")
    with pytest.raises(InputError, match=r"a\.nii: a map of doubt needs a quality network"):
        strip_file(phantom_stripper, todo)
    assert not todo.outputs["mask"].exists()


def test_memory_estimate_grows(tmp_path):
    def need(scan, sdt=False, window_mm=192):
        return memory_need.estimate(scan, sdt, window_mm)

    one, four = volume.read(scan(tmp_path / "a.nii")), volume.read(scan(tmp_path / "b.nii", [ball()] * 4))
    assert need(one) > one.stored.nbytes
    # The distance itself and the three indices of the nearest voxel take 16 bytes a voxel.
    assert need(one, sdt=True) - need(one) >= 16 * one.stored.size
    assert need(four) - need(one) >= 3 * one.stored.nbytes
    # Within the window a voxel has a logit and a component's number, 8 bytes; beyond it none.
    assert need(one) - need(one, window_mm=0) >= 8 * one.stored.size
    assert need(one, window_mm=10_000) == need(one, window_mm=5_000)


@pytest.mark.parametrize(
    "dtype, scaling, least",
    [
        ("<i2", None, 0),
        ("<f4", None, 0),
        ("<u2", None, 4),
        ("<f8", None, 4),
        ("<i8", None, 12),
        ("<i2", (0.5, 1), 8),
    ],
)
def test_memory_of_values_that_mgh_does_not_hold_as_they_are(phantom_stripper, tmp_path, dtype, scaling, least):
    """Bytes a voxel that the brain image takes on its way to MGH, and to MGH alone."""
    image = scan(tmp_path / "a.nii", dtype=dtype, scaling=scaling)
    header = volume.read_header(image)
    window_mm = phantom_stripper.config.window_mm
    need = {mgh: memory_need.estimate(header, False, window_mm, mgh) for mgh in (False, True)}
    assert (need[True] == need[False]) == (least == 0)
    assert need[True] - need[False] >= least * np.prod(header.shape)
    limit = StripOptions(memory_gib=(need[False] + 1) / memory.GIB)
    strip_file(phantom_stripper, job(image, "brain"), limit)
    in_mgh = Job(image, {"brain": tmp_path / "b.mgz"})
    if least:
        with pytest.raises(InputError, match="over the limit"):
            strip_file(phantom_stripper, in_mgh, limit)
    strip_file(phantom_stripper, in_mgh, StripOptions(memory_gib=(need[True] + 1) / memory.GIB))


def names(jobs, folder):
    return [{kind: str(path.relative_to(folder)) for kind, path in job.outputs.items()} for job in jobs]


def test_names_in_a_folder(tmp_path):
    images = [Path("x/a.nii.gz"), Path("y/b.mgz"), Path("y/c.d.img")]
    assert names(plan_folder(images, tmp_path, ("brain", "picture")), tmp_path) == [
        {"brain": "a_brain.nii.gz", "picture": "a_picture.png"},
        {"brain": "b_brain.mgz", "picture": "b_picture.png"},
        {"brain": "c.d_brain.img", "picture": "c.d_picture.png"},
    ]
    assert names(plan_folder(images[:1], tmp_path / "new", ("mask",), ".mgz"), tmp_path / "new") == [
        {"mask": "a_mask.mgz"}
    ]
    assert (tmp_path / "new").is_dir()


def test_same_names_keep_their_folders(tmp_path):
    jobs = plan_folder([Path("s/1/t1.nii"), Path("s/2/t1.nii"), Path("s/2/t2.nii")], tmp_path, ("mask",))
    assert names(jobs, tmp_path) == [{"mask": f"{n}_mask.nii"} for n in ("1/t1", "2/t1", "2/t2")]
    assert (tmp_path / "1").is_dir() and (tmp_path / "2").is_dir()


@pytest.mark.parametrize(
    "images, sentence",
    [
        (["a.nii", "b.nii", "./a.nii"], "a.nii: named more than once"),
        (["x/../a.nii", "a.nii"], "named more than once"),
    ],
)
def test_names_that_clash(tmp_path, images, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_folder([Path(i) for i in images], tmp_path, ("mask",))


def test_an_image_named_again_is_taken_once_and_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.img").touch()
    (tmp_path / "link.nii").symlink_to("a.nii")
    images = [Path(name) for name in ("a.nii", "p.hdr", "b.nii", "x/../a.nii", "p.img", "a.nii", "link.nii")]
    images.append(tmp_path / "a.nii")
    expected = [Path(name) for name in ("a.nii", "b.nii", "p.img", "link.nii")]
    assert take_images(images) == expected
    assert caplog.messages == ["x/../a.nii: named more than once; it is taken once"]
    caplog.clear()
    assert take_images([Path("p.hdr"), Path("p.hdr")]) == [Path("p.img")]
    assert caplog.messages == ["p.img: named more than once; it is taken once"]
    assert take_images([Path("b.nii"), Path("a.nii")]) == [Path("b.nii"), Path("a.nii")]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_images_that_would_write_one_file_fail_and_the_others_go_on(phantom_stripper, tmp_path, resume):
    images = [scan(tmp_path / name) for name in ("a.nii", "b.nii", "a.nii.gz")]
    jobs = plan_folder(images, tmp_path / "out", ("mask",), ".nii")
    if resume:  # what is there is of one of them, nobody knows of which
        volume.write_like(volume.read(images[0]), jobs[0].outputs["mask"], np.ones((*SHAPE, 1), np.uint8))
    texts = [outcome.text for outcome in strip_files(phantom_stripper, jobs, resume=resume)]
    output = tmp_path / "out/a_mask.nii"
    assert texts[1] == "stripped"
    for text, one, other in ((texts[0], *images[::2]), (texts[2], *images[::-2])):
        assert text.startswith(f"{one}: its output {output} is also that of {other}; rename one")
    assert output.exists() == resume
    with pytest.raises(OutputError, match="its output"):
        strip_file(phantom_stripper, jobs[0])
    assert not any(job.fault for job in plan_folder(images, tmp_path / "out", ("mask",)))
    assert [bool(job.fault) for job in plan_folder(images, tmp_path / "o", ("picture",))] == [True, False, True]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        plan_folder([Path("a.nii")], tmp_path / "file", ("mask",))


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# scans\n\n  a.nii \n/b c.nii.gz\n  # more\n")
    assert read_list(path) == [Path("a.nii"), Path("/b c.nii.gz")]
    for content in (b"", b"# none\n", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"list\.txt"):
            read_list(path)
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_list(tmp_path / "gone.txt")


def test_inputs_are_never_overwritten(phantom_stripper, tmp_path):
    """However the same file is named: by a link, as the other file of a pair, or as another job's output."""
    image = scan(tmp_path / "a.nii")
    before = image.read_bytes()
    link = tmp_path / "link.nii"
    link.symlink_to(image)
    for output in (image, link, tmp_path / "x" / ".." / "a.nii"):
        with pytest.raises(OutputError, match="is an input"):
            strip_file(phantom_stripper, Job(image, {"mask": output}))
    with pytest.raises(OutputError, match="two outputs"):
        strip_file(phantom_stripper, Job(image, {"mask": tmp_path / "m.img", "brain": tmp_path / "m.hdr"}))
    with pytest.raises(OutputError, match=r"a_mask.nii: is an input"):
        plan_folder([image, scan(tmp_path / "a_mask.nii")], tmp_path, ("mask",))
    assert image.read_bytes() == before


def test_lists_of_any_bytes(tmp_path):
    """Lines end at line feeds alone, and every line is a path, whatever is wrong with it."""
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"caf\xe9.nii\nform\x0cfeed\x85.nii\nc\rr.nii\r\n~no-such-user/x.nii\nnul\0.nii\n" + b"x" * 5000
    )
    expected = [
        b"caf\xe9.nii",
        b"form\x0cfeed\x85.nii",
        b"c\rr.nii",
        b"~no-such-user/x.nii",
        b"nul\0.nii",
        b"x" * 5000,
    ]
    assert [os.fsencode(image) for image in read_list(path)] == expected


def test_what_is_no_list(tmp_path):
    image = scan(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz: an image by its name; a list is"):
        read_list(image)
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.nii\n" + b"x" * 40_000)
    with pytest.raises(InputError, match="more than 32768 bytes"):
        read_list(path)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match=f"{device}: cannot be read as a list of paths .a device"):
            read_list(Path(device))


def test_a_list_from_a_pipe():
    read, write = os.pipe()
    os.write(write, b"a.nii\nb.nii\n")
    os.close(write)
    assert read_list(Path(f"/dev/fd/{read}")) == [Path("a.nii"), Path("b.nii")]
    os.close(read)


def test_a_written_list_can_be_read(tmp_path):
    path = tmp_path / "list.txt"
    images = [
        "#1.nii",
        "~.nii",
        "~no-such-user/a",
        " a b.nii",
        "c\rr.nii",
        "\ufeffa.nii",
        "/x/\udcff.nii",
        "\ta.nii",
    ]
    images = [Path(image) for image in images]
    write_list(path, images)
    assert read_list(path) == images
    before = path.stat().st_ino
    write_list(path, images)
    assert path.stat().st_ino == before  # what depends on it does not have to be made again
    write_list(path, images[1:])
    assert read_list(path) == images[1:]
    for name in ("a\nb.nii", "a ", "a\r"):
        with pytest.raises(InputError, match="no list can hold"):
            write_list(path, [Path(name)])


@pytest.mark.parametrize("cased", [str.lower, str.upper])
def test_a_pair_has_one_name_whichever_file_is_named(phantom_stripper, resumed, tmp_path, cased):
    """Also where resume looks for the record of what it was made with."""
    image = scan(tmp_path / "a.nii")
    files = [tmp_path / f"p{cased(ending)}" for ending in (".img", ".hdr")]
    volume.write_like(volume.read(image), files[0], volume.read(image).stored)
    assert volume.merge_pairs([files[1]]) == volume.merge_pairs(files) == files[:1]
    plans = [plan_folder(volume.merge_pairs([file]), tmp_path / "out", ("mask",)) for file in files]
    assert plans[0] == plans[1]
    for first, second in (files, files[::-1]):
        jobs = [Job(image, {"mask": file.with_stem("m")}) for file in (first, second)]
        strip_files(phantom_stripper, jobs[:1], made_with=MADE)
        texts, said = resumed(phantom_stripper, jobs[1:], StripOptions(border_mm=6))
        assert texts == ["stripped"] and "border in mm 0 (now 6)" in said[0]
        assert resumed(phantom_stripper, jobs[:1], StripOptions(border_mm=6)) == (["kept"], [])


def test_a_pair_is_one_image(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_text("a.hdr\na.img\nb.hdr\nc.img\nd/a.img\n./d/../d/a.hdr\ne.IMG\ne.HDR\n")
    images = [Path(name) for name in ("a.img", "b.hdr", "c.img", "d/a.img", "e.IMG")]
    assert read_list(path) == images
    assert len(plan_folder(images, tmp_path / "out", ("mask",))) == 5


def test_images_in_folders(tmp_path):
    """Not what is hidden, nor what was made of them; a link to what is not there is an image that will fail."""
    names = (
        "b.nii",
        "a/b.nii.gz",
        "a/.hidden.nii",
        ".git/c.nii",
        "a/p.img",
        "a/p.hdr",
        "q.hdr",
        "x.txt",
        "out/m.nii",
    )
    for name in (*names, "a/.aaaaaaaa-partial-b.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.nii").symlink_to("not-fetched")
    (tmp_path / "folder.nii").mkdir()
    found = images_below(tmp_path, leave_out=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/b.nii.gz", "a/p.img", "b.nii", "gone.nii"]
    with pytest.raises(InputError, match="the folder of the outputs"):
        images_below(tmp_path, leave_out=tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        images_below(tmp_path / "nowhere", leave_out=tmp_path)


def test_images_whose_outputs_no_folder_can_hold(phantom_stripper, tmp_path):
    """They fail when their turn comes; before the image is read."""
    good = scan(tmp_path / "good.nii")
    odd = ["nul\0.nii", "x" * 250 + ".nii", "loop.nii", "/", ".nii", "d" * 300 + "/good.nii"]
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    images = [tmp_path / name for name in odd] + [good]
    outcomes = strip_files(phantom_stripper, plan_folder(images, tmp_path / "out", ("mask",)))
    assert [outcome.failed for outcome in outcomes] == [True] * len(odd) + [False]
    assert not any("unexpected" in outcome.text for outcome in outcomes)
    assert outcomes[0].text.startswith(f"{images[0]}: no file can have this name")
    written = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.nii")]
    assert [path.name for path in written] == ["good_mask.nii"]
    assert not list(tmp_path.glob("*_mask*"))


def test_lists_from_other_systems(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.nii\r\n~/b.nii\r\n")
    assert read_list(path) == [Path("a.nii"), tmp_path / "b.nii"]


# Frames that count


@pytest.fixture
def diffusion(tmp_path):
    """Four frames: brain at the middle in the second and fourth, elsewhere and brighter in the others."""
    there, away = ball(), ball((14, 12, 9), 12.0)
    image = scan(tmp_path / "dwi.nii.gz", [away, there, away, there])
    return image, tmp_path / "dwi.bval"


def test_one_mask_from_the_mean_of_the_frames_of_b0(phantom_stripper, diffusion):
    image, bval = diffusion
    bval.write_text("1000 0 2000 50\n")
    todo = Job(image, job(image, "mask", "brain").outputs, bval)
    strip_file(phantom_stripper, todo)
    mask, brain = (volume.read(todo.outputs[kind]) for kind in ("mask", "brain"))
    assert mask.shape == SHAPE and brain.shape == (*SHAPE, 4)
    assert dice(mask.stored[..., 0] > 0, ball() < 0) > 0.97
    bval.write_text("0 51 5 2000\n")
    strip_file(phantom_stripper, todo)
    assert dice(volume.read(todo.outputs["mask"]).stored[..., 0] > 0, ball((14, 12, 9), 12.0) < 0) > 0.9


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no such file"),
        ("0 1000 2000", "3 b-values"),
        ("0 1000 2000 nan", "number"),
        ("0 1000 b 2000", "cannot be read as b-values"),
        ("1000 700 51 2000", "no frame has a b-value up to 50"),
        ("0 " * 600_000, "larger than 1 MiB"),
    ],
)
def test_b_values_that_do_not_fit(text, part, phantom_stripper, diffusion):
    image, bval = diffusion
    if text is not None:
        bval.write_text(text)
    with pytest.raises(InputError, match=f"dwi.bval.*{part}"):
        strip_file(phantom_stripper, Job(image, job(image, "mask").outputs, bval))


def test_an_image_of_one_frame_has_a_b_value_too(phantom_stripper, tmp_path):
    image, bval = scan(tmp_path / "a.nii.gz"), tmp_path / "a.bval"
    todo = Job(image, job(image, "mask").outputs, bval)
    with pytest.raises(InputError, match="no such file"):
        strip_file(phantom_stripper, todo)
    bval.write_text("1000")
    with pytest.raises(InputError, match="no frame has a b-value"):
        strip_file(phantom_stripper, todo)
    bval.write_text("0")
    strip_file(phantom_stripper, todo)
    assert volume.read(todo.outputs["mask"]).stored.any()
