"""The operator's command: ``ferryfs SUB-COMMAND``. Each sub-command is a module of this package with a ``main``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

from ferryfs.errors import FerryError

# Name, what it does in one line. The module is ferryfs.cli.NAME; it is only imported when it is asked for.
COMMANDS: Final = {
    "mount": "mount what a vhost-user-fs daemon shares on a directory of this machine, without a virtual machine",
    "migrate": "move a mount made by `ferryfs mount` from its daemon to another one",
    "save": "write the device state of a mount made by `ferryfs mount` to a file",
    "inspect": "show a saved device state for people",
    "check": "say whether a directory and a machine are fit for sharing and migration",
    "xattrmap": "try the rules of --xattrmap on names",
    "install-descriptor": "tell virtual machine managers where ferryfsd is",
    "bench": "measure daemons side by side",
    "demo": "show a guest that uses a share, and its migration",
}
_MODULES: Final = {"migrate": ("ferryfs.cli.migrate", "migrate_main"), "save": ("ferryfs.cli.migrate", "save_main")}


def usage() -> str:
    """The text of ``ferryfs --help``."""
    lines = "\n".join(f"  {name:<18} {summary}" for name, summary in COMMANDS.items())
    more = "`ferryfs COMMAND --help` says more; `ferryfs --version` the version."
    return f"usage: ferryfs COMMAND [OPTION…]\n\n{lines}\n\n{more}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status: 0, that of the error, 2 for a command line that can't be, 130 for
    Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name in ("-V", "--version"):
        version = importlib.import_module("importlib.metadata").version("ferryfs")
        print(f"ferryfs {version}")
        return 0
    if name not in COMMANDS:
        print(f"ferryfs: there is no command {name!r}: `ferryfs --help` lists them.", file=sys.stderr)
        return 2
    module_name, function = _MODULES.get(name, (f"ferryfs.cli.{name.replace('-', '_')}", "main"))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        print(f"ferryfs: the command {name} is not part of this build.", file=sys.stderr)
        return 2
    try:
        status: int = getattr(module, function)(rest)
    except FerryError as error:
        print(f"ferryfs {name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
