"""SIGINT and SIGTERM during a training run ask it to stop; they do not end the process."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Within the context SIGINT and SIGTERM only set `received` to their number; a second one acts at once."""

    def __enter__(self) -> StopSignal:
        self.received = 0
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
