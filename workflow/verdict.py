"""verdict.py TABLE CHUNK_TABLE...: name the scans that failed; exit status 1 where there are any.

Removes the tables of their chunks: the workflow's next run makes these again, and so tries the scans again.
"""

import sys
from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    """The cells by column, escaped as they are, so that they can go to a terminal."""
    header, *rows = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]


def main(table: Path, chunks: list[Path]) -> int:
    rows = read(table)
    failures = {row["mask"]: row["note"] for row in rows if row["note"]}
    for chunk in chunks:
        if any(row["mask"] in failures for row in read(chunk)):
            chunk.unlink()
    for note in failures.values():
        print(note, file=sys.stderr)
    print(f"{len(rows) - len(failures)} masks, {len(failures)} failures: {table}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
