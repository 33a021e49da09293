"""`python3 tests/posix DIRECTORY`: the POSIX checks without any test framework."""

import sys

from posix_suite.cli import main

sys.exit(main())
