"""Where model files lie that are known by name. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

MODELS_VARIABLE = "SINGLESTRIP_MODELS"


def models_folder() -> Path:
    """Where the shipped weights lie: $SINGLESTRIP_MODELS, else in the installed package or source tree."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    package = Path(__file__).parents[1]
    return next((p for p in (package / "models", package.parent / "models") if p.is_dir()), package / "models")
