from collections.abc import Callable, Iterable

from ferryfs.engine.device import Device
from ferryfs.migration.bulk import Records

def restore(
    records: Records,
    device: Device,
    compare: bool,
    same: bool,
    mount_fds: dict[int, int],
    pool_map: Callable[..., Iterable[object]],
    threads: int,
) -> None: ...
