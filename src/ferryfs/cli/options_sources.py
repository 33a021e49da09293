"""Options from where they come: the command line, ``FERRYFSD_*`` variables, a TOML file; in this order of precedence.

The command line is read as virtiofsd reads it: ``--option value`` and ``--option=value``; given twice, the last
counts; a later ``--no-option`` undoes an earlier ``--option``, and what a file or the environment says (virtiofsd has
that for two of its switches, here each has it); the ``-o`` form is applied after all others.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ferryfs.cli import options_rules
from ferryfs.cli.options import SHORT, LogLevel, Options, Row, key_of, table
from ferryfs.cli.options_legacy import legacy_settings
from ferryfs.cli.options_values import truth
from ferryfs.errors import OptionError
from ferryfs.values import mutable

DEFAULT_FILE = "/etc/ferryfs/ferryfsd.toml"
PREFIX = "FERRYFSD_"
COMMAND_LINE = "command line"
ENVIRONMENT = "environment"
ENDS_READING = frozenset(("help", "version"))
"""As clap: what stands behind them on the command line is not even looked at."""
ONLY_PRINT = ENDS_READING | {"print_capabilities"}
"""A manager asks with these what the program is, and gets its answer whatever file and environment say."""
FILE_MAX = 1 << 20
"""Largest configuration file: a hundred times what all options need; a wrong path such as /dev/zero ends soon."""


@mutable
class Parsed:
    """The options, where each of them comes from, and what the log should say of them once it is up."""

    options: Options
    origins: dict[str, str]
    texts: dict[str, list[str]]
    warnings: list[str]
    notes: list[str]

    def check(self, uid: int | None = None) -> list[str]:
        """The rules across options: raises ``OptionError``, returns warnings; both say where an option comes from."""
        warnings = list(self.warnings)
        if "xattr" in self.origins and not self.options.xattr and (implying := self.options.implies_xattr()):
            warnings.append(
                self.explain(f"--no-xattr has no effect with {implying}, which can't do without extended attributes")
            )
        try:
            return [*warnings, *map(self.explain, options_rules.check(self.options, uid))]
        except OptionError as error:
            raise OptionError(self.explain(str(error))) from None

    def explain(self, sentence: str) -> str:
        """The sentence, and where the options that it names were set, if not on the command line.

        Who typed ``--fd=3`` and reads about ``--socket-path`` must know which file to look into.
        """
        places: list[str] = []
        for word in sentence.split():
            option = word.strip("(),:;'").partition("=")[0]
            name, _ = _spellings().get(option, ("", ""))
            origin = self.origins.get(name, COMMAND_LINE)
            if origin == COMMAND_LINE:
                continue
            place = f"{option} is " + (PREFIX + name.upper() if origin == ENVIRONMENT else f"set in {origin}")
            if place not in places:
                places.append(place)
        return f"{sentence} ({', '.join(places)})" if places else sentence


def load(argv: Sequence[str], environ: Mapping[str, str], default_file: str = DEFAULT_FILE) -> Parsed:
    """Everything that the user asked for. Raises ``OptionError``; rules across options are ``options_rules.check``."""
    collected = _Collected()
    from_argv, warnings = _read_arguments(argv)
    if not from_argv.keys() & ONLY_PRINT:
        if "config" in from_argv:
            _read_file(from_argv["config"][-1][1], "--config=", collected)
        elif environ.get(PREFIX + "CONFIG"):
            _read_file(environ[PREFIX + "CONFIG"], f"{PREFIX}CONFIG=", collected)
        elif os.path.exists(default_file):
            _read_file(default_file, "the file ", collected)
        _read_environment(environ, collected, warnings)
    for name, given in from_argv.items():
        collected.set(name, given, COMMAND_LINE)
    for line in collected.values.get("compat_options", ()):
        for name, option, text, warning in legacy_settings(str(line)):
            if warning:
                warnings.append(warning)
            if name:
                collected.set(name, [(option, text)], COMMAND_LINE)
    if "compat_debug" in from_argv:
        # As with virtiofsd, whatever --log-level says.
        collected.set("log_level", [("-d", LogLevel.DEBUG.value)], COMMAND_LINE)
    notes = collected.give_way()
    return Parsed(Options(**collected.final()), collected.origins, collected.texts, warnings, notes)


class _Collected:
    """Values so far; a later source replaces an earlier one as a whole."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[object, ...]] = {}
        self.origins: dict[str, str] = {}
        self.texts: dict[str, list[str]] = {}

    def set(self, name: str, given: Sequence[tuple[str, str]], origin: str) -> None:
        """``given`` is a list of (as the user wrote the option, its text); the last counts where one value is
        wanted."""
        row = table()[name]
        parsed = [_parse(row, option, text) for option, text in given]
        if name == "socket":
            # The old name; where one source has both, the new one counts, as with virtiofsd.
            name = "socket_path"
            if self.origins.get(name) == origin:
                return
        self.values[name] = tuple(parsed) if row.many else (parsed[-1],)
        self.texts[name] = [text for _, text in given] if row.many else [given[-1][1]]
        self.origins[name] = origin

    def give_way(self) -> list[str]:
        """Drop what an option of a higher source excludes; a sentence about each."""
        notes = []
        for name, others in options_rules.GIVES_WAY.items():
            for other in others:
                if self._excludes(other, name):
                    notes.append(
                        f"{key_of(name)} of the {_place(self.origins[name])} is not used, because the "
                        f"{_place(self.origins[other])} has {key_of(other)}"
                    )
                    del self.values[name], self.texts[name], self.origins[name]
        return notes

    def _excludes(self, name: str, lower: str) -> bool:
        defaults = Options()
        for each in (name, lower):
            if each not in self.values or self._final(each) == getattr(defaults, each):
                return False
        return _rank(self.origins[name]) > _rank(self.origins[lower])

    def final(self) -> dict[str, Any]:
        """The fields of ``Options``; each value has the type that its own row's parser returns."""
        return {name: self._final(name) for name in self.values}

    def _final(self, name: str) -> Any:
        value = self.values[name]
        return value if table()[name].many else value[0]


def _rank(origin: str) -> int:
    return {COMMAND_LINE: 2, ENVIRONMENT: 1}.get(origin, 0)


def _place(origin: str) -> str:
    return origin if _rank(origin) else f"file {origin}"


def _parse(row: Row, option: str, text: str) -> object:
    parse = row.parse or truth
    try:
        return parse(text)
    except OptionError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise OptionError(f"{option} {shown!r}: {error}") from None


def _read_arguments(argv: Sequence[str]) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Field name to (option as written, text) in order."""
    spellings = _spellings()
    found: dict[str, list[tuple[str, str]]] = {}
    warnings: list[str] = []
    arguments = iter(argv)
    before = ""
    for argument in arguments:
        if argument == "--":
            for word in arguments:
                raise OptionError(_misplaced(word, argument))
            break
        if argument.startswith("--"):
            option, equals, text = argument.partition("=")
            pending = [(option, text if equals else None)]
        elif argument.startswith("-") and len(argument) > 1:
            pending = _short_options(argument)
        else:
            raise OptionError(_misplaced(argument, before))
        before = argument
        for option, attached in pending:
            if option not in spellings:
                raise OptionError(_unknown(option, spellings))
            name, constant = spellings[option]
            row = table()[name]
            value: str | None
            if row.parse is None:
                if attached is not None:
                    raise OptionError(f"{option} takes no value, leave out '={attached}'")
                value = constant
            elif attached is not None:
                value = attached
            elif row.implicit is not None:
                value = row.implicit
            else:
                value = next(arguments, None)
                # As clap: what looks like a long option is not taken for a value.
                if value is None or value.startswith("--"):
                    raise OptionError(f"{option} needs a value, write {option}={row.metavar}")
            if name in ("socket", "compat_debug", "compat_foreground"):
                warnings.append(_DEPRECATED[name])
            elif name == "compat_options":
                warnings.append("-o is deprecated, write its parts as options of their own, e.g. --cache=auto")
            elif name == "inode_file_handles" and value == "fallback":
                warnings.append("--inode-file-handles=fallback is deprecated, write --inode-file-handles=prefer")
            found.setdefault(name, []).append((option, value))
            if name in ENDS_READING:
                return found, warnings
    return found, warnings


def _misplaced(word: str, before: str) -> str:
    """What to say about a word that is no option and stands behind the argument ``before``."""
    name, _ = _spellings().get(before, ("", ""))
    row = table().get(name)
    if row is not None and row.implicit is not None:
        with contextlib.suppress(OptionError):
            _parse(row, before, word)
            return f"unexpected argument {word!r}, write {before}={word}"
    if before == "--" and word.startswith("-"):
        return f"unexpected argument {word!r}, nothing is read after a lone --"
    return f"unexpected argument {word!r}, options begin with -- (try --shared-dir={word})"


_DEPRECATED = {
    "socket": "--socket is deprecated, write --socket-path",
    "compat_debug": "-d is deprecated, write --log-level=debug",
    "compat_foreground": "-f has no effect, leave it out",
}


def _short_options(argument: str) -> list[tuple[str, str | None]]:
    """``-df`` is ``-d -f``; what follows a letter that takes a value is the value."""
    takes_value = {letter for name, letter in SHORT.items() if table()[name].parse is not None}
    pending: list[tuple[str, str | None]] = []
    for index in range(1, len(argument)):
        letter = "-" + argument[index]
        if letter in takes_value and index + 1 < len(argument):
            pending.append((letter, argument[index + 1 :].removeprefix("=")))
            break
        if argument[index + 1 : index + 2] == "=":
            pending.append((letter, argument[index + 2 :]))
            break
        pending.append((letter, None))
    return pending


@functools.cache
def _spellings() -> dict[str, tuple[str, str]]:
    """Every option as it can be written, to its field and, for a switch, what it sets."""
    spellings: dict[str, tuple[str, str]] = {}
    for name, row in table().items():
        if name in SHORT:
            spellings[SHORT[name]] = (name, "true")
        if name.startswith("compat_"):
            continue
        spellings["--" + key_of(name)] = (name, "true")
        if row.has_opposite():
            spellings["--no-" + key_of(name)] = (name, "false")
    return spellings


@functools.cache
def _keys() -> dict[str, tuple[str, bool]]:
    """Every option as a key of the file, to its field and whether the key says the opposite of the field."""
    keys: dict[str, tuple[str, bool]] = {}
    for name, row in table().items():
        if not row.command_line_only:
            keys[key_of(name)] = (name, False)
        if row.has_opposite():
            keys["no-" + key_of(name)] = (name, True)
    return keys


def _opposite(row: Row, option: str, text: str) -> str:
    return "false" if _parse(row, option, text) else "true"


def _unknown(option: str, spellings: Mapping[str, object]) -> str:
    import difflib

    close = difflib.get_close_matches(option, spellings, 1)
    return f"unknown option {option}" + (f", did you mean {close[0]}?" if close else ", --help lists all options")


def _read_environment(environ: Mapping[str, str], collected: _Collected, warnings: list[str]) -> None:
    variables: dict[str, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower().replace("_", "-")
        if key not in _keys():
            # No error: Kubernetes sets variables named after every service (FERRYFSD_PORT, FERRYFSD_SERVICE_HOST).
            warnings.append(f"the environment variable {variable} names no option and is not used")
            continue
        if not text:
            # As where nobody sets it: a service's file or a compose file clears a variable like this.
            continue
        name, negative = _keys()[key]
        row = table()[name]
        other = variables.setdefault(name, variable)
        if other != variable:
            raise OptionError(f"{other} and {variable} are the same option, leave one of them out")
        if negative:
            collected.set(name, [(variable, _opposite(row, variable, text))], ENVIRONMENT)
        elif row.many and text.split():
            collected.set(name, [(variable, part) for part in text.split()], ENVIRONMENT)
        elif not row.many:
            collected.set(name, [(variable, text)], ENVIRONMENT)


def _read_file(path: str, named: str, collected: _Collected) -> None:
    """``named`` is how the file was chosen, as the beginning of a sentence about it."""
    # Only who has a file pays for the parser.
    import tomllib

    try:
        with open(path, "rb") as file:
            content = file.read(FILE_MAX + 1)
    except OSError as error:
        raise OptionError(f"{named}{path}: can't be read: {error.strerror} (--config=/dev/null reads none)") from None
    if len(content) > FILE_MAX:
        raise OptionError(f"{named}{path}: is larger than {FILE_MAX} bytes, it can't be a configuration of ferryfsd")
    try:
        settings = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{named}{path}: is not TOML: {error}") from None
    keys: dict[str, str] = {}
    for key, value in settings.items():
        name, negative = _keys().get(key.replace("_", "-"), ("", False))
        if name in ("", "config"):
            raise OptionError(f"{path}: {key!r} is not an option, keys are option names such as shared-dir or cache")
        other = keys.setdefault(name, key)
        if other != key:
            raise OptionError(f"{path}: {key_of(name)} is there twice, as {other} and {key}")
        row = table()[name]
        where = f"{path}: {key} ="
        items = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not row.many:
            raise OptionError(f"{path}: {key} takes one value and not a list")
        texts = [(where, _toml_text(where, item, row)) for item in items]
        if negative:
            texts = [(where, _opposite(row, where, text)) for where, text in texts]
        if texts:
            collected.set(name, texts, path)


def _toml_text(where: str, value: object, row: Row) -> str:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    if row.parse is None:
        if not isinstance(value, bool):
            raise OptionError(f"{where} {shown}: must be true or false, without quotes")
        return shown
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool) and not row.many:
        try:
            row.parse(shown)
        except OptionError as error:
            # Says more, such as the words that are right.
            raise OptionError(f"{where} {shown}: {error}") from None
    raise OptionError(f"{where} {shown}: must be {'a list of texts' if row.many else 'a text or a number'}")
