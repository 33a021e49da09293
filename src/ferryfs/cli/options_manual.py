"""The reference of all options as a document and as a manual page, made from the table.

``python -m ferryfs.cli.options_manual DOCS`` writes ``DOCS/options.md`` and ``DOCS/man/ferryfsd.1``; a test compares.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ferryfs.cli.options import Row, key_of, table
from ferryfs.cli.options_legacy import known_parts
from ferryfs.cli.options_text import default_text, spelling

_SOURCES = """\
Where a value comes from, in order of precedence: the command line, a variable of the environment (`--shared-dir` is
`FERRYFSD_SHARED_DIR`; several values are separated by spaces, an empty one counts as not set), the file of `--config`
(TOML, a key is an option's name without dashes; switches are `true` or `false`, several values a list), the default.
`ferryfsd --show-config` prints each value and its source.

Each switch has an opposite, `--no-xattr` for `--xattr` and `--readdirplus` for `--no-readdirplus`, with which the
command line undoes what the environment or the file says. The last one counts. (virtiofsd has them for
`--announce-submounts` and `--killpriv-v2`.) In the environment and the file both names work too. `--config=/dev/null`
reads no file.

An option that can't be used with one of a higher source is dropped, and the log says so: `--fd` on the command line
takes the place of a `socket-path` in the file. What confines the guest (`--translate-uid`, `--modcaps`) is not dropped;
there it is an error, which names the source. `--help`, `--version` and `--print-capabilities` look at the command line
only."""

PAGE = "man/ferryfsd.1"
REFERENCE = "options.md"


def reference() -> str:
    """All options, as Markdown."""
    lines = [
        "# Options of ferryfsd",
        "",
        "<!-- Made from src/ferryfs/cli/options.py by `python -m ferryfs.cli.options_manual docs`. -->",
        "",
        "The options of virtiofsd 1.14.0 have its names, values and defaults. **Ours** marks the others.",
        "",
        _SOURCES,
    ]
    group = ""
    for name, row in table().items():
        if row.group != group:
            group = row.group
            lines += ["", f"## {group}"]
        lines += ["", f"### `{spelling(name, row)}`", "", _sentences(row)]
        facts = _facts(name, row)
        if facts:
            lines += ["", facts]
    lines += [
        "",
        "## The `-o` form",
        "",
        "Parts joined by commas; a comma in a value is doubled. Known parts: "
        + ", ".join(f"`{part}`" for part in known_parts())
        + ". Anything else is refused.",
    ]
    return "\n".join(lines) + "\n"


def manual_page() -> str:
    """ferryfsd(1), as roff."""
    lines = [
        '.TH FERRYFSD 1 "" ferryfs "User Commands"',
        ".SH NAME",
        r"ferryfsd \- share a host directory with a virtual machine",
        ".SH SYNOPSIS",
        r".B ferryfsd \-\-shared\-dir=\fIDIR\fB \-\-socket\-path=\fIPATH\fR [\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        "A vhost-user-fs back-end: a monitor connects to the socket, and its guest mounts the directory.",
        "The daemon ends with status 0 when the front-end goes or a signal ends it, 1 when this host lacks something,",
        "and 2 when the options are wrong.",
        ".PP",
        roff("Each switch has an opposite that undoes it: --no-xattr for --xattr, --readdirplus for --no-readdirplus."),
    ]
    group = ""
    for name, row in table().items():
        if row.group != group:
            group = row.group
            lines.append(f".SH {roff(group.upper())}")
        lines += [".TP", f".B {roff(spelling(name, row))}", roff(_sentences(row))]
        default = default_text(name, row)
        if default:
            lines.append(roff(f"Default: {default}."))
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        ".B FERRYFSD_*",
        "An option each, in capitals and with underscores.",
        ".TP",
        ".B RUST_LOG",
        "The log level, as virtiofsd takes it.",
        ".SH FILES",
        ".TP",
        ".I /etc/ferryfs/ferryfsd.toml",
        "Options, where it exists.",
        ".SH SEE ALSO",
        r".BR ferryfs (1)",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write both below the folder ``argv[0]``."""
    if len(argv) != 1:
        print("usage: python -m ferryfs.cli.options_manual DOCS", file=sys.stderr)
        return 2
    os.makedirs(os.path.join(argv[0], os.path.dirname(PAGE)), exist_ok=True)
    for path, text in ((REFERENCE, reference()), (PAGE, manual_page())):
        with open(os.path.join(argv[0], path), "w", encoding="utf-8") as file:
            file.write(text)
    return 0


def _sentences(row: Row) -> str:
    return f"{row.summary}. {row.more}".strip()


def _facts(name: str, row: Row) -> str:
    facts = []
    if row.ours:
        facts.append("**Ours**")
    default = default_text(name, row)
    if default:
        facts.append(f"Default: {default}" if row.default_text else f"Default: `{default}`")
    if row.many:
        facts.append("May be given several times")
    if row.implicit is not None:
        facts.append(f"Without a value: `{row.implicit}`; a value needs the `=`")
    if not row.command_line_only and name != "config":
        facts.append(f"In a file: `{key_of(name)}`")
    return "; ".join(facts) + "." if facts else ""


def roff(text: str) -> str:
    """Plain text as a line of roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
