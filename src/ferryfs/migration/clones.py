"""What has the source's file handle at the destination, and is another file all the same.

So it is in a block clone, which on another host is the same directory by all that can be told:

1. the clone is taken; 2. at the source the guest writes to "a", and removes "b", which it has open; 3. it moves to the
clone, where "a" is as it was, and the handle of "b" leads to a file that has its name still.
"""

from __future__ import annotations

import os

from ferryfs.migration import identity
from ferryfs.migration.carried import Carried
from ferryfs.migration.mounts import MountsHere
from ferryfs.migration.verify import grown, is_aged


def other(fd: int, number: int, carried: Carried, mounts: MountsHere, compare: bool) -> str:
    """Why an open fd is not the source's inode; else empty. ``compare``: whether sizes matter. Raises OSError."""
    # What travels as unlinked but has a name that the source's exit takes away travels without its handle.
    if (number in carried.unlinked or number in carried.nameless) and os.fstat(fd).st_nlink > 0:
        return "it had no name at the source, and what has its file handle here has one"
    expected = carried.identities.get(number) if compare else None
    if expected is None or expected.mount in mounts.firm:
        return ""
    why = grown(fd, expected)
    made = identity.make_handle(fd) if why and expected.openable else None
    # Another handle: that it is another file is found out when it is filed, and the right one may be elsewhere.
    differs = made is not None and (made.handle_type, made.handle) != (expected.handle_type, expected.handle)
    return "" if differs else why


def aged(fd: int, number: int, carried: Carried, mounts: MountsHere, by_handle: bool) -> bool:
    """Whether a file was changed at another time than the source's, which its handle alone would not tell;
    ``by_handle``: nothing else has been looked at. Raises OSError.
    """
    expected = carried.identities.get(number)
    if expected is None or expected.mount in mounts.firm:
        return False
    return (by_handle or expected.mount in mounts.same) and is_aged(fd, expected)
