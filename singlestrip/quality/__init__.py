"""How far a mask can be trusted without truth: scores, the network behind them, and its training.

`singlestrip.quality.QualityModel` is public. Importing this package loads no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .scores import QualityModel

__all__ = ["QualityModel"]


def __getattr__(name: str) -> type[QualityModel]:
    if name == "QualityModel":
        from .scores import QualityModel

        return QualityModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
