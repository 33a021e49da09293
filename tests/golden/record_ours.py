#!/usr/bin/env python3
"""Writes the golden stream of our own format: every record of the trailer. Only for a new version of it, or with a new
record, under another name: what was written before stays.

usage: tests/golden/record_ours.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from migration.samples import RECORDS, STATE

from ferryfs.migration import describe, stream, trailer


def main() -> None:
    data = b"".join(stream.save(STATE, RECORDS))
    path = Path(__file__).parent / f"ferryfs-{trailer.VERSION}-mount-roots.bin"
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(describe.stream(stream.load(data)), indent=1) + "\n")


if __name__ == "__main__":
    main()
