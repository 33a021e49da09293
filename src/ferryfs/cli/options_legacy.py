"""The ``-o`` form of the first virtiofsd: ``-o source=/srv,cache=none,xattr``, as libvirt and old scripts still write
it.

The names and values are a table of their own, because they differ from the present options (``cache=none`` is
``--cache=never``). A comma inside a value is doubled, as QEMU and libvirt do with paths. Unknown parts are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from ferryfs.errors import OptionError

# name in -o: (field, what its values are called today; None: any value goes through)
_WITH_VALUE: dict[str, tuple[str, dict[str, str] | None]] = {
    "source": ("shared_dir", None),
    "modcaps": ("modcaps", None),
    "xattrmap": ("xattrmap", None),
    "cache": ("cache", {"auto": "auto", "always": "always", "none": "never", "metadata": "metadata"}),
    "loglevel": ("log_level", {"debug": "debug", "info": "info", "warn": "warn", "err": "error"}),
    "sandbox": ("sandbox", {"namespace": "namespace", "chroot": "chroot"}),
}

# word in -o: (field, value)
_WORDS: dict[str, tuple[str, str]] = {
    "xattr": ("xattr", "true"),
    "no_xattr": ("xattr", "false"),
    "readdirplus": ("readdirplus", "true"),
    "no_readdirplus": ("readdirplus", "false"),
    "writeback": ("writeback", "true"),
    "no_writeback": ("writeback", "false"),
    "allow_direct_io": ("allow_direct_io", "true"),
    "no_allow_direct_io": ("allow_direct_io", "false"),
    "announce_submounts": ("announce_submounts", "true"),
    "killpriv_v2": ("killpriv_v2", "true"),
    "no_killpriv_v2": ("killpriv_v2", "false"),
    "posix_acl": ("posix_acl", "always"),
    "no_posix_acl": ("posix_acl", "never"),
    "security_label": ("security_label", "always"),
    "no_security_label": ("security_label", "never"),
}

_LOCKS = {
    "flock": "-o flock has no effect: flock() locks stay within the guest",
    "posix_lock": "-o posix_lock has no effect: fcntl() locks stay within the guest",
    # What they ask for is how it is anyway.
    "no_flock": "",
    "no_posix_lock": "",
}


def legacy_settings(line: str) -> Iterator[tuple[str, str, str, str]]:
    """(field or '', the part as the user wrote it, value text, warning or '') for each part of one ``-o``."""
    parts = split_parts(line)
    if "" in parts:
        raise OptionError(f"-o {line!r}: has an empty part, write parts such as cache=auto, with one comma between two")
    for part in parts:
        name, equals, value = part.partition("=")
        written = f"-o {name}"
        if equals and name in _WITH_VALUE:
            field, names = _WITH_VALUE[name]
            if names is None:
                yield field, written, value, ""
            elif value in names:
                yield field, written, names[value], ""
            else:
                raise OptionError(f"{written}={value}: must be one of {', '.join(names)}")
        elif not equals and name in _WORDS:
            field, constant = _WORDS[name]
            yield field, written, constant, ""
        elif not equals and name in _LOCKS:
            yield "", written, "", _LOCKS[name]
        else:
            raise OptionError(f"-o {part}: is unknown, the -o form has {', '.join(known_parts())}")


def known_parts() -> list[str]:
    """Every part that ``-o`` knows, for people."""
    return [*(f"{each}=" for each in _WITH_VALUE), *_WORDS, *_LOCKS]


def split_parts(line: str) -> list[str]:
    """Split at single commas; a doubled comma is one comma of the value."""
    parts = [""]
    index = 0
    while index < len(line):
        if line[index] != ",":
            parts[-1] += line[index]
        elif line[index + 1 : index + 2] == ",":
            parts[-1] += ","
            index += 1
        else:
            parts.append("")
        index += 1
    return parts
