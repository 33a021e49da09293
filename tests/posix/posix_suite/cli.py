"""The command line: runs the checks in a directory, in a guest as well (Python 3.11 and nothing else is needed)."""

import argparse
import fnmatch
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .features import FEATURES, probe
from .registry import CHECKS
from .runner import TIME_LIMIT_SECONDS, Result, run


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="posix", description="POSIX checks of a directory")
    parser.add_argument("directory", type=Path, nargs="?", help="where to run: a bare directory, or a mount")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="run only checks of this name (may be a glob)"
    )
    parser.add_argument(
        "--except", action="append", default=[], dest="without", metavar="PATTERN", help="leave these out"
    )
    parser.add_argument("--features", metavar="NAMES", help="what the bare directory has, as --probe prints it")
    parser.add_argument("--timeout", type=float, default=TIME_LIMIT_SECONDS, metavar="SECONDS", help="for each check")
    parser.add_argument("--json", action="store_true", help="print one JSON object a check")
    parser.add_argument("--probe", action="store_true", help="print what the directory has, and end")
    parser.add_argument("--list", action="store_true", help="print the names of the checks, and end")
    arguments = parser.parse_args(argv)
    if arguments.directory is None and not arguments.list:
        parser.error("name a directory")
    return arguments


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(result)), flush=True)
        return
    line = f"{result.status:8}{result.name}"
    print(f"{line}: {result.detail.strip()}" if result.detail else line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line asks for; 0 if nothing failed, 1 if something did, 2 if nothing matched."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    names = [
        name
        for name in CHECKS
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in arguments.only or ["*"])
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in arguments.without)
    ]
    if arguments.list:
        print("\n".join(names))
        return 0
    if arguments.probe:
        print(",".join(sorted(probe(arguments.directory))))
        return 0
    if not names:
        print("no check has such a name; --list prints all", file=sys.stderr)
        return 2
    directory = arguments.directory.resolve()
    features = (
        probe(directory) if arguments.features is None else frozenset(arguments.features.split(",")) & set(FEATURES)
    )
    results = []
    for name in names:
        results.append(run(CHECKS[name], directory, frozenset(features), arguments.timeout))
        _show(results[-1], arguments.json)
    count = {status: sum(result.status == status for result in results) for status in ("passed", "failed", "skipped")}
    print(", ".join(f"{number} {status}" for status, number in count.items()), file=sys.stderr)
    return 1 if count["failed"] else 0
