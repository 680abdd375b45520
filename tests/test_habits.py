"""Files for contributors and machines: checks, lowest versions, citation, the list of what was left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import singlestrip

ROOT = Path(__file__).parents[1]
METADATA = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

SKIPPING = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_lacks_a_tool(number):
    pytest.skip("the tool isn't installed")

@pytest.mark.skipif(True, reason="no GPU")
def test_lacks_a_gpu():
    pass

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False

def test_runs():
    pass
"""


def run_left_out(folder: Path) -> str:
    """What .ci/left_out.py prints of the tests in a folder."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder]
    subprocess.run([*command, f"--junitxml={report}"], cwd=folder, capture_output=True, check=False)
    script = [sys.executable, ROOT / ".ci/left_out.py", report]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout


def test_skipped_tests_are_listed_by_reason_and_file(tmp_path):
    (tmp_path / "test_some.py").write_text(SKIPPING)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('no_such', reason='it is gone')\n")
    assert run_left_out(tmp_path).splitlines() == [
        "- it is gone: all of tests/test_whole.py",
        "- no GPU: 1 of tests/test_some.py",
        "- the tool isn't installed: 3 of tests/test_some.py",
    ]


def test_nothing_is_listed_where_all_tests_ran(tmp_path):
    (tmp_path / "test_some.py").write_text("def test_runs():\n    pass\n")
    assert run_left_out(tmp_path) == ""


def test_lowest_versions_are_those_of_the_metadata():
    """Each requirement of the package, and of the extras that it imports, is pinned to the bottom of its range."""
    pins = re.findall(
        r"^(\S+)==(\S+)$", (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    lists = re.findall(r"^(?:dependencies|bids|nipype|export) = \[(.*?)\]", METADATA, re.MULTILINE | re.DOTALL)
    ranges = re.findall(r'"([\w.-]+)>=([\w.]+)"', " ".join(lists))

    def full(version: str) -> str:
        return version + ".0" * (2 - version.count("."))

    assert len(lists) == 4 and dict(pins) == {name: full(version) for name, version in ranges}


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version, date = (
        re.search(rf'^{key}: "?([^"\n]+)', citation, re.MULTILINE)[1] for key in ("version", "date-released")
    )
    assert version == singlestrip.__version__
    assert f"\n## {version} - {date}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT", "RELEASE", "CHANGELOG"])
def test_links_between_files_lead_somewhere(name):
    text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_every_program_of_the_hooks_is_a_test_tool():
    """Hooks name programs of .venv, which `bin/install test` fills, or of bin/."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (\S+)", hooks)
    assert len(entries) > 10
    for entry in entries:
        assert entry.startswith(".venv/bin/") or (ROOT / entry).is_file(), entry
    assert hooks.count("language: system") == len(entries)
