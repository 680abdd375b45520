"""One command from its arguments to its exit status."""

from __future__ import annotations

from collections.abc import Sequence

from ..io.limits import check_memory_limit
from .advice import describe_with_options
from .parser import build_parser
from .streams import tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(arguments)
    try:
        check_memory_limit()
        return args.run(args)
    except Exception as error:
        if args.debug:
            raise
        tell(describe_with_options(error, args))
        return 1
