"""The options that a guest relies on once it has mounted: INIT flags, the state's own four, and the switches they
stand for.
"""

from __future__ import annotations

from typing import Final

from ferryfs.passthrough.config import ShareConfig, Ternary

# FUSE_INIT flags (linux/fuse.h).
WRITEBACK_CACHE: Final = 1 << 16
POSIX_ACL: Final = 1 << 20
SUBMOUNTS: Final = 1 << 27
HANDLE_KILLPRIV_V2: Final = 1 << 28
SECURITY_CTX: Final = 1 << 32
CREATE_SUPP_GROUP: Final = 1 << 34
DIRECT_IO_ALLOW_MMAP: Final = 1 << 36

# Field of the state's options -> switch that the destination must have been started with.
STATE_OPTIONS: Final = {
    "writeback": "--writeback",
    "announce_submounts": "--announce-submounts",
    "posix_acl": "--posix-acl",
}
STATE_OPTION_FLAGS: Final = {
    "writeback": WRITEBACK_CACHE,
    "announce_submounts": SUBMOUNTS,
    "posix_acl": POSIX_ACL,
    "sup_group_extension": CREATE_SUPP_GROUP,
}
INIT_FLAG_SWITCHES: Final = {
    WRITEBACK_CACHE: "--writeback",
    SUBMOUNTS: "--announce-submounts",
    POSIX_ACL: "--posix-acl",
    HANDLE_KILLPRIV_V2: "--killpriv-v2",
    SECURITY_CTX: "--security-label",
    DIRECT_IO_ALLOW_MMAP: "--allow-mmap",
}


def switches(config: ShareConfig) -> frozenset[str]:
    """The switches in force that a guest may rely on, by long name."""
    on = {
        "--writeback": config.writeback,
        "--announce-submounts": config.announce_submounts,
        "--xattr": config.xattr,
        "--posix-acl": config.xattr and config.posix_acl is not Ternary.NEVER,
        "--security-label": config.xattr and config.security_label is not Ternary.NEVER,
        "--killpriv-v2": config.killpriv_v2,
        "--allow-mmap": config.allow_mmap,
    }
    return frozenset(switch for switch, is_on in on.items() if is_on)


def relied_on(config: ShareConfig) -> tuple[str, ...]:
    """What goes into the trailer: switches that no INIT flag tells of."""
    return ("--xattr",) if config.xattr else ()


def missing_switch(switch: str) -> str:
    """The sentence for an option that the guest uses and this daemon lacks."""
    return f"the guest uses an option that this daemon was not started with: add {switch}"
