"""The documentation: examples run as printed, links and names lead somewhere, and the site builds."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from singlestrip.cli.interface import command_options
from singlestrip.cli.parser import COMMANDS, EXIT_STATUS, build_parser
from singlestrip.integrations import manual_pages

ROOT = Path(__file__).parents[1]
FOLDERS = (".github", "benchmarks", "docs", "models", "recipes")
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
    if "node_modules" not in path.parts
)
SCAN = Path(nib.__file__).parent / "tests/data/example4d.nii.gz"
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")
LARGEST_FIGURE = 150_000  # bytes


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in one of these languages."""
    return [code for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """What links can name in a page: its headings, as forges and mkdocs turn them into anchors."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = [re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


# Links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading: one\n\n[a](#a-heading-one) [b](#none) [c](none.md) [d](page.md#two) `[e](x)`\n")
    assert broken_links(page) == ["#none", "none.md", "page.md#two"]


# Code blocks


@pytest.mark.slow
def test_python_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False)
    assert result.attempted > 15 and result.failed == 0


def scripts() -> list:
    """The Python blocks of all pages that are no sessions of an interpreter.

    That of docs/elsewhere.md is run by tests/test_onnx_export.py, which looks at the mask that it makes.
    """
    return [
        pytest.param(code, id=name_of(page))
        for page in PAGES
        for code in blocks(page, "python")
        if not code.startswith(">>>") and "import onnxruntime" not in code
    ]


@pytest.mark.slow
@pytest.mark.parametrize("code", scripts())
def test_python_blocks_run(code, tmp_path, monkeypatch):
    """With a scan by the name that they use."""
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    for name in ("nipype", "pydra", "surfa"):
        if name in code:
            pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    image = nib.load(SCAN)
    nib.save(nib.Nifti1Image(image.dataobj[..., 0], image.affine), "t1.nii.gz")
    subprocess.run(
        [sys.executable, "-c", code.replace('"t1.nii.gz"', repr(str(tmp_path / "t1.nii.gz")))], check=True
    )


def command_lines(page: Path) -> list[list[str]]:
    """The arguments of singlestrip on each shell line of a page, from the subcommand on."""
    lines = []
    for code in blocks(page, "", "bash", "sh", "shell", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            called = re.search(r"\bsinglestrip(-container|\.sif)? ", line)
            if not called or line.lstrip().startswith("#"):
                continue
            words = shlex.split(re.sub(r"\$\w+", "1", line[called.end() :]), comments=True)
            starts = [number for number, word in enumerate(words) if word in COMMANDS]
            if starts:
                lines.append(words[starts[0] :])
    return lines


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=name_of)
def test_command_lines_parse(page):
    for words in command_lines(page):
        if not any(word.startswith("[") for word in words):  # a part that may be left out
            assert build_parser().parse_args(words).command == words[0]


def test_command_lines_are_found():
    assert sum(len(command_lines(page)) for page in PAGES) > 40


# What pages say of the code


def test_the_names_of_the_walks_are_those_of_the_code():
    page = (ROOT / "docs/code.md").read_text(encoding="utf-8")
    names = [
        name
        for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", page)
        if (ROOT / "singlestrip" / name.split(".")[0]).is_dir()
    ]
    assert len(names) > 40
    for name in names:
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(["singlestrip", *parts[:length]]))
                break
            except ModuleNotFoundError:
                continue
        for part in parts[length:]:
            found = getattr(found, part)


def test_sentences_after_are_those_of_the_code():
    page = (ROOT / "docs/language.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(singlestrip/.+?)`, \w+ \| .+? \| (.+?) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    for path, sentence in rows:
        source = re.sub(r'"\s*\n\s*f?"', "", (ROOT / path).read_text(encoding="utf-8"))
        assert sentence in re.sub(r"\s+(# )?", " ", source), path


@pytest.mark.parametrize("command", COMMANDS)
def test_command_pages_have_every_option(command):
    page = manual_pages.page(command)
    assert page.startswith(f"# singlestrip {command}\n")
    for option in command_options(build_parser(), command):
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        assert f"| {flags} |" in page if flags else f"| `{option.action.metavar or option.action.dest}` |" in page
    assert all(f"| {status} | {meaning} |" in page for status, meaning in EXIT_STATUS.items())


def test_figures_are_small():
    for path in {*(ROOT / "docs").rglob("*.png")} - {*(ROOT / "docs/try/node_modules").rglob("*.png")}:
        assert path.stat().st_size < LARGEST_FIGURE, f"{name_of(path)}: make it smaller, see docs/figures/make.py"


# The site


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason=f"{name} is not installed: bin/install docs")
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "api.html", "models/singlestrip.html"} <= pages
    assert {f"commands/{command}.html" for command in COMMANDS} <= pages
    about = (tmp_path / "site/try.html").read_text(encoding="utf-8")
    assert ("try/index.html" in pages) == ('href="try/index.html"' in about)
    loaded = r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"|<link[^>]*\shref="(?:https?:)?//[^"]*"'
    for page in pages:
        assert not re.findall(loaded, (tmp_path / "site" / page).read_text(encoding="utf-8")), page
