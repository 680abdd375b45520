"""Clusters for real: job arrays and the workflow, on a SLURM of one node and on local cores, with a job killed."""

import csv
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import pytest
import slurm
from phantoms import make_head, threshold_cascade

import singlestrip
from singlestrip.batch.records import hidden_record
from singlestrip.io.images import volume
from singlestrip.io.text.json_file import read_json
from singlestrip.networks import checkpoint
from singlestrip.space.metrics import dice

ROOT = Path(singlestrip.__file__).parents[1]
WORKFLOW = ROOT / "workflow"
COMMAND = f"{sys.executable} -m singlestrip"
COUNT = 20
LARGE = (
    "s05"  # takes seconds: what kills its process surely comes on the way. It is the second scan of part 2 of 4
)

needs_workflow = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("snakemake", "snakemake_executor_plugin_slurm")))
    or not WORKFLOW.is_dir(),
    reason="snakemake and its SLURM plugin are not here: pip install '.[workflow]' with Python 3.11 or later",
)
needs_slurm = pytest.mark.skipif(slurm.why_not() is not None, reason=f"{slurm.why_not()}")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder,
        slurm.running_slurm(Path(folder)) as it,
    ):
        yield it


@pytest.fixture(scope="module")
def small():
    return make_head()


@pytest.fixture(scope="module")
def large():
    return make_head(200, spacing_mm=192 / 200)


@pytest.fixture
def scans(small, large, tmp_path, monkeypatch):
    """20 scans in scans/, a list of them, and a model that knows them, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("scans").mkdir()
    for number in range(COUNT):
        head = large if f"s{number:02}" == LARGE else small
        nib.save(nib.Nifti1Image(head.image, head.vox2world), f"scans/s{number:02}.nii")
    Path("list.txt").write_text("".join(f"scans/s{number:02}.nii\n" for number in range(COUNT)))
    checkpoint.save_model(tmp_path / "model.safetensors", threshold_cascade(), {})
    return tmp_path


def check_masks(folder, small, large, names=tuple(f"s{number:02}" for number in range(COUNT))):
    """All masks are there, whole and right, and nothing half written beside them."""
    found = {path.name for path in Path(folder).iterdir() if path.suffix != ".tsv" and path.is_file()}
    assert found == {f"{name}_mask.nii" for name in names}
    for name in names:
        mask = volume.read(Path(folder, f"{name}_mask.nii")).frame(0) > 0
        assert dice(mask, (large if name == LARGE else small).mask) > 0.95


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def kill_on_the_way(cluster, find_job):
    """Kill, by no signal that it could hear, the job that has done s01 and is at work on the large scan."""
    slurm.wait_until(lambda: any(Path().glob("**/s01_mask.nii")), 120, every=0.02)
    cluster.run("scancel", "--full", "--signal=KILL", find_job())
    assert not any(Path().glob(f"**/{LARGE}_mask.nii"))


@needs_slurm
def test_job_array(cluster, scans, small, large, monkeypatch):
    """The manual's script, submitted twice."""
    command = scans / "bin" / "singlestrip"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {COMMAND} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    script = str(ROOT / "docs" / "strip-array.sbatch")
    submission = ("--array=1-4", script, "list.txt", "masks", "--model", "model.safetensors")
    job = cluster.submit(*submission)
    kill_on_the_way(cluster, lambda: f"{job}_2")
    states = cluster.wait(job)
    assert states.pop(f"{job}_2") != "COMPLETED" and set(states.values()) == {"COMPLETED"} and len(states) == 3
    done = {path: path.stat().st_mtime_ns for path in Path("masks").glob("s*_mask.nii")}
    unfinished = {
        path for path in done if read_json(hidden_record(path)).get("OutputSHA256") is None
    }  # when killed
    missing = {f"s{number:02}_mask.nii" for number in (5, 9, 13, 17)}
    assert {path.name for path in done} == {f"s{number:02}_mask.nii" for number in range(COUNT)} - missing

    job = cluster.submit(*submission)
    assert set(cluster.wait(job).values()) == {"COMPLETED"}
    check_masks("masks", small, large)
    changed = {path for path, written in done.items() if path.stat().st_mtime_ns != written}
    assert changed <= unfinished and len(unfinished) <= 1
    tables = [rows(f"masks/qc-{number}-of-4.tsv") for number in (1, 2, 3, 4)]
    images = {row["image"] for table in tables for row in table}
    assert images == set(Path("list.txt").read_text().split()) and {len(table) for table in tables} == {5}


def start_workflow(*arguments: str, environment=None, **config) -> subprocess.Popen:
    values = {"model": "model.safetensors", "threads": 1, "chunk": 5, "singlestrip": COMMAND} | config
    command = [sys.executable, "-m", "snakemake", "--snakefile", WORKFLOW / "Snakefile", *arguments]
    command += ["--config", *(f"{name}={value}" for name, value in values.items())]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and output."""
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@needs_workflow
def test_workflow_on_local_cores(scans, small, large):
    """A scan that fails is in the table, and all that the next run tries."""
    Path("scans/.0123abcd-partial-s00.nii").write_bytes(Path("scans/s00.nii").read_bytes())  # a killed process's
    broken = Path("scans/s13.nii")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:3000])
    status, output = finish(start_workflow("--cores", "2", folder="scans"))
    assert status != 0 and "19 masks, 1 failures" in output
    others = tuple(f"s{number:02}" for number in range(COUNT) if number != 13)
    check_masks("stripped/masks", small, large, others)
    table = rows("stripped/qc.tsv")
    assert len(table) == COUNT
    assert [row["image"] for row in table if row["note"]] == ["scans/s13.nii"]
    assert "s13.nii: cut short" in Path("stripped/report/index.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in Path("stripped/masks").rglob("*") if path.is_file()}

    status, output = finish(start_workflow("--cores", "2", folder="scans"))
    assert status != 0 and output.count("rule strip:") == 1  # it fails again, and is tried again
    broken.write_bytes(whole)
    status, output = finish(start_workflow("--cores", "2", folder="scans"))
    assert status == 0 and output.count("rule strip:") == 1 and "20 masks, 0 failures" in output
    check_masks("stripped/masks", small, large)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = rows("stripped/qc.tsv")
    assert len(table) == COUNT and not any(row["note"] for row in table)
    page = Path("stripped/report/index.html").read_text()
    assert "damaged" not in page and all(f"s{number:02}" in page for number in range(COUNT))

    status, output = finish(start_workflow("--cores", "2", folder="scans"))
    assert status == 0 and "rule strip:" not in output and "rule gather:" not in output


@needs_workflow
def test_workflow_of_a_bids_data_set(scans):
    pytest.importorskip("singlestrip.bids.app")
    pytest.importorskip("ancpbids")
    for name in ("01", "02"):
        folder = Path(f"data/sub-{name}/anat")
        folder.mkdir(parents=True)
        (folder / f"sub-{name}_T1w.nii").write_bytes(Path("scans/s00.nii").read_bytes())
    Path("data/dataset_description.json").write_text('{"Name": "made up", "BIDSVersion": "1.9.0"}')
    status, output = finish(start_workflow("--cores", "1", bids="data"))
    assert status == 0, output
    assert {Path(row["image"]).name for row in rows("stripped/qc.tsv")} == {"sub-01_T1w.nii", "sub-02_T1w.nii"}


@needs_workflow
@pytest.mark.parametrize(
    "config, sentence",
    [
        ({}, "one of list, folder and bids"),
        ({"list": "list.txt", "folder": "scans"}, "one of list, folder and bids"),
        ({"list": "missing.txt"}, "missing.txt"),
        ({"folder": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_workflow_without_scans(scans, config, sentence):
    status, output = finish(start_workflow("--cores", "1", **config))
    assert status != 0 and sentence in output


@needs_workflow
@needs_slurm
def test_workflow_on_slurm(cluster, scans, small, large):
    """Every chunk a job; one is killed, and the workflow tries it again by itself."""

    def second_chunk() -> str:
        lines = cluster.run("squeue", "--states=running", "-h", "-o", "%i %k").splitlines()
        (job,) = [line.split()[0] for line in lines if "strip" in line and "2_4" in line]
        return job

    profile = ("--profile", str(WORKFLOW / "profiles" / "slurm"), "--latency-wait", "5")
    quick = ("--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue")  # no accounting
    process = start_workflow(*profile, *quick, environment=cluster.environment, list="list.txt")
    try:
        kill_on_the_way(cluster, second_chunk)
        status, output = finish(process)
    finally:
        process.kill()
    assert status == 0, output
    assert "Trying to restart" in output and "20 masks, 0 failures" in output
    check_masks("stripped/masks", small, large)
    assert len(rows("stripped/qc.tsv")) == COUNT and Path("stripped/report/index.html").is_file()
    states = cluster.run("squeue", "--states=all", "-h", "-o", "%T %k").splitlines()
    chunks = [line.split()[0] for line in states if "strip" in line]
    assert len(chunks) == 5 and chunks.count("COMPLETED") == 4
