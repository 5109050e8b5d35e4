"""One line from pytest's JUnit file: '1234 passed, 0 failed, 1 skipped'. An error of a fixture counts as a failure."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

outcomes = {"failure": "failed", "error": "failed", "skipped": "skipped"}
counts = Counter(
    next((outcomes[child.tag] for child in case if child.tag in outcomes), "passed")
    for case in ET.parse(sys.argv[1]).iter("testcase")
)
print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
