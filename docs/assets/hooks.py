"""What mkdocs does beside its own: pages of the commands, the page that strips in a browser, and files of the
repository that pages link to.

A link that leads out of `docs` names a file of the repository. The site has a copy of that file: model cards, and
the READMEs of benchmarks and recipes, as pages, others as they are. One link therefore works in a clone, on a
forge and in the site.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from singlestrip.cli.parser import COMMANDS  # noqa: E402
from singlestrip.integrations import manual_pages  # noqa: E402

LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")
PAGE = ROOT / "docs/try/dist"  # the page that strips in a browser, if it has been built
CARDS = (
    "models/README.md",
    "models/singlestrip.md",
    "models/quality.md",
    "benchmarks/README.md",
    "recipes/README.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the commands, of the repository what pages link to, and the built page of docs/try."""
    for command in COMMANDS:
        files.append(File.generated(config, f"commands/{command}.md", content=manual_pages.page(command)))
    for path in CARDS:
        files.append(_copy(config, path))
    pages = [file for file in files if file.is_documentation_page()]
    for target in sorted({target for page in pages for _, target in _links(page.content_string, page.src_uri)}):
        if files.get_file_from_path(_in_site(target)) is None and (ROOT / target).is_file():
            files.append(_copy(config, target))
    for path in sorted(PAGE.rglob("*")):
        if path.is_file():
            name = f"try/{path.relative_to(PAGE).as_posix()}"  # mkdocs.yml leaves out the sources in that folder
            included = InclusionLevel.INCLUDED
            files.append(File.generated(config, name, abs_src_path=str(path), inclusion=included))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository to their copies in the site, and try.md to the built page."""
    places = dict(_links(markdown, page.file.src_uri))
    folder = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        target = places.get(link[2])
        if target is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(_in_site(target), folder)}{link[3]}"

    text = LINK.sub(moved, markdown)
    if page.file.src_uri == "try.md" and files.get_file_from_path("try/index.html"):
        heading, text = text.split("\n", 1)
        text = f"{heading}\n\n**[Open the page](try/index.html)**\n{text}"
    return text


def _copy(config: MkDocsConfig, path: str) -> File:
    """A file of the repository as one of the site."""
    return File.generated(config, _in_site(path), abs_src_path=str(ROOT / path))


def _in_site(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return path.removeprefix("docs/")


def _links(markdown: str, src_uri: str) -> list[tuple[str, str]]:
    """The relative links of a page, each with the path in the repository that it names."""
    source = src_uri if src_uri in CARDS else f"docs/{src_uri}"
    folder = PurePosixPath(source).parent
    return [
        (link[2], posixpath.normpath(str(folder / link[2])))
        for link in LINK.finditer(markdown)
        if not re.match(r"[a-z]+:", link[2])
    ]
