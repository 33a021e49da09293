"""When the destination may go by the change times of directories, instead of looking at each name in them.

The source noted when each directory was changed, and then looked at the names in it. Where the destination finds the
same time, this did not happen in between:

1. the source sees "a" in directory 3, and that it has file handle H; 2. the guest is stopped; 3. somebody gives "a" to
another file.

So H has that name still, and is opened by nobody until it is used. What holds for this at the source (``steady``,
``collect.ground``) must hold here as well, and the clock must be the same one: that of one running kernel.
"""

from __future__ import annotations

from ferryfs.migration.collect.ground import TURNED_NS, ahead_ns
from ferryfs.migration.share import Share
from ferryfs.migration.trailer_identities import Folders
from ferryfs.migration.trailer_records import Mounts


def usable(folders: Folders | None, share: Share, listed: Mounts | None) -> Folders | None:
    """``folders`` where they prove something here; else None. The share is the source's own directory on one host.

    ``listed``: the source's mounts. One that only we have in the share may cover a name.
    """
    if folders is None or listed is None or share.mountinfo_fd < 0:
        return None
    if not set(share.mounts()) <= {mount.path for mount in listed.mounts}:
        return None
    return folders if ahead_ns() > folders.ahead_ns - TURNED_NS else None
