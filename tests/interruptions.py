"""Signals in the middle of a training."""

from __future__ import annotations

import os
import signal

import pytest

from singlestrip.training.run import Run


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the process a signal during the update that ends with this step."""
    update = Run.update

    def update_and_stop(run: Run) -> dict[str, float]:
        if run.step == step - 1:
            os.kill(os.getpid(), number)
        return update(run)

    monkeypatch.setattr(Run, "update", update_and_stop)
