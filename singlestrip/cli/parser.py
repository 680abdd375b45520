"""The parser of the command line, whose help is a manual page. Imports no NumPy."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import textwrap
from collections.abc import Collection, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from .former_names import with_present_names
from .streams import tell

SHELLS = ("bash", "zsh", "fish", "tcsh")
COMMANDS = {  # by their names, the modules in `commands`
    "strip": "strip",
    "segment": "segment",
    "fit-gmm": "fit_gmm",
    "train": "train",
    "qc": "qc",
    "train-qc": "train_qc",
    "calibrate-qc": "calibrate_qc",
    "self-train": "self_train",
    "models": "models",
    "export": "export",
    "bids": "bids",
}
VERSION_FLAGS = ("-v", "--version")
WIDEST = 100  # characters of a line of help

EXIT_STATUS = {
    0: "all went well",
    1: "something failed, or a signal stopped the work",
    2: "the command line is wrong",
}

REFERENCES = """\
Specktor-Fadida & Hoffmann, SingleStrip: learning skull-stripping from a single labeled example, arXiv 2508.10464.
Hoopes et al., SynthStrip: skull-stripping for any brain image, NeuroImage 260:119474 (2022).
Billot et al., SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining, \
Medical Image Analysis 86:102789 (2023)."""


class ManualParser(argparse.ArgumentParser):
    """A parser whose help is a manual page: sections have names in capitals and indented text."""

    def __init__(
        self,
        prog: str | None = None,
        *,
        synopsis: Sequence[str] = (),
        examples: str = "",
        allow_abbrev: bool = False,
        **keywords: Any,
    ) -> None:
        # argparse makes a formatter for each option; with a width it does not ask the terminal for one.
        formatter = partial(argparse.HelpFormatter, width=WIDEST)
        super().__init__(prog, add_help=False, allow_abbrev=allow_abbrev, formatter_class=formatter, **keywords)
        # Values, not options: argparse before Python 3.14 takes -1e-5 and -12. for options.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
        self.synopsis, self.examples = synopsis, examples
        self.add_argument("-h", "--help", action="help", help="show this page and stop")

    def format_help(self) -> str:
        import shutil  # slow to import

        width = min(WIDEST, shutil.get_terminal_size().columns)

        def section(title: str, body: str) -> str:
            return f"{title}\n{textwrap.indent(body.strip(chr(10)), '    ')}\n"

        def fold(text: str) -> str:
            paragraphs = text.strip().split("\n\n")
            return "\n\n".join(textwrap.fill(" ".join(part.split()), width - 4) for part in paragraphs)

        formatter = argparse.HelpFormatter(self.prog, indent_increment=4, max_help_position=12, width=width)
        for group in self._action_groups:
            actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
            if actions:
                formatter.start_section("OPTIONS" if group.title == "options" else group.title)
                formatter.add_arguments(actions)
                formatter.end_section()
        title, _, text = (self.description or "").partition("\n")
        exits = "; ".join(f"{status} {meaning}" for status, meaning in EXIT_STATUS.items()) + "."
        parts = [section("NAME", f"{self.prog} - {title}"), section("SYNOPSIS", "\n".join(self.synopsis))]
        parts += [section("DESCRIPTION", fold(text))] if text.strip() else []
        parts += [re.sub(r"^([A-Z ]+):$", r"\1", formatter.format_help(), flags=re.MULTILINE)]
        parts += [section("EXAMPLES", textwrap.dedent(self.examples))] if self.examples else []
        parts += [section("EXIT STATUS", fold(exits))]
        parts += [section("REFERENCES", "\n".join(fold(line) for line in REFERENCES.splitlines()))]
        return "\n".join(parts)

    def format_usage(self) -> str:
        return f"usage: {' | '.join(self.synopsis)}\n"

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        tell(message)
        self.exit(2)


class ShowVersions(argparse._VersionAction):
    """Prints the versions. They are looked up only then, since that takes longer than to build the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **keywords: Any) -> NoReturn:
        from .versions import describe

        parser._print_message(describe() + "\n", sys.stdout)  # of argparse, which takes a closed pipe
        parser.exit()


class ShowCompletion(argparse.Action):
    """Prints the script that completes the command line in a shell."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, shell: Any, option: str | None = None
    ) -> NoReturn:
        from .completion import script

        parser._print_message(script(parser, shell) + "\n", sys.stdout)
        parser.exit()


def command_module(name: str) -> ModuleType:
    """The module of a subcommand, imported only when it is needed."""
    return importlib.import_module(f".commands.{COMMANDS[name]}", __package__)


def build_parser(wanted: Collection[str] = tuple(COMMANDS)) -> ManualParser:
    """The parser of the command line, to parse with, and to read the options from.

    wanted: the subcommands that get their options. Of the others it knows the names alone, which is faster.
    """
    parser = ManualParser(
        "singlestrip",
        synopsis=["singlestrip COMMAND [OPTIONS]", "singlestrip COMMAND --help"],
        description="skull-stripping of any head image, learned from one labelled scan\n"
        "strip works at once, with the weights that come with it. fit-gmm and train make weights for another "
        "anatomy or technique from one image with a brain mask.",
        examples="""\
            singlestrip strip -i t1.nii.gz -o brain.nii.gz -m mask.nii.gz
            singlestrip train -i t1.nii.gz -m mask.nii.gz -o my-anatomy.safetensors
            singlestrip strip --model my-anatomy.safetensors -i mouse.mgz -m mask.mgz""",
    )
    _add_version(parser)
    parser.add_argument(
        "--print-completion",
        action=ShowCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help="print what bash, zsh, fish or tcsh reads to complete command lines, and stop",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="COMMANDS", required=True)
    for name in COMMANDS:
        if name not in wanted:
            subparsers.add_parser(name)
            continue
        module = command_module(name)
        sub = subparsers.add_parser(
            name,
            help=module.DESCRIPTION.partition("\n")[0],
            description=module.DESCRIPTION,
            synopsis=module.SYNOPSIS,
            examples=module.EXAMPLES,
        )
        module.add_options(sub)
        general = sub.add_argument_group("GENERAL OPTIONS")
        general.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
        general.add_argument("--debug", action="store_true", help="show where an error came from")
        _add_version(general)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def _add_version(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        *VERSION_FLAGS,
        action=ShowVersions,
        help="show versions, model files and machine, for reports, and stop",
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. A wrong one ends the program. Builds the parser of one subcommand alone."""
    arguments = with_present_names(arguments)
    first = arguments[0] if arguments else ""
    alone = first in COMMANDS or first in VERSION_FLAGS
    return build_parser([first] if alone else tuple(COMMANDS)).parse_args(arguments)
