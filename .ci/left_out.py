"""Lists which tests a run left out, by reason: left_out.py REPORT, a report that pytest wrote with --junitxml."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path


def skipped_tests(report: Path) -> Counter[tuple[str, str]]:
    """How many tests were skipped, by reason and test file: 0 where the whole file was, not counted."""
    count: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if skip is None or skip.get("type") == "pytest.xfail":
            continue
        reason, text = skip.get("message", ""), skip.text or ""
        whole = reason == "collection skipped"
        if whole:
            told = re.search(r"Skipped: (.+?)['\"]\)", text)
            reason = told[1] if told else text
        module = re.search(r"\btest_\w+", case.get("classname") or case.get("name") or "")
        count[reason, f"tests/{module[0]}.py" if module else "other files"] += not whole
    return count


def main() -> None:
    """Print a line for each reason and file."""
    for (reason, file), number in sorted(skipped_tests(Path(sys.argv[1])).items()):
        print(f"- {reason}: {number or 'all'} of {file}")


if __name__ == "__main__":
    main()
