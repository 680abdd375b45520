"""One command from its arguments to its exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..io.limits import check_memory_limit
from .advice import describe_with_options
from .log import show_log
from .parser import parse
from .streams import tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Without `arguments`, take those of the process."""
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with show_log(args.quiet):
            check_memory_limit()
            return args.run(args)
    except Exception as error:
        if args.debug:
            raise
        tell(describe_with_options(error, args))
        return 1
