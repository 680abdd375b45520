"""Names of options that were replaced. They still work, but no help, completion or descriptor shows them."""

from __future__ import annotations

from collections.abc import Sequence

# By command, the option of each former name.
OPTIONS: dict[str, dict[str, str]] = {
    "strip": {"--suffix": "--format", "--mask-mean-frame": "--mean-frame"},
    "segment": {"--suffix": "--format", "--table": "--label-table"},
    "fit-gmm": {"--figure": "--picture"},
    "train": {"--samples": "--picture"},
    "self-train": {"--unlabelled": "--list", "--references": "--reference-list"},
}
# By command, options that were commands in disguise: the command, and the flags of its option for the value.
COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "qc": {"--train": ("train-qc", "--out", "-o"), "--calibrate": ("calibrate-qc", "--qc-model")},
}
END_OF_OPTIONS = "--"


def with_present_names(arguments: Sequence[str]) -> list[str]:
    """A command line, whose first word is the command, with each former name replaced.

    The parser would take a word that is the name of an option for nothing else, unless it stands behind "--".
    The former name of a command stays, for the parser to refuse, beside the option that would take its value: that
    may name another file to write.
    """
    if not arguments:
        return []
    command, *words = arguments
    end = words.index(END_OF_OPTIONS) if END_OF_OPTIONS in words else len(words)
    names = dict(OPTIONS.get(command, {}))
    given = {name for word in words[:end] for name in (word.partition("=")[0], word[:2])}
    for former, (present, *flags) in COMMANDS.get(command, {}).items():
        if former in given and given.isdisjoint(flags):
            command, names = present, {former: flags[0]}
            break
    return [command, *(_renamed(word, names) for word in words[:end]), *words[end:]]


def _renamed(word: str, names: dict[str, str]) -> str:
    """A word of a command line, with the name of an option replaced; names: by former ones."""
    name, equals, value = word.partition("=")
    return f"{names.get(name, name)}{equals}{value}"
