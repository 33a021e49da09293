"""What the engine and the migration are told to do: frozen values, made from the options, handed over before the
first request."""

from __future__ import annotations

import enum

from ferryfs.values import field, frozen


class CachePolicy(enum.Enum):
    """How long the guest may believe what it was told (``--cache``), as virtiofsd defines it."""

    NEVER = "never"
    METADATA = "metadata"
    AUTO = "auto"
    ALWAYS = "always"


class HandleMode(enum.Enum):
    """How a looked-up inode is held (``--inode-file-handles``)."""

    NEVER = "never"
    PREFER = "prefer"
    MANDATORY = "mandatory"


class Ternary(enum.Enum):
    """``never|auto|always`` of ``--posix-acl`` and ``--security-label``."""

    NEVER = "never"
    AUTO = "auto"
    ALWAYS = "always"


class MigrationMode(enum.Enum):
    """How the source tells the destination where an inode is (``--migration-mode``)."""

    FIND_PATHS = "find-paths"
    FILE_HANDLES = "file-handles"


class OnError(enum.Enum):
    """What the destination does about an inode that it can't restore (``--migration-on-error``)."""

    ABORT = "abort"
    GUEST_ERROR = "guest-error"


class RestoreMode(enum.Enum):
    """When the destination looks for the inodes that the guest has cached (``--migration-restore``)."""

    EAGER = "eager"
    LAZY = "lazy"


class IdentityCheck(enum.Enum):
    """Whether the destination compares what it restored with the source's (``--migration-identity``)."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


class Unlinked(enum.Enum):
    """What happens to open files without a name (``--migration-unlinked``)."""

    CARRY = "carry"
    LOST = "lost"


class StreamVersion(enum.Enum):
    """The version of the state that the source writes (``--migration-stream``)."""

    V1 = "v1"
    V2 = "v2"


@frozen
class IdRange:
    """One ``--translate-uid``/``--translate-gid`` rule: ``count`` ids from ``guest_base`` and/or ``host_base``.

    ``kind`` is one of guest, host, squash-guest, squash-host, forbid-guest, map; for a squash the target is the other
    base.
    """

    kind: str
    guest_base: int
    host_base: int
    count: int


@frozen
class XattrRule:
    """One ``--xattrmap`` rule after parsing. ``scope``: client, server, all. ``action``: prefix, ok, bad, unsupported.

    A ``map`` rule is several of these. A name that no rule decides is hidden (host's) or EPERM (guest's).
    """

    scope: str
    action: str
    key: bytes
    prepend: bytes


@frozen
class ShareConfig:
    """Everything that a request's outcome depends on, and nothing else.

    Times are seconds. ``uid_rules``/``gid_rules`` are empty when ids pass unchanged. ``guest_fd_limit`` is how many
    file descriptors the guest's inodes and open files may take together before it gets ENFILE; 0 is what the process's
    own limit leaves.
    """

    cache: CachePolicy = CachePolicy.AUTO
    negative_timeout: float = 0.0
    readonly: bool = False
    writeback: bool = False
    allow_direct_io: bool = False
    allow_mmap: bool = False
    readdirplus: bool = True
    announce_submounts: bool = True
    xattr: bool = False
    posix_acl: Ternary = Ternary.AUTO
    security_label: Ternary = Ternary.AUTO
    killpriv_v2: bool = False
    handles: HandleMode = HandleMode.PREFER
    preserve_noatime: bool = False
    allow_set_flags: bool = False
    thread_pool_size: int = 0
    guest_fd_limit: int = 0
    uid_rules: tuple[IdRange, ...] = field(default=())
    gid_rules: tuple[IdRange, ...] = field(default=())
    xattr_rules: tuple[XattrRule, ...] = field(default=())


@frozen
class MigrationConfig:
    """The ``--migration-*`` options. ``unlinked`` is None when it was not given: then only find-paths carries content.

    ``unlinked_limit`` is in bytes, ``search_limit`` in seconds.
    """

    mode: MigrationMode = MigrationMode.FIND_PATHS
    on_error: OnError = OnError.ABORT
    restore: RestoreMode = RestoreMode.EAGER
    verify_handles: bool = False
    confirm_paths: bool = False
    identity: IdentityCheck = IdentityCheck.AUTO
    unlinked: Unlinked | None = None
    unlinked_limit: int = 64 << 20
    stream: StreamVersion = StreamVersion.V2
    search_limit: float = 5.0
