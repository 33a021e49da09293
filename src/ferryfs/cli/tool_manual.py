"""ferryfs(1), made from the table of sub-commands and from what each of them says about its own arguments.

``python -m ferryfs.cli.tool_manual DOCS`` writes ``DOCS/man/ferryfs.1``; a test compares.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ferryfs.cli import bench, check, demo, inspect, install_descriptor, migrate, mount, xattrmap
from ferryfs.cli.options_manual import roff
from ferryfs.cli.tool import COMMANDS

PAGE: Final = "man/ferryfs.1"

# A parser, or the text of --help of a command that has no options of its own to parse.
_ARGUMENTS: Final[dict[str, argparse.ArgumentParser | str]] = {
    "mount": mount.arguments_parser(),
    "migrate": migrate.migrate_parser(),
    "save": migrate.save_parser(),
    "inspect": inspect.arguments_parser(),
    "check": check.USAGE,
    "xattrmap": xattrmap.USAGE,
    "install-descriptor": install_descriptor.USAGE,
    "bench": bench.arguments_parser(),
    "demo": demo.arguments_parser(),
}


def manual_page() -> str:
    """ferryfs(1), as roff."""
    lines = [
        '.TH FERRYFS 1 "" ferryfs "User Commands"',
        ".SH NAME",
        r"ferryfs \- what belongs to ferryfsd: mounts without a virtual machine, device states, checks",
        ".SH SYNOPSIS",
        r".B ferryfs \fICOMMAND\fR [\fIARGUMENT\fR...]",
        ".SH DESCRIPTION",
        "Ends with status 0 when all went well, 2 when the words are wrong, 130 after Ctrl-C, and 1 otherwise,",
        "with one sentence on standard error.",
        ".SH COMMANDS",
    ]
    for name, summary in COMMANDS.items():
        lines.append(f".SS {roff(name)}")
        arguments = _ARGUMENTS[name]
        lines += _of_text(summary, arguments) if isinstance(arguments, str) else _of_parser(summary, arguments)
    return "\n".join([*lines, ".SH SEE ALSO", r".BR ferryfsd (1)"]) + "\n"


def _of_text(summary: str, usage: str) -> Iterator[str]:
    line, _, text = usage.partition("\n\n")
    yield f".B {roff(line.removeprefix('usage: '))}"
    yield ".PP"
    yield f"{_sentence(summary)}"
    yield from (roff(more) for more in text.splitlines())


def _of_parser(summary: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in parser._actions if action.dest != "help"]
    places = [_value(action) for action in actions if not action.option_strings]
    yield f".B {roff(' '.join([parser.prog, '[OPTION…]', *places]))}"
    yield ".PP"
    yield f"{_sentence(summary)}"
    for action in actions:
        yield ".TP"
        value = _value(action) if action.nargs != 0 else ""
        words = [f"{option} {value}".rstrip() for option in action.option_strings] or [value]
        yield f".B {roff(', '.join(words))}"
        yield _sentence((action.help or action.dest) % {**vars(action), "prog": parser.prog})


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    named = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{named}…" if action.nargs in ("+", "*") else named


def _sentence(text: str) -> str:
    return roff(text[:1].upper() + text[1:].rstrip(".") + ".")


def main(argv: Sequence[str]) -> int:
    """Write the page below the folder ``argv[0]``."""
    if len(argv) != 1:
        print("usage: python -m ferryfs.cli.tool_manual DOCS", file=sys.stderr)
        return 2
    with open(os.path.join(argv[0], PAGE), "w", encoding="utf-8") as file:
        file.write(manual_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
