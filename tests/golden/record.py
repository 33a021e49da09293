#!/usr/bin/env python3
"""Records the golden streams anew, from the real virtiofsd.

usage: tests/golden/record.py   (as root, with ferryfs installed and the daemons of scripts/peers)

For each version and scenario: STREAM.bin as the daemon wrote it, and STREAM.json with its meaning (as ``ferryfs
inspect --json`` says it) and, under "known", what the guest itself knew. Look at the difference before committing it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ferryfs.migration import describe, stream
from golden.peer import VERSIONS, missing, running
from golden.scenarios import SCENARIOS, Known, Scenario, build

HERE = Path(__file__).parent


def record(version: str, scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory() as folder:
        share = Path(folder)
        build(share)
        subprocess.run(["mount", "-t", "tmpfs", "none", share / "mnt"], check=True)
        try:
            (share / "mnt" / "inner").mkdir()
            (share / "mnt" / "inner" / "file").write_text("beneath\n")
            known = Known()
            with running(version, share, *scenario.options) as peer:
                peer.start_queues()
                scenario.act(peer, share, known)
                peer.stop_queues()
                data = peer.save()
        finally:
            subprocess.run(["umount", share / "mnt"], check=True)
    name = HERE / f"virtiofsd-{version}-{scenario.name}"
    name.with_name(name.name + ".bin").write_bytes(data)
    meaning = {**describe.stream(stream.load(data)), "known": asdict(known)}
    text = json.dumps(meaning, indent=1, ensure_ascii=False)
    name.with_name(name.name + ".json").write_text(text + "\n", encoding="utf-8")
    print(f"{name.name}: {len(data)} bytes, {len(meaning['inodes'])} inodes")


def main() -> None:
    if why := missing():
        sys.exit(why)
    if os.environ.get("FERRYFS_RECORDING") is None:
        arguments = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe("unshare", arguments, {**os.environ, "FERRYFS_RECORDING": "1"})
    for version in VERSIONS:
        for scenario in SCENARIOS:
            record(version, scenario)


if __name__ == "__main__":
    main()
