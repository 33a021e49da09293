"""From a command line to a serving daemon: the order of things.

1. options; what only prints ends here
2. log, leaked descriptors, limits
3. the socket, so that a front-end may already connect
4. the sandbox: from here on the file system is the guest's
5. capabilities and system calls
6. device and loop
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from ferryfs.cli import options_text
from ferryfs.cli.options import SeccompAction
from ferryfs.cli.options_sources import Parsed, load
from ferryfs.errors import FerryError, OptionError

_LOG = logging.getLogger("ferryfs")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The daemon from start to end; returns the exit status."""
    try:
        parsed = load(argv, environ)
        text = _text_wanted(argv, environ, parsed)
        if text is not None:
            return options_text.print_text(text)
        warnings = parsed.check()
    except OptionError as error:
        return _usage_error(str(error), bare=not argv)
    try:
        return _start(parsed, environ, warnings)
    except FerryError as error:
        _LOG.error("%s", parsed.explain(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        # Ctrl-C before there was anything to end in order.
        return 128 + signal.SIGINT


def _text_wanted(argv: Sequence[str], environ: Mapping[str, str], parsed: Parsed) -> str | None:
    options = parsed.options
    if options.help:
        return options_text.help_text(more="-h" not in argv)
    if options.version:
        return options_text.version_text()
    if options.print_capabilities:
        if options.socket_group is not None:
            raise OptionError("--print-capabilities can't be used with --socket-group, leave one of them out")
        return options_text.capabilities_text()
    if options.show_config:
        return options_text.show_config(parsed, environ)
    return None


def _start(parsed: Parsed, environ: Mapping[str, str], warnings: Sequence[str]) -> int:
    # Imported here: --version and the like don't need them. All of it before the sandbox closes.
    from ferryfs.cli import log, service
    from ferryfs.sandbox import _linux, confine, limits, root, seccomp

    options = parsed.options
    leaked = root.close_leaked_files(options.fd)
    log.set_up(options, environ)
    for warning in warnings:
        _LOG.warning("%s", warning)
    for note in parsed.notes:
        _LOG.info("%s", note)
    if leaked:
        _LOG.debug("closed %d file descriptors that the parent process left open", leaked)
    if options.shared_dir is None:
        raise OptionError("no directory to share was given, add --shared-dir=DIR")
    root.check_shared(options.shared_dir)
    if options.check:
        from ferryfs.cli.check import print_table

        return print_table(options)
    if options.uses_xattr() and (reason := root.without_xattrs(options.shared_dir)):
        option = "--xattr" if options.xattr else options.implies_xattr()
        sentence = (
            f"{option}: the file system of {options.shared_dir} has no extended attributes for users ({reason}), the "
            "guest's requests for them will fail: leave the option out, or share a directory of another file system"
        )
        _LOG.warning("%s", parsed.explain(sentence))
    os.umask(0)
    _linux.set_thread_name(b"ferryfsd")
    files = limits.set_file_limit(options.rlimit_nofile, options.pool_size())
    if options.rlimit_core is not None:
        limits.set_core_limit(options.rlimit_core)
    listening = service.open_socket(options)
    notify = service.Notify(environ)
    # Built now, because libseccomp can't be loaded any more once the root has changed.
    system_calls = None if options.seccomp is SeccompAction.NONE else seccomp.Rules(options.seccomp.value)
    confined = confine.enter(
        options.sandbox.value,
        options.shared_dir,
        uid_map=options.uid_map,
        gid_map=options.gid_map,
        outer_closes=[listening.socket.fileno(), *notify.descriptors()],
    )
    confine.check_handles(confined, options.inode_file_handles)
    confine.give_up_rights(options.inode_file_handles, options.modcaps, system_calls)
    return service.serve(options, confined, files, listening, notify)


def _usage_error(message: str, *, bare: bool) -> int:
    """As virtiofsd's: on stderr, whatever the log options say, and status 2."""
    if bare:
        print(options_text.help_text(more=False), file=sys.stderr)
    else:
        print(f"error: {message}\n\nFor more information, try '--help'.", file=sys.stderr)
    return OptionError.exit_code
