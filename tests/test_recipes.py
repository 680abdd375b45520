"""The recipes for other indexes and programs: against the package, and read by the tools that can be had."""

import re
from pathlib import Path

import pytest

import singlestrip

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
CONDA = RECIPES / "conda-forge/recipe.yaml"
NEURODESK = RECIPES / "neurodesk/singlestrip"
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "isal": "python-isal"}


def read(path: Path) -> dict:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project_list(name: str) -> list[str]:
    """A list of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"(.+?)"', re.search(rf"^{name} = \[(.+?)\]$", text, re.M | re.S)[1])


# conda-forge


def test_conda_has_the_version_and_the_dependencies_of_the_package():
    recipe = read(CONDA)
    assert recipe["context"]["version"] == singlestrip.__version__
    expected = set()
    for line in project_list("dependencies"):
        name, lowest = line.split(">=")
        expected.add(f"{CONDA_NAMES.get(name, name)} >={lowest}")
    assert set(recipe["requirements"]["run"]) - {"__unix", "python >=${{ python_min }}"} == expected
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={recipe["context"]["python_min"]}"' in text


def test_conda_has_the_programs_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    programs = re.search(r"^\[project\.scripts\]\n(.+?)\n\n", text, re.M | re.S)[1].replace('"', "").splitlines()
    assert read(CONDA)["build"]["python"]["entry_points"] == programs


def test_rattler_build_renders_the_conda_recipe():
    rattler_build = pytest.importorskip("rattler_build", reason="py-rattler-build is not installed")
    recipe = rattler_build.Stage0Recipe.from_file(CONDA)
    for platform in ("linux-64", "linux-aarch64", "osx-64", "osx-arm64"):
        config = rattler_build.RenderConfig(rattler_build.PlatformConfig(target_platform=platform))
        [variant] = recipe.render(rattler_build.VariantConfig(), config)
        rendered = variant.recipe.to_dict()
        assert rendered["package"] == {"name": "singlestrip", "version": singlestrip.__version__}


# Neurodesk


def test_neurodesk_has_the_version():
    assert read(NEURODESK / "build.yaml")["version"] == singlestrip.__version__
    tests = (NEURODESK / "fulltest.yaml").read_text(encoding="utf-8")
    found = re.findall(r"(?:version: |singlestrip[-_ ])(\d+\.\d+\.\d+)", tests)
    assert len(found) == 4 and set(found) == {singlestrip.__version__}


def test_neurodesk_has_what_its_builder_asks_for():
    recipe = read(NEURODESK / "build.yaml")
    assert re.fullmatch(r"data:image/png;base64,[\w+/]+=*", recipe["icon"])
    assert recipe["build"]["kind"] == "neurodocker" and recipe["build"]["pkg-manager"] == "apt"
    assert recipe["architectures"] == ["x86_64", "aarch64"]
    kinds = [next(iter(directive)) for directive in recipe["build"]["directives"]]
    assert set(kinds) <= {"install", "run", "environment", "copy", "workdir", "template"}
