"""``ferryfs install-descriptor``: tell libvirt and others where the daemon is.

QEMU's ``docs/interop/vhost-user.json`` defines a folder of JSON files, each of which names a back-end program and
what it can do; a manager takes the first of the right type.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from ferryfs.cli.options_text import FEATURES
from ferryfs.errors import OptionError, SetupError

NAME: Final = "50-ferryfsd.json"
"""Managers read the folder in alphabetical order; virtiofsd's own file is 50-virtiofsd.json, so ours comes before."""
PREFIX: Final = "/usr"
FOLDER: Final = "share/qemu/vhost-user"

USAGE: Final = f"""usage: ferryfs install-descriptor [--prefix=DIR] [--binary=PATH] [--print]

Writes {FOLDER}/{NAME} below DIR (default {PREFIX}), so that managers find ferryfsd.
--binary is where ferryfsd is (default: beside this program); --print shows the file instead of writing it."""


def main(argv: Sequence[str]) -> int:
    """Write the descriptor and say where."""
    prefix, binary, only_print = PREFIX, "", False
    for argument in argv:
        option, _, value = argument.partition("=")
        if argument in ("-h", "--help"):
            print(USAGE)
            return 0
        if argument == "--print":
            only_print = True
        elif option == "--prefix" and value:
            prefix = value
        elif option == "--binary" and value:
            binary = value
        else:
            raise OptionError(f"unknown argument {argument!r}, write --prefix=DIR, --binary=PATH or --print")
    text = descriptor(binary or beside(sys.argv[0]))
    if only_print:
        print(text, end="")
        return 0
    folder = os.path.join(prefix, FOLDER)
    path = os.path.join(folder, NAME)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SetupError(f"{path} can't be written ({error.strerror}), run it as root or give --prefix=DIR") from None
    print(f"{path} names {json.loads(text)['binary']}")
    return 0


def descriptor(binary: str) -> str:
    """The content of the file for a daemon at ``binary``."""
    content = {
        "description": "ferryfsd vhost-user-fs",
        "type": "fs",
        "binary": os.path.abspath(binary),
        "features": list(FEATURES),
    }
    return json.dumps(content, indent=2) + "\n"


def beside(program: str) -> str:
    """The daemon in the folder of ``program``. Raises ``OptionError`` where there is none."""
    binary = os.path.join(os.path.dirname(os.path.abspath(program)), "ferryfsd")
    if not os.access(binary, os.X_OK):
        raise OptionError(f"there is no ferryfsd beside {program}, say where it is with --binary=PATH")
    return binary
