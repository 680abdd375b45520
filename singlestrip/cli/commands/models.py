"""singlestrip models: which models there are, and what is known of them."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...io.text.escaping import printable
from ..options import model
from ..streams import tell

if TYPE_CHECKING:
    from ...networks.model_card import Score
    from ...networks.model_description import ModelDescription

DESCRIPTION = """list the models that --model takes by name
Prints a table of the models that come with singlestrip and of those in $SINGLESTRIP_MODELS, which names
one folder, or several joined by colons. The folders of the variable come first: of models of one name the
first is listed, as it is the one that --model takes. If models are named, prints all that is known of
each of them: a name of the table, or a file.

The column "does" says what a model is for. Models for strip find brains (--model), and models for qc
estimate the quality of masks (--qc-model). The column "voxel" is the voxel size of the segmenter, or of the
quality network, in mm. The column "Dice" is the range of mean Dice over the data sets that the model was
scored on. For a model that only estimates quality it is the mean error of the estimate.

Voxel size and networks are read from the model file. Anatomy, licence, scores and limits are read from its
card: the file NAME.json beside NAME.safetensors (docs/train.md). Without a card the table has the volume
of the labelled brain, the names of the files that the model learned from, and the date on which the model
file was changed.

A model that cannot be read gets a line that says why. This is an error only if the model was named."""

SYNOPSIS = ["singlestrip models [MODEL ...] [OPTIONS]"]

EXAMPLES = """\
    singlestrip models
    singlestrip models singlestrip
    singlestrip models mouse.safetensors
    singlestrip models --json"""

COLUMNS = ("model", "does", "anatomy", "learned from", "voxel", "date", "MB", "licence", "Dice")
WIDEST_CELL = 32  # characters; longer text is cut
TEXT_COLUMN = 18  # of the pages of named models
UNKNOWN = "-"
MB = 10**6


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("MODELS")
    group.add_argument(
        "model",
        type=model,
        nargs="*",
        metavar="MODEL",
        help="model file, or name in the table (default: all models that have a name)",
    )
    output = parser.add_argument_group("OUTPUT OPTIONS")
    output.add_argument("--json", action="store_true", help="print all that is known, as one JSON array")


def run(args: argparse.Namespace) -> int:
    descriptions, status = _describe_named(args.model) if args.model else (_describe_all(), 0)
    if args.quiet:
        pass
    elif args.json:
        from dataclasses import asdict

        from ...io.text.escaping import to_json

        print(to_json([asdict(description) for description in descriptions]), end="")
    elif args.model:
        pages = ["\n".join(_page(description)) for description in descriptions if description.error is None]
        print("\n\n".join(pages), end="\n" if pages else "")
    else:
        print("\n".join(_table_lines(descriptions)))
    return status


def _describe_all() -> list[ModelDescription]:
    """All models that have a name, sorted by it."""
    from ...networks.model_description import describe_model
    from ...networks.model_files import list_models

    return [describe_model(name, path) for name, path in sorted(list_models().items())]


def _describe_named(names: Sequence[str]) -> tuple[list[ModelDescription], int]:
    """The named models that there are, and the exit status. Reports each that is missing or cannot be read."""
    from ...errors import ModelError
    from ...networks.model_description import describe_model
    from ...networks.model_files import find_by_name

    descriptions: list[ModelDescription] = []
    status = 0
    for name in names:
        try:
            descriptions.append(describe_model(name, find_by_name(name)))
            error = descriptions[-1].error
        except ModelError as missing:
            error = str(missing)
        if error is not None:
            tell(error)
            status = 1
    return descriptions, status


def _table_lines(descriptions: Sequence[ModelDescription]) -> Iterator[str]:
    """The lines of the table, and one for each model that cannot be read."""
    rows = [COLUMNS, *(_row(description) for description in descriptions if description.error is None)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for description in descriptions:
        if description.error is not None:
            yield printable(f"{description.name}: cannot be read: {description.error}")


def _row(description: ModelDescription) -> tuple[str, ...]:
    """The cells of a model's row, in the order of COLUMNS."""
    cells = (
        description.name,
        _purpose(description),
        description.anatomy or _describe_brain(description) or UNKNOWN,
        description.learned_from or UNKNOWN,
        f"{description.voxel_size_mm:g}",
        description.date or UNKNOWN,
        _megabytes(description),
        description.licence or UNKNOWN,
        _accuracy(description.scores) or UNKNOWN,
    )
    return tuple(_cut(printable(cell)) for cell in cells)


def _cut(text: str) -> str:
    """Text of at most WIDEST_CELL characters."""
    return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 1]}…"


def _purpose(description: ModelDescription) -> str:
    """What a model does, as the subcommands are called."""
    purposes = {
        "strip": description.strips,
        "segment": bool(description.structures),
        "qc": description.has_quality,
    }
    return ", ".join(name for name, is_so in purposes.items() if is_so)


def _describe_brain(description: ModelDescription) -> str:
    """The range of the volumes of the labelled brains; "" if they are not known."""
    volumes = sorted(description.brain_ml)
    ends = [f"{value:.0f}" if value >= 10 else f"{value:.2g}" for value in volumes[:1] + volumes[-1:]]
    return f"{'-'.join(dict.fromkeys(ends))} ml" if ends else ""


def _megabytes(description: ModelDescription) -> str:
    return f"{(description.size_bytes or 0) / MB:.1f}"


def _accuracy(scores: Sequence[Score]) -> str:
    """The range of mean Dice, or else of the mean error of estimated Dice; "" if no score has either."""
    for title, values in (
        ("", sorted(score.dice for score in scores if score.dice is not None)),
        ("error ", sorted(score.dice_error for score in scores if score.dice_error is not None)),
    ):
        if values:
            return title + "-".join(dict.fromkeys(f"{value:.3f}" for value in (values[0], values[-1])))
    return ""


def _page(description: ModelDescription) -> Iterator[str]:
    """The lines of all that is known of a model."""
    width = min(100, max(40, shutil.get_terminal_size().columns))
    indent = " " * TEXT_COLUMN
    yield printable(description.name)
    for title, texts in _fields(description).items():
        for number, text in enumerate(texts):
            start = f"    {'' if number else title}".ljust(TEXT_COLUMN)
            yield from textwrap.wrap(
                printable(text), width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
            )


def _fields(description: ModelDescription) -> dict[str, list[str]]:
    """What is known of a model, by its title, with a text for each line or paragraph."""
    fields: dict[str, list[str | None]] = {
        "does": [_purpose(description)],
        "anatomy": [description.anatomy],
        "brain": [_describe_brain(description)],
        "structures": [", ".join(description.structures)],
        "learned from": [description.learned_from],
        "source": [description.source],
        "licence": [description.licence],
        "version": [description.version],
        "date": [description.date],
        "voxel": [f"{description.voxel_size_mm:g} mm"],
        "size": [f"{_megabytes(description)} MB"],
        "file": [description.path],
        "format": [f"{description.format}, version {description.format_version}"],
        "scores": [_describe_score(score) for score in description.scores],
        "use": [description.intended_use],
        "limits": list(description.limits),
    }
    return {title: known for title, texts in fields.items() if (known := [text for text in texts if text])}


def _describe_score(score: Score) -> str:
    """A score in words: its data, and its numbers."""
    numbers = {
        "Dice {:.3f}": score.dice,
        "HD95 {:.1f} mm": score.hd95_mm,
        "error of estimated Dice {:.3f}": score.dice_error,
        "correlation with true Dice {:.3f}": score.dice_correlation,
    }
    words = ", ".join(form.format(value) for form, value in numbers.items() if value is not None)
    data = " ".join(filter(None, (score.data, score.contrast)))
    return f"{data} ({score.scans}): {words}"
