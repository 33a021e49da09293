"""What must be given, and what can't be given together: the rules across options."""

from __future__ import annotations

import os

from ferryfs.cli.options import POOL_MAX, Options, SandboxMode
from ferryfs.errors import OptionError
from ferryfs.passthrough.config import MigrationMode, StreamVersion, Ternary
from ferryfs.passthrough.idmap import check_rules
from ferryfs.passthrough.xattrmap import unterminated
from ferryfs.sandbox import capabilities

GIVES_WAY: dict[str, tuple[str, ...]] = {
    "socket_path": ("fd",),
    "socket_group": ("fd",),
    "fd": ("socket_path",),
    "posix_acl": ("translate_uid", "translate_gid"),
    "uid_map": ("sandbox",),
    "gid_map": ("sandbox",),
    "sandbox": ("uid_map", "gid_map"),
    "migration_verify_handles": ("migration_mode",),
    "migration_confirm_paths": ("migration_mode",),
    "migration_stream": ("migration_mode",),
    "migration_mode": ("migration_verify_handles", "migration_confirm_paths", "migration_stream"),
}
"""An option, and those that it can't be used with: it is dropped where one of them comes from a higher source, as
--fd of a manager's command line drops the socket-path of the host's file. Each excludes only with another value than
its default. What confines the guest (--translate-uid, --modcaps) is not here: it must not vanish because of an option
that says nothing about it, so there it stays an error."""


def check(options: Options, uid: int | None = None) -> list[str]:
    """Raises ``OptionError`` for what can't be; returns warnings about what is allowed and perhaps not meant.

    ``uid`` is the user that the daemon runs as, for the rules that differ for root.
    """
    uid = os.geteuid() if uid is None else uid
    _sockets(options)
    if options.shared_dir is None:
        raise OptionError("no directory to share was given, add --shared-dir=DIR")
    _translation(options)
    _confinement(options, uid)
    _migration(options)
    warnings = []
    for side in unterminated(options.xattrmap) if options.xattrmap else ():
        names = "that the guest uses are refused" if side == "client" else "that the host lists are hidden"
        warnings.append(f"--xattrmap has no last rule for the {side} side, names {names} where no rule matches")
    if options.num_request_queues != 1 and options.tag is None:
        warnings.append("--num-request-queues has no effect without --tag, the front-end decides alone")
    if options.thread_pool_size > POOL_MAX:
        warnings.append(f"--thread-pool-size={options.thread_pool_size}: {POOL_MAX} threads are as many as it makes")
    return warnings


def _sockets(options: Options) -> None:
    path = options.socket_path is not None
    if options.print_capabilities and options.socket_group is not None:
        raise OptionError("--print-capabilities can't be used with --socket-group, leave one of them out")
    if options.fd is not None and path:
        raise OptionError("--fd can't be used with --socket-path, one socket is enough: leave one of them out")
    if options.fd is not None and options.socket_group is not None:
        raise OptionError("--fd can't be used with --socket-group, whoever made the socket sets its group")
    if options.fd is None and not path and not options.check:
        raise OptionError("no socket was given, add --socket-path=PATH (or --fd=N for one that already listens)")


def _translation(options: Options) -> None:
    check_rules(options.translate_uid, "--translate-uid")
    check_rules(options.translate_gid, "--translate-gid")
    if (options.translate_uid or options.translate_gid) and options.posix_acl is not Ternary.NEVER:
        name = "--translate-uid" if options.translate_uid else "--translate-gid"
        raise OptionError(
            f"{name} can't be used with --posix-acl={options.posix_acl.value}: the ids inside ACLs would not be "
            "translated, leave one of them out"
        )


def _confinement(options: Options, uid: int) -> None:
    if options.sandbox is SandboxMode.CHROOT and uid != 0:
        raise OptionError("--sandbox=chroot is for root only, write --sandbox=namespace (or --sandbox=none)")
    for name, given in (("--uid-map", options.uid_map), ("--gid-map", options.gid_map)):
        if not given:
            continue
        if options.sandbox is not SandboxMode.NAMESPACE:
            raise OptionError(f"{name} is for --sandbox=namespace, which makes the user namespace that it describes")
        if uid == 0:
            instead = "--translate-uid" if name == "--uid-map" else "--translate-gid"
            raise OptionError(f"{name} is for ordinary users, as root write {instead}")
    capabilities.wanted(options.inode_file_handles, options.modcaps)


def _migration(options: Options) -> None:
    if options.migration_mode is MigrationMode.FILE_HANDLES:
        for name, given in (
            ("--migration-verify-handles", options.migration_verify_handles),
            ("--migration-confirm-paths", options.migration_confirm_paths),
        ):
            if given:
                raise OptionError(f"{name} is about paths, it can't be used with --migration-mode=file-handles")
        if options.migration_stream is StreamVersion.V1:
            raise OptionError("--migration-stream=v1 has paths only, leave out --migration-mode=file-handles")
