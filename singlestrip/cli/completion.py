"""Completion of the command line, as a script that a shell reads. Imports no torch."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

import shtab

from ..networks.model_files import MODELS_VARIABLE, SUFFIX, shipped_folder
from .interface import PATH_ROLES, subparsers

# Functions that complete a model: files, names of shipped models, and names of models in the folders of $VARIABLE.
MODEL_FUNCTION = "_singlestrip_models"
MODEL_FUNCTIONS = {
    "bash": """
FUNCTION() {
  local folders folder path names=(SHIPPED)
  IFS=: read -ra folders <<<"${VARIABLE-}"
  for folder in "${folders[@]}"; do
    for path in "$folder"/*SUFFIX; do
      path=${path##*/}
      [[ -f $folder/$path ]] && names+=("${path%SUFFIX}")
    done
  done
  compgen -f -- "$1"
  compgen -W "${names[*]}" -- "$1"
}""",
    "zsh": """
FUNCTION() {
  local -aU names=(SHIPPED ${^${(s.:.)VARIABLE}}/*SUFFIX(N:t:r))
  compadd -a names
  _files
}""",
    "fish": """
function FUNCTION
    __fish_complete_path (commandline -ct)
    printf '%s\\n' SHIPPED
    for folder in (string split -n : -- "$VARIABLE")
        for path in $folder/*SUFFIX
            basename $path SUFFIX
        end
    end
end""",
}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that tells `shell` the subcommands, options and choices, and which values are files or folders.

    parser: of `build_parser`; it is changed, and cannot parse afterwards.
    """
    for command in subparsers(parser).values():
        command.description = (command.description or "").partition("\n")[0]
        for action in command._actions:
            role = PATH_ROLES.get(action.type)
            if role is None:
                continue
            completer = _model_completer() if role == "model" else shtab.FILE
            completer = shtab.DIRECTORY if role in ("folder", "input-folder") else completer
            action.complete = completer  # type: ignore[attr-defined]  # shtab reads what argparse lacks
            # After an option with "+" shtab's script for bash completes files alone, and no further option.
            action.nargs = None if action.nargs in ("+", "*") else action.nargs
    return shtab.complete(parser, shell)


def _model_completer() -> dict[str, Any]:
    """What completes a model in each shell: files and, in the shells of MODEL_FUNCTIONS, names."""
    shipped = shlex.join(sorted(path.name.removesuffix(SUFFIX) for path in shipped_folder().glob(f"*{SUFFIX}")))
    words = {"FUNCTION": MODEL_FUNCTION, "VARIABLE": MODELS_VARIABLE, "SUFFIX": SUFFIX, "SHIPPED": shipped}
    functions = {
        shell: re.sub("|".join(words), lambda word: words[word[0]], text)
        for shell, text in MODEL_FUNCTIONS.items()
    }
    calls = {"bash": MODEL_FUNCTION, "zsh": MODEL_FUNCTION, "fish": f"({MODEL_FUNCTION})"}
    return shtab.FILE | calls | {"preamble": functions}
