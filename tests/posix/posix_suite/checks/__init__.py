"""The checks, a module a family. Importing one registers its checks."""

import importlib
from typing import Final

FAMILIES: Final = (
    "names",
    "modes",
    "times",
    "links",
    "symlinks",
    "rename",
    "unlinked",
    "sparse",
    "io",
    "append",
    "mapping",
    "opening",
    "xattrs",
    "acls",
    "locks",
    "directories",
    "owners",
    "users",
    "special",
    "moving",
    "status",
    "paths",
    "concurrency",
)

for family in FAMILIES:
    importlib.import_module(f".{family}", __name__)
