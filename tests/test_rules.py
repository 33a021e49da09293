"""The rules of conftest themselves: each is broken once, in a run of its own, and must be noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Each breaks one rule; the second part is what the run has to say about it.
BROKEN = {
    "descriptor": ("import os\ndef test():\n    os.dup(0)\n", "a file descriptor is left over"),
    "thread": (
        "import threading\ndef test():\n    threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        "a thread is left over",
    ),
    "child": (
        "import subprocess\nkept = []\ndef test():\n    kept.append(subprocess.Popen(['sleep', '2']))\n",
        "a child process is left over",
    ),
    "orphan": (
        "import subprocess\ndef test():\n    subprocess.run(['sh', '-c', 'sleep 2 >/dev/null 2>&1 &'], check=True)\n",
        "a child process is left over",
    ),
    "warning": ("import warnings\ndef test():\n    warnings.warn('odd')\n", "UserWarning: odd"),
    "skip": ("import pytest\ndef test():\n    pytest.skip('no such thing')\n", "has to be named in allowed-skips.txt"),
    "skipped module": ("import pytest\npytest.skip('none', allow_module_level=True)\n", "has to be named in"),
    "expected failure": ("import pytest\n@pytest.mark.xfail\ndef test():\n    assert 0\n", "has to be named in"),
    "complaint": (
        (
            "import sys\nfrom pathlib import Path\n"
            "def test(start_daemon, tmp_path):\n"
            "    program = tmp_path / 'daemon'\n"
            "    program.write_text(f'#!{sys.executable}\\nimport sys, time\\n'\n"
            "        'print(\"Waiting for vhost-user socket connection\", file=sys.stderr, flush=True)\\n'\n"
            "        'raise ValueError(1)\\n')\n"
            "    program.chmod(0o755)\n"
            "    start_daemon([str(program)], tmp_path)\n"
        ),
        "Traceback (most recent call last)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_fails_the_run(name: str, tmp_path: Path) -> None:
    """A run of one test that breaks the rule ends with pytest's status for failures, and names the rule."""
    text, wanted = BROKEN[name]
    (tmp_path / "test_broken.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", str(TESTS.parent / "pyproject.toml"), "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-p", "conftest", str(tmp_path)]
    environment = {
        **os.environ,
        "CI": "true",
        "FERRYFS_TEST_PATIENCE": "0.3",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path
    )
    assert wanted in done.stdout, done.stdout
    assert done.returncode in {1, 2}, done.stdout
