"""Every option of ``ferryfsd``, once: a field of ``Options`` is a row of the table.

The row says how the option is written, how its text becomes a value, what the default is and what it means. Parser,
environment variables, configuration file, ``--help``, ``--show-config`` and the manual page are all made from it. The
options and their order are virtiofsd 1.14.0's; our own (``ours``) stand in the same group as their relatives.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ferryfs.cli import options_values as values
from ferryfs.passthrough import idmap, xattrmap
from ferryfs.passthrough.config import (
    CachePolicy,
    HandleMode,
    IdentityCheck,
    IdRange,
    MigrationConfig,
    MigrationMode,
    OnError,
    RestoreMode,
    ShareConfig,
    StreamVersion,
    Ternary,
    Unlinked,
    XattrRule,
)
from ferryfs.sandbox.idmappings import IdMapping
from ferryfs.values import field, field_metadata, frozen

T = TypeVar("T")

POOL_MAX = 1024
"""Most threads of ``--thread-pool-size``. A host has fewer disks than that, and each thread has a stack."""


class SandboxMode(enum.Enum):
    """How the serving process is confined (``--sandbox``)."""

    NAMESPACE = "namespace"
    CHROOT = "chroot"
    NONE = "none"


class SeccompAction(enum.Enum):
    """What becomes of a system call that isn't allowed (``--seccomp``)."""

    KILL = "kill"
    TRAP = "trap"
    LOG = "log"
    NONE = "none"


class LogLevel(enum.Enum):
    """How much is logged (``--log-level``); each level contains the ones before it."""

    OFF = "off"
    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"
    TRACE = "trace"


class LogFormat(enum.Enum):
    """How a log line is written (``--log-format``)."""

    TEXT = "text"
    JSON = "json"


class Row(NamedTuple):
    """What the table says about one option, beside its default."""

    group: str
    summary: str  # one line of --help, as a phrase without full stop
    more: str = ""  # further sentences of the manual
    parse: Callable[[str], object] | None = None  # None: a switch
    metavar: str = ""
    many: bool = False  # may be given several times; all count, in order
    implicit: str | None = None  # the value of a bare --option; then a value needs the '='
    on: str | None = "--"  # the switch that says yes, as --help has it; "--" is the field's name, None: it has none
    off: str | None = None  # the switch that says no, where --help has it
    default_text: str = ""  # shown for a default that depends on the machine
    ours: bool = False  # not an option of virtiofsd
    command_line_only: bool = False  # neither in a file nor in the environment

    def has_opposite(self) -> bool:
        """Whether there is a ``--no-…`` of it: for every switch that a file can set, so that all can be undone."""
        return self.parse is None and not self.command_line_only


def _value(
    default: T,
    parse: Callable[[str], T],
    metavar: str,
    group: str,
    summary: str,
    more: str = "",
    *,
    implicit: str | None = None,
    default_text: str = "",
    ours: bool = False,
    command_line_only: bool = False,
) -> T:
    row = Row(
        group,
        summary,
        more,
        parse,
        metavar,
        implicit=implicit,
        default_text=default_text,
        ours=ours,
        command_line_only=command_line_only,
    )
    return field(default=default, metadata={"row": row})


def _values(
    parse: Callable[[str], T],
    metavar: str,
    group: str,
    summary: str,
    more: str = "",
    *,
    command_line_only: bool = False,
) -> tuple[T, ...]:
    row = Row(group, summary, more, parse, metavar, many=True, command_line_only=command_line_only)
    return field(default=(), metadata={"row": row})


def _switch(
    group: str,
    summary: str,
    more: str = "",
    *,
    default: bool = False,
    on: str | None = "--",
    off: str | None = None,
    ours: bool = False,
    command_line_only: bool = False,
) -> bool:
    row = Row(group, summary, more, on=on, off=off, ours=ours, command_line_only=command_line_only)
    return field(default=default, metadata={"row": row})


SHARE = "What is shared"
SOCKET = "The socket"
ACCESS = "How the guest sees it"
ATTRIBUTES = "Identities, attributes, labels"
SANDBOX = "Confinement"
MIGRATION = "Migration"
LOG = "Log"
GENERAL = "General"
DEPRECATED = "Accepted for compatibility"

_ternary = values.choice(Ternary)


@frozen
class Options:
    """The daemon's options after parsing, with the defaults where nothing was given."""

    shared_dir: str | None = _value(None, values.path, "DIR", SHARE, "The directory to share")
    tag: str | None = _value(
        None,
        values.tag,
        "TAG",
        SHARE,
        "Name under which the guest mounts the share, for front-ends that ask the daemon for it",
        "QEMU takes the tag from its own command line and ignores this one.",
    )
    num_request_queues: int = _value(
        1,
        values.integer(1, 64),
        "N",
        SHARE,
        "Request queues announced together with --tag",
        "Without --tag the front-end alone decides how many queues there are.",
        ours=True,
    )
    readonly: bool = _switch(
        SHARE,
        "Refuse every change by the guest",
        "The guest gets EROFS. The shared directory itself is not made read-only: reading still updates access times.",
    )

    socket_path: str | None = _value(
        None,
        values.path,
        "PATH",
        SOCKET,
        "Unix socket to listen on",
        "A stale socket at PATH is replaced. PATH.pid holds the process id and is locked while the daemon runs.",
    )
    socket_group: str | None = _value(
        None, values.text, "GROUP", SOCKET, "Group that may connect to the socket (mode 0770 instead of 0700)"
    )
    fd: int | None = _value(
        None, values.integer(0, 2**31 - 1), "N", SOCKET, "File descriptor of a socket that is already listening"
    )
    keep_listening: bool = _switch(
        SOCKET, "Wait for another front-end when one has gone, with fresh state, instead of ending", ours=True
    )

    cache: CachePolicy = _value(
        CachePolicy.AUTO,
        values.choice(CachePolicy),
        "POLICY",
        ACCESS,
        "How long the guest may trust what it has read: auto (1 s), always or metadata (a day), never",
        "With metadata and never it keeps no file content.",
    )
    negative_timeout: float = _value(
        0.0,
        values.seconds,
        "SECONDS",
        ACCESS,
        "How long the guest may trust that a name does not exist",
        "Something that the host creates meanwhile stays unseen for that long.",
        ours=True,
    )
    writeback: bool = _switch(ACCESS, "Let the guest collect writes in its page cache")
    allow_mmap: bool = _switch(
        ACCESS,
        "Allow shared mmap also with --cache=never and --cache=metadata",
        "Only right while nobody but the guest changes the directory.",
    )
    allow_direct_io: bool = _switch(ACCESS, "Pass O_DIRECT of the guest's programs on to the host")
    preserve_noatime: bool = _switch(
        ACCESS, "Pass O_NOATIME on to the host, where it can fail on files of other users, instead of dropping it"
    )
    readdirplus: bool = _switch(
        ACCESS, "Do not send attributes along with directory entries", default=True, on=None, off="--no-readdirplus"
    )
    killpriv_v2: bool = _switch(
        ACCESS,
        "Have the daemon drop set-user-id bits and file capabilities when a file is changed",
        "Saves the guest a request before writes. Not for NFS.",
        off="--no-killpriv-v2",
    )
    announce_submounts: bool = _switch(
        ACCESS,
        "Tell the guest which directories are mount points; without it files of different mounts can look the same",
        default=True,
        off="--no-announce-submounts",
    )
    inode_file_handles: HandleMode = _value(
        HandleMode.PREFER,
        values.choice(HandleMode, fallback=HandleMode.PREFER),
        "MODE",
        ACCESS,
        "Hold the guest's inodes by file handle instead of by open file: never, prefer (where possible), mandatory",
        "Handles need CAP_DAC_READ_SEARCH in the initial user namespace and a file system that has them. They keep the "
        "number of open files small and avoid lingering .nfs files.",
    )
    allow_set_flags: bool = _switch(
        ACCESS,
        "Let the guest change inode flags (chattr, project ids); they can leave a quota",
        ours=True,
    )
    thread_pool_size: int = _value(
        0,
        values.integer(0, 2**64 - 1),
        "N",
        ACCESS,
        "Most threads that wait for blocking requests; 0 chooses by itself",
        f"More than {POOL_MAX} are not made.",
    )

    xattr: bool = _switch(ATTRIBUTES, "Extended attributes")
    xattrmap: tuple[XattrRule, ...] = _value(
        (),
        xattrmap.parse_rules,
        "RULES",
        ATTRIBUTES,
        "Rename, hide or refuse extended attributes, e.g. :map::user.virtiofs.: (implies --xattr)",
    )
    posix_acl: Ternary = _value(
        Ternary.NEVER,
        _ternary,
        "never|auto|always",
        ATTRIBUTES,
        "POSIX ACLs: auto offers them, always requires a guest that has them (implies --xattr)",
        implicit="always",
    )
    security_label: Ternary = _value(
        Ternary.NEVER,
        _ternary,
        "never|auto|always",
        ATTRIBUTES,
        "SELinux label of new files comes from the guest (implies --xattr)",
        implicit="always",
    )
    translate_uid: tuple[IdRange, ...] = _values(
        idmap.parse_rule,
        "TYPE:BASE:BASE:COUNT",
        ATTRIBUTES,
        "Translate user ids: guest, host, squash-guest, squash-host, forbid-guest (without second BASE) or map",
        "guest and host translate ids of that side, squash-* all to the one id BASE, map both ways. Ids that no rule "
        "names stay. Not together with --posix-acl.",
    )
    translate_gid: tuple[IdRange, ...] = _values(
        idmap.parse_rule, "TYPE:BASE:BASE:COUNT", ATTRIBUTES, "The same for group ids"
    )

    sandbox: SandboxMode = _value(
        SandboxMode.NAMESPACE,
        values.choice(SandboxMode),
        "MODE",
        SANDBOX,
        "namespace (own mount, pid and network namespaces), chroot, or none",
    )
    seccomp: SeccompAction = _value(
        SeccompAction.KILL,
        values.choice(SeccompAction),
        "ACTION",
        SANDBOX,
        "What happens at a system call that is not allowed: kill, trap (SIGSYS), log, or none (no filter)",
    )
    modcaps: tuple[str, ...] = _value(
        (), values.capability_changes, "CHANGES", SANDBOX, "Capabilities to keep or drop, e.g. +sys_admin:-chown"
    )
    uid_map: tuple[IdMapping, ...] = _values(
        values.id_mapping,
        ":INSIDE:OUTSIDE:COUNT:",
        SANDBOX,
        "User ids of the user namespace, for --sandbox=namespace as an ordinary user",
        "More than the own id needs newuidmap(1) and a range in /etc/subuid.",
    )
    gid_map: tuple[IdMapping, ...] = _values(
        values.id_mapping, ":INSIDE:OUTSIDE:COUNT:", SANDBOX, "Group ids of the user namespace"
    )
    rlimit_nofile: int | None = _value(
        None,
        values.integer(0, 2**31),
        "N",
        SANDBOX,
        "Most open files of the daemon; 0 leaves the limit as it is",
        default_text="1000000, or less where the kernel allows less",
    )
    rlimit_core: int | None = _value(
        None,
        values.limit,
        "SIZE",
        SANDBOX,
        "Largest core dump, 0 for none, or unlimited",
        default_text="as inherited",
        ours=True,
    )

    migration_mode: MigrationMode = _value(
        MigrationMode.FIND_PATHS,
        values.choice(MigrationMode),
        "MODE",
        MIGRATION,
        "What the source sends for each inode: find-paths (its path) or file-handles (its handle)",
        "Paths work between copies of a directory; handles need the very same file system on both sides, and "
        "--modcaps=+dac_read_search at the destination.",
    )
    migration_on_error: OnError = _value(
        OnError.ABORT,
        values.choice(OnError),
        "ACTION",
        MIGRATION,
        "What the destination does when a file can't be restored: abort, or guest-error (only that file fails)",
    )
    migration_restore: RestoreMode = _value(
        RestoreMode.EAGER,
        values.choice(RestoreMode),
        "WHEN",
        MIGRATION,
        "When the destination looks for what the guest has cached: eager (before it resumes) or lazy (at first use)",
        "Open files are restored before it resumes in any case. With lazy, a cached entry that is not there any more "
        "is no error of the migration, whatever --migration-on-error says: the guest gets ESTALE and looks it up anew. "
        "A lazy source leaves out the sizes by which a copy is known: the destination must share the same directory.",
        ours=True,
    )
    migration_verify_handles: bool = _switch(
        MIGRATION, "Send file handles along with the paths, so that the destination can compare (source)"
    )
    migration_confirm_paths: bool = _switch(
        MIGRATION, "Check every path once more while the guest is stopped (source)", "Adds to the downtime."
    )
    migration_identity: IdentityCheck = _value(
        IdentityCheck.AUTO,
        values.choice(IdentityCheck),
        "MODE",
        MIGRATION,
        "Compare restored files with the source's: auto, require (refuse a copy), or off (destination)",
        ours=True,
    )
    migration_unlinked: Unlinked | None = _value(
        None,
        values.choice(Unlinked),
        "MODE",
        MIGRATION,
        "Content of open files that have no name any more: carry or lost (source)",
        default_text="carry with find-paths, by handle with file-handles",
        ours=True,
    )
    migration_unlinked_limit: int = _value(
        64 << 20,
        values.size,
        "SIZE",
        MIGRATION,
        "How much of it is carried in all (source)",
        default_text="64M",
        ours=True,
    )
    migration_stream: StreamVersion = _value(
        StreamVersion.V2,
        values.choice(StreamVersion),
        "VERSION",
        MIGRATION,
        "v2, or v1 for a virtiofsd older than 1.13 at the destination (source)",
        ours=True,
    )
    migration_search_limit: float = _value(
        5.0,
        values.seconds,
        "SECONDS",
        MIGRATION,
        "How long the destination searches for files that moved",
        ours=True,
    )
    log_level: LogLevel = _value(
        LogLevel.INFO,
        values.choice(LogLevel),
        "LEVEL",
        LOG,
        "off, error, warn, info, debug or trace; the environment's RUST_LOG wins",
    )
    log_format: LogFormat = _value(
        LogFormat.TEXT, values.choice(LogFormat), "FORMAT", LOG, "text, or json (one object a line)", ours=True
    )
    syslog: bool = _switch(LOG, "Log to syslog instead of stderr")

    config: str | None = _value(
        None,
        values.path,
        "FILE",
        GENERAL,
        "Read options from a TOML file",
        "A key is an option's name without the dashes. The command line wins over FERRYFSD_* variables, and these over "
        "the file. /dev/null stands for no file.",
        default_text="/etc/ferryfs/ferryfsd.toml, where it exists",
        ours=True,
    )
    show_config: bool = _switch(
        GENERAL, "Print each option's value and where it comes from", ours=True, command_line_only=True
    )
    check: bool = _switch(
        GENERAL,
        "Try everything that a start needs, print a table, and serve nothing",
        ours=True,
        command_line_only=True,
    )
    print_capabilities: bool = _switch(
        GENERAL, "Print what vhost-user managers ask for, as JSON", command_line_only=True
    )
    help: bool = _switch(GENERAL, "Print this help", command_line_only=True)
    version: bool = _switch(GENERAL, "Print the version", command_line_only=True)

    socket: str | None = _value(None, values.path, "PATH", DEPRECATED, "Old name of --socket-path")
    compat_options: tuple[str, ...] = _values(
        str,
        "OPTIONS",
        DEPRECATED,
        "Options in the form of the first virtiofsd, joined by commas",
        "A comma in a value is doubled.",
        command_line_only=True,
    )
    compat_debug: bool = _switch(DEPRECATED, "Same as --log-level=debug", command_line_only=True)
    compat_foreground: bool = _switch(DEPRECATED, "No effect", command_line_only=True)

    def pool_size(self) -> int:
        """How many threads may wait for blocking requests: ``--thread-pool-size`` takes any number, as virtiofsd."""
        return min(self.thread_pool_size, POOL_MAX)

    def uses_xattr(self) -> bool:
        """Extended attributes are served: asked for, or implied by an option that can't do without."""
        return self.xattr or bool(self.implies_xattr())

    def implies_xattr(self) -> str:
        """The option, as it could be written, that can't do without extended attributes; empty if there is none."""
        for option, mode in (("--posix-acl", self.posix_acl), ("--security-label", self.security_label)):
            if mode is not Ternary.NEVER:
                return f"{option}={mode.value}"
        return "--xattrmap" if self.xattrmap else ""

    def share(self, guest_fd_limit: int) -> ShareConfig:
        """What the engine is told."""
        return ShareConfig(
            cache=self.cache,
            negative_timeout=self.negative_timeout,
            readonly=self.readonly,
            writeback=self.writeback,
            allow_direct_io=self.allow_direct_io,
            allow_mmap=self.allow_mmap,
            # A guest that may not keep what it is told has no use for attributes in advance.
            readdirplus=self.readdirplus and self.cache is not CachePolicy.NEVER,
            announce_submounts=self.announce_submounts,
            xattr=self.uses_xattr(),
            posix_acl=self.posix_acl,
            security_label=self.security_label,
            killpriv_v2=self.killpriv_v2,
            handles=self.inode_file_handles,
            preserve_noatime=self.preserve_noatime,
            allow_set_flags=self.allow_set_flags,
            thread_pool_size=self.pool_size(),
            guest_fd_limit=guest_fd_limit,
            uid_rules=self.translate_uid,
            gid_rules=self.translate_gid,
            xattr_rules=self.xattrmap,
        )

    def migration(self) -> MigrationConfig:
        """What the migration is told."""
        return MigrationConfig(
            mode=self.migration_mode,
            on_error=self.migration_on_error,
            restore=self.migration_restore,
            verify_handles=self.migration_verify_handles,
            confirm_paths=self.migration_confirm_paths,
            identity=self.migration_identity,
            unlinked=self.migration_unlinked,
            unlinked_limit=self.migration_unlinked_limit,
            stream=self.migration_stream,
            search_limit=self.migration_search_limit,
        )


SHORT = {
    "help": "-h",
    "version": "-V",
    "compat_options": "-o",
    "compat_debug": "-d",
    "compat_foreground": "-f",
}
"""One-letter spellings; the fields that begin with ``compat_`` have no other."""


@functools.cache
def table() -> dict[str, Row]:
    """Field name to row, in the order of ``Options``."""
    return {name: metadata["row"] for name, metadata in field_metadata(Options).items()}


def flag(name: str) -> str:
    """The option as it is written on the command line, ``-o`` where there is no long form."""
    if name.startswith("compat_"):
        return SHORT[name]
    row = table()[name]
    if row.on is None and row.off is not None:
        return row.off
    return "--" + name.replace("_", "-")


def key_of(name: str) -> str:
    """The option in a configuration file."""
    return name.replace("_", "-")
