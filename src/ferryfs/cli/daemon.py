"""``ferryfsd``: the entry point. What it does is in ``startup``, imported after the interpreter is isolated."""

from __future__ import annotations

import os
import sys

from ferryfs.cli.isolation import isolate


def main() -> None:
    """Run the daemon and end the process with its status."""
    isolate(os.environ)
    from ferryfs.cli.startup import run

    status = run(sys.argv[1:], os.environ)
    if sys.stdout is not None:
        sys.stdout.flush()
    # Nothing of what an orderly interpreter shutdown does is needed, and code that runs late may load something late.
    os._exit(status)


if __name__ == "__main__":
    main()
