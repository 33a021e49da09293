"""The daemon's interpreter listens to nobody: no PYTHON* variables, no user site, nothing beside the script.

A console script can't be started with ``python -I``. Starting the interpreter a second time costs 15 to 30 ms, so
that is done only where there is something to be isolated from (docs/decisions tells why). Imports nothing but what
every start has anyway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping


def isolate(environ: MutableMapping[str, str]) -> None:
    """Returns isolated, or doesn't return because the process starts again with ``-I``."""
    if not sys.flags.isolated and needs_restart(environ, _user_site()):
        command = restart_command(sys.orig_argv)
        if command:
            clean = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
            try:
                os.execve(sys.executable, command, clean)
            except OSError as error:
                sys.exit(f"error: {sys.executable} can't be started again with -I: {error.strerror}")
    # The folder of the script (or the working directory, with -m and -c) stands first.
    if not sys.flags.safe_path and sys.path:
        del sys.path[0]
    for name in [name for name in environ if name.startswith("PYTHON")]:
        # Nobody should find them later, neither.
        del environ[name]


def needs_restart(environ: Mapping[str, str], user_site: str) -> bool:
    """Whether anything of this start may have come from outside the installation."""
    if any(name.startswith("PYTHON") and value for name, value in environ.items()):
        return True
    # Who installed ferryfs into the user site means it; without that it wouldn't be found.
    return bool(user_site) and user_site in sys.path and not __file__.startswith(user_site + os.sep)


def restart_command(original: list[str]) -> list[str]:
    """The same command line with ``-I``; empty when there is none that can be repeated (an embedded interpreter)."""
    return [original[0], "-I", *original[1:]] if original else []


def _user_site() -> str:
    # The module is there unless python -S was asked for, and has worked the folder out already.
    site = sys.modules.get("site")
    folder = getattr(site, "USER_SITE", None)
    return folder if isinstance(folder, str) else ""
