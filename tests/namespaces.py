"""Running a piece of Python with mounts of its own: nothing of them is seen outside, and nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def needs_mounts(*programs: str) -> pytest.MarkDecorator:
    """Skips a test where mounts or one of ``programs`` can't be had, and says which."""
    missing = [program for program in ("unshare", "mount", *programs) if shutil.which(program) is None]
    why = "needs root to mount" if os.geteuid() != 0 else f"{', '.join(missing)} not installed" if missing else ""
    return pytest.mark.skipif(bool(why), reason=why)


def with_mounts(folder: Path, setup: str, code: str) -> Any:
    """Runs the shell lines ``setup`` and then ``code`` in ``folder``, in a mount namespace; what ``code`` gives to
    ``show``.
    """
    script = "import json, os, sys\nshow = lambda value: json.dump(value, sys.stdout)\n" + code
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            f'{setup}\nexec "$0" -c "$1"',
            sys.executable,
            script,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
