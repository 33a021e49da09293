"""After this nothing is loaded from the file system any more.

Once the root has changed, a path that Python or the C library would open on its own leads nowhere good, in the chroot
mode even into the guest's files. What they load late, each with what is done about it here:

=====================  =============================================================================================
Python modules         everything is imported before; then the import system is emptied, so that a forgotten one fails
codecs                 modules too: those in use are looked up once, which keeps them
source lines           tracebacks read them (linecache, and the interpreter itself): ours are written without
libgcc_s.so.1          glibc loads it when a thread is cancelled or exits: loaded now
/etc/localtime         the C library reads it at the first time conversion and may again: TZ=UTC0 needs no file
/sys/.../cpu/online    os.cpu_count() and malloc read it; a guest could make it say a million, or a pipe of it that
                       nobody writes to: both are told the number now
name services, iconv   not used; group names are resolved before
message catalogs       strerror(3) uses them only after setlocale(LC_MESSAGES), which Python never calls by itself
=====================  =============================================================================================
"""

from __future__ import annotations

import codecs
import encodings
import linecache
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from ferryfs.sandbox import _linux

_CODECS: Final = ("utf-8", "ascii", "latin-1", "utf-16-le", "utf-32-le", "raw_unicode_escape", "unicode_escape")
_LIBRARIES: Final = (b"libgcc_s.so.1",)
# What glibc takes by itself on a 64-bit machine.
_ARENAS_PER_PROCESSOR: Final = 8


def preload() -> None:
    """Load what would be loaded late."""
    for name in _codec_names():
        codecs.lookup(name)
    for handler in ("strict", "surrogateescape", "backslashreplace", "replace", "ignore"):
        codecs.lookup_error(handler)
    for library in _LIBRARIES:
        # musl has no such thing, and doesn't ask for it.
        _linux.preload(library)
    _linux.limit_arenas(_ARENAS_PER_PROCESSOR * _processors())
    os.environ["TZ"] = "UTC0"
    time.tzset()
    time.localtime()


def seal() -> None:
    """Empty the import system. From here on an import of something new is an ImportError, and a bug."""
    # Forgetting how to search forgets what was found, too.
    known = {name: codecs.lookup(name) for name in _codec_names()}
    codecs.unregister(encodings.search_function)
    codecs.register(known.get)
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    # As an attribute of an object: they are functions of the module, and are meant to be empty from now on.
    _replace(linecache, "updatecache", _no_lines)
    _replace(linecache, "checkcache", _nothing)
    _replace(os, "cpu_count", _processors)


def _processors() -> int:
    """How many this process may use: a system call, no file."""
    return len(os.sched_getaffinity(0))


def _codec_names() -> set[str]:
    """As the codec machinery asks for them: in lower case, with underscores."""
    names = {*_CODECS, sys.getfilesystemencoding(), "utf8", "latin1"}
    return {encodings.normalize_encoding(name).lower() for name in names}


def _replace(module: object, name: str, function: Callable[..., object]) -> None:
    vars(module)[name] = function


def _no_lines(filename: str, module_globals: dict[str, object] | None = None) -> list[str]:
    return []


def _nothing(filename: str | None = None) -> None:
    return None
