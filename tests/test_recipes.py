"""The recipes for other indexes and programs: against the package, and read by the tools that can be had."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import singlestrip
from singlestrip.cli.parser import build_parser

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
CONDA = RECIPES / "conda-forge/recipe.yaml"
NEXTFLOW = RECIPES / "nextflow/modules/nf-neuro/betcrop/singlestrip"
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


# Nextflow

MODULE = (NEXTFLOW / "main.nf").read_text(encoding="utf-8")
GROOVY = {
    "image": "t1.nii.gz", "prefix": "sub-01", "task.cpus": "2", "device": "--device cuda",
    "border": "--border=-1.5", "nocsf": "--no-csf", "model": "--model m.safetensors", "args": "--fill 0",
}  # fmt: skip


def groovy_text(text: str, values: dict[str, str]) -> str:
    """Text of a Groovy string with values in place of ${...}."""
    filled = re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], text)
    return filled.replace("\\\\", "\\").replace("\\$", "$")


def test_nextflow_has_the_version_and_names_its_files_alike():
    assert f"singlestrip:{singlestrip.__version__}-strip" in MODULE
    assert read(NEXTFLOW / "environment.yml")["dependencies"] == [
        f"conda-forge::singlestrip={singlestrip.__version__}"
    ]
    meta = read(NEXTFLOW / "meta.yml")
    name = re.search(r"^process (\w+) \{", MODULE, re.M)[1]
    assert meta["name"] == name.lower()
    inputs = re.search(r"input:\n\s+tuple (.+?) /\*", MODULE)[1]
    assert [next(iter(each)) for each in meta["input"][0]] == re.findall(r"\((\w+)\)", inputs)
    emitted = re.findall(r'path\(?\s*"(.+?)"\)?\s*, emit: (\w+)', MODULE)
    described = {
        name: next(iter(each[-1] if isinstance(each, list) else each)) for name, (each,) in meta["output"].items()
    }
    assert described == {name: pattern for pattern, name in emitted}
    settings = set(re.findall(r"task\.ext\.(\w+)", MODULE)) - {"when", "prefix"}
    assert settings == {next(iter(each)) for each in meta["args"]}


def test_the_commands_of_the_nextflow_module_parse():
    [strip] = re.findall(r"^    singlestrip strip \\\\\n(?:.+\\\\\n)+.+$", MODULE, re.M)
    words = shlex.split(groovy_text(strip, GROOVY).replace("\\\n", " "))
    found = vars(build_parser().parse_args(words[1:]))
    assert (found["out"], found["mask"]) == (Path("sub-01__bet_image.nii.gz"), Path("sub-01__brain_mask.nii.gz"))
    assert (found["border"], found["device"], found["threads"], found["fill"]) == (-1.5, "cuda", 2, 0.0)
    [judge] = re.findall(r'"(singlestrip qc .+?)"', MODULE)
    found = vars(build_parser().parse_args(shlex.split(groovy_text(judge, GROOVY))[1:]))
    assert found["out"] == Path("sub-01__qc.tsv")


def test_a_bash_takes_the_script_of_the_nextflow_module(tmp_path):
    """With programs that do nothing but write their arguments."""
    script = MODULE.split('"""')[1]
    values = GROOVY | {"task.process": "STRIP", "judge": ""}
    bash = groovy_text(re.sub(r"^    ", "", script, flags=re.M), values).replace("<<-END", "<<END")
    program = tmp_path / "singlestrip"
    program.write_text('#!/bin/sh\necho "$@" >>calls\necho "singlestrip 1.2.3"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", bash], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    assert (tmp_path / "calls").read_text().splitlines()[0].startswith("strip -i t1.nii.gz -o sub-01__bet_image")
    assert yaml.safe_load((tmp_path / "versions.yml").read_text()) == {"STRIP": {"singlestrip": "1.2.3"}}


# MRtrix3


@pytest.fixture
def algorithm(monkeypatch):
    """The algorithm of dwi2mask, with a stand-in for MRtrix3's library; `calls` holds the commands it runs."""
    calls = []
    app = SimpleNamespace(ARGS=None, FORCE_OVERWRITE=False)
    run = SimpleNamespace(command=lambda command, **_: calls.append(command))
    stand_in = SimpleNamespace(MRtrixError=RuntimeError, app=app, run=run)
    monkeypatch.setitem(sys.modules, "mrtrix3", stand_in)
    spec = importlib.util.spec_from_file_location("algorithm", RECIPES / "mrtrix3/singlestrip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.shutil, "which", lambda program: f"/bin/{program}")
    module.calls = calls
    return module


def arguments(**given):
    return SimpleNamespace(
        **({"input": "dwi.mif", "stripped": None, "gpu": None, "model": None, "border": None} | given)
    )


def test_the_mrtrix_algorithm_strips_the_mean_b0(algorithm):
    algorithm.app.ARGS = arguments(stripped="brain.mif", gpu=True, model="m.safetensors", border=-1.5)
    assert algorithm.execute() == "singlestrip_mask.nii"
    strip, convert = algorithm.calls
    found = vars(build_parser().parse_args(strip[1:]))
    assert (found["mask"], found["out"]) == (Path("singlestrip_mask.nii"), Path("stripped.nii"))
    assert (found["device"], found["border"]) == ("cuda", -1.5)
    assert convert == ["mrconvert", "stripped.nii", "brain.mif"]
    algorithm.calls.clear()
    algorithm.app.ARGS = arguments()
    algorithm.execute()
    assert algorithm.calls == [["singlestrip", "strip", "-i", "bzero.nii", "-m", "singlestrip_mask.nii"]]


def test_the_mrtrix_algorithm_says_if_singlestrip_is_missing(algorithm, monkeypatch):
    monkeypatch.setattr(algorithm.shutil, "which", lambda program: None)
    with pytest.raises(RuntimeError, match='"singlestrip"'):
        algorithm.execute()
