"""What sdist and wheel hold; and, where it is asked for, both built and used without the source tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or later is not installed")

ROOT = Path(__file__).parents[1]
BESIDE_THE_CODE = {  # the only files of an sdist outside the package, its weights and setuptools' own
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml",
    "requirements-strip.txt", "setup.py",
}  # fmt: skip
KEPT_OUT = {"tissues.tsv", "training.csv", "training.png"}  # files of models/ that no installation reads
MUST_STAY_OUT = ("tests/test_one.py", "tests/phantoms.py", "benchmarks/one.py", "docs/make.py", "out/mask.nii.gz")
COMPILED = "__pycache__"


def files_below(folder: Path) -> set[str]:
    """The paths of the files below a folder, from there on, without what Python has compiled."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if COMPILED not in path.parts}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the files of the source tree that a package may take, and of some that it must not."""
    folder = tmp_path_factory.mktemp("package") / "tree"
    for name in ("singlestrip", "models"):
        ignore = shutil.ignore_patterns(COMPILED)
        shutil.copytree(ROOT / name, folder / name, ignore=ignore, copy_function=os.symlink)
    for name in BESIDE_THE_CODE | {"constraints.txt"}:
        shutil.copy(ROOT / name, folder)
    for name in MUST_STAY_OUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def run_setup(tree: Path, *arguments: object) -> None:
    """Run one of setuptools' commands in a tree."""
    line = [sys.executable, "setup.py", "-q", *map(str, arguments)]
    subprocess.run(line, cwd=tree, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def package_files() -> set[str]:
    """What an installation needs, by its path in a wheel."""
    code = {f"singlestrip/{name}" for name in files_below(ROOT / "singlestrip")}
    return code | {f"singlestrip/models/{name}" for name in files_below(ROOT / "models") - KEPT_OUT}


def test_a_wheel_holds_the_package_and_the_weights_alone(tree, tmp_path):
    run_setup(tree, "build", "--build-base", tmp_path / "base", "--build-lib", tmp_path / "wheel")
    found = files_below(tmp_path / "wheel")
    assert found == package_files()
    weights = {name for name in found if name.endswith(".safetensors")}
    assert {"singlestrip/models/singlestrip.safetensors", "singlestrip/models/quality.safetensors"} <= weights


def test_an_sdist_holds_no_tests(tree, tmp_path):
    run_setup(tree, "egg_info", "--egg-base", tmp_path)
    listed = set((tmp_path / "singlestrip.egg-info/SOURCES.txt").read_text().splitlines())
    found = {name for name in listed if ".egg-info/" not in name}
    expected = {name.replace("singlestrip/models/", "models/") for name in package_files()}
    assert found == expected | BESIDE_THE_CODE


def test_the_release_makes_every_link_of_the_readme_absolute(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    step = next(step for step in workflow["jobs"]["package"]["steps"] if "README" in step.get("name", ""))
    shutil.copy(ROOT / "README.md", tmp_path)
    names = {"GITHUB_REPOSITORY": "owner/name", "GITHUB_REF_NAME": "v1.2.3"}
    subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path, env=os.environ | names, check=True)
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20 and all(link.startswith("https://") for _, link in links)
    assert ("!", "https://raw.githubusercontent.com/owner/name/v1.2.3/docs/figures/strip.png") in links
    assert ("", "https://github.com/owner/name/blob/v1.2.3/docs/benchmarks.md#lesions") in links


@pytest.mark.slow
def test_sdist_and_wheel_strip_a_scan_without_the_source_tree():
    if not os.environ.get("SINGLESTRIP_TEST_PACKAGE"):
        pytest.skip("fetches what the package needs: set SINGLESTRIP_TEST_PACKAGE to a folder to work in")
    subprocess.run([ROOT / "bin/test-package", os.environ["SINGLESTRIP_TEST_PACKAGE"]], check=True)
