"""The names that inputs of pipelines have for options of the command line."""

from __future__ import annotations

from ..cli.interface import Option

NAMES = {"image": "in_file", "threads": "num_threads"}
ENDINGS = {"input": "_file", "list": "_file", "table": "_file", "output": "_file", "folder": "_dir"}


def input_name(option: Option) -> str:
    """The name of the input that stands for an option."""
    name = NAMES.get(option.name, option.name.replace("-", "_"))
    ending = ENDINGS.get(option.role, "")
    return name if name.endswith(ending) else name + ending
