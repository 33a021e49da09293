"""What the table looks like for people and programs: ``--help``, ``--show-config``, ``--print-capabilities``."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Mapping

from ferryfs.cli.options import DEPRECATED, SHORT, Options, Row, flag, key_of, table
from ferryfs.cli.options_sources import Parsed

USAGE = "Usage: ferryfsd --shared-dir=DIR --socket-path=PATH [OPTIONS]"
WIDTH = 100
_INDENT = 10

# docs/interop/vhost-user.json of QEMU: what a manager may rely on.
FEATURES = (
    "migrate-precopy",
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options",
)


def version_text() -> str:
    """What ``--version`` prints."""
    # Costs more than all the rest of the start, so only here.
    from importlib import metadata

    return f"ferryfsd {metadata.version('ferryfs')}"


def capabilities_text() -> str:
    """What ``--print-capabilities`` prints: JSON by hand, in the layout that virtiofsd's users have seen."""
    features = ",\n".join(f'    "{feature}"' for feature in FEATURES)
    return f'{{\n  "type": "fs",\n  "features": [\n{features}\n  ]\n}}'


def help_text(more: bool = True) -> str:
    """``--help``; ``more`` adds the further sentences of each option."""
    lines = ["Share a host directory with a virtual machine (a vhost-user-fs back-end).", "", USAGE]
    group = ""
    for name, row in table().items():
        if row.group != group:
            group = row.group
            lines += ["", f"{group}:"]
        lines.append("  " + spelling(name, row))
        default = default_text(name, row)
        sentences = f"{row.summary}. {row.more}" if more and row.more else row.summary
        lines += _wrapped(sentences + (f" [default: {default}]" if default else ""))
    lines += [
        "",
        "Each option can also be set by an environment variable (--shared-dir by FERRYFSD_SHARED_DIR) and in",
        "a configuration file (see --config). Sizes take the suffixes K, M, G and T.",
        "Each switch has an opposite: --no-xattr undoes --xattr, --readdirplus undoes --no-readdirplus.",
    ]
    return "\n".join(lines)


def spelling(name: str, row: Row) -> str:
    """The option with all its forms, as in ``-h, --help``."""
    forms = []
    if name in SHORT:
        forms.append(SHORT[name])
    if not name.startswith("compat_"):
        long = flag(name)
        if row.parse is None:
            forms.append(long)
            if row.off is not None and row.off != long:
                forms.append(row.off)
        elif row.implicit is not None:
            forms.append(f"{long}[={row.metavar}]")
        else:
            forms.append(f"{long}={row.metavar}")
    elif row.parse is not None:
        forms[-1] += f" {row.metavar}"
    return ", ".join(forms)


def default_text(name: str, row: Row) -> str:
    """The default as the user would write it; empty where there is none to speak of."""
    if row.default_text:
        return row.default_text
    default = getattr(Options(), name)
    if row.parse is None:
        return (flag(name) if row.off != flag(name) else "") if default else ""
    if default is None or default == ():
        return ""
    return value_text(default)


def value_text(value: object) -> str:
    """A value as it could be written again."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(value_text, value)) if value else "none"
    return "none" if value is None else str(value)


def show_config(parsed: Parsed, environ: Mapping[str, str]) -> str:
    """Each option's value and where it comes from; what is implied and what RUST_LOG overrides too."""
    # Brings the whole of logging, so only here.
    from ferryfs.cli.log import rust_log_level

    overriding: dict[str, tuple[str, str]] = {}
    level = rust_log_level(environ.get("RUST_LOG"))
    if level is not None and not parsed.options.syslog:
        overriding["log_level"] = (level.value, "RUST_LOG")
    if not parsed.options.xattr and (implying := parsed.options.implies_xattr()):
        overriding["xattr"] = ("true", f"implied by {implying}")
    rows = []
    for name, row in table().items():
        if row.command_line_only or row.group == DEPRECATED:
            continue
        given = parsed.texts.get(name)
        text = ", ".join(given) if given else row.default_text or value_text(getattr(parsed.options, name))
        rows.append((key_of(name), *overriding.get(name, (text, parsed.origins.get(name, "default")))))
    first = max(len(row[0]) for row in rows)
    second = min(40, max(len(row[1]) for row in rows))
    return "\n".join(f"{key:<{first}}  {value:<{second}}  {origin}" for key, value, origin in rows)


def print_text(text: str) -> int:
    """Print what was asked for; the exit status."""
    status = 0
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left has nobody to read it, now and when the stream is flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # ferryfsd --help | head has what it wants.
        if not isinstance(error, BrokenPipeError):
            print(f"error: standard output can't be written: {error.strerror}", file=sys.stderr)
            status = 1
    return status


def _wrapped(text: str) -> list[str]:
    lines = [" " * (_INDENT - 1)]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(" " * (_INDENT - 1))
        lines[-1] += " " + word
    return lines
