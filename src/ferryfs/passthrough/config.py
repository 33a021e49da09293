"""What the engine is told to do: one frozen value, made from the options, handed over before the first request."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class IdRange:
    """One ``--translate-uid``/``--translate-gid`` rule: ``count`` ids from ``guest_base`` and/or ``host_base``.

    ``kind`` is one of guest, host, squash-guest, squash-host, forbid-guest, map; for a squash the target is the other base.
    """

    kind: str
    guest_base: int
    host_base: int
    count: int


@dataclass(frozen=True, slots=True)
class XattrRule:
    """One ``--xattrmap`` rule after parsing. ``scope``: client, server, all. ``action``: prefix, ok, bad, unsupported."""

    scope: str
    action: str
    key: bytes
    prepend: bytes


@dataclass(frozen=True, slots=True)
class ShareConfig:
    """Everything that a request's outcome depends on, and nothing else.

    Times are seconds. ``uid_rules``/``gid_rules`` are empty when ids pass unchanged.
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
    uid_rules: tuple[IdRange, ...] = field(default=())
    gid_rules: tuple[IdRange, ...] = field(default=())
    xattr_rules: tuple[XattrRule, ...] = field(default=())
