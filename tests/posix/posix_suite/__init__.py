"""A POSIX test suite of plain functions of a directory.

The same checks run on a bare directory (the oracle), through a mount of it, and in a guest: `python3 tests/posix
DIRECTORY`, or as one file after `python3 -m zipapp tests/posix -o posix.pyz`. Nothing but Python's own library is used.
"""

from . import checks
from .features import FEATURES, probe
from .registry import CHECKS, Check
from .runner import Result, run

__all__ = ["CHECKS", "FEATURES", "Check", "Result", "checks", "probe", "run"]
