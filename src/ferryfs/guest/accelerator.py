"""Which accelerator a guest runs with: KVM where it really boots one, else TCG.

``/dev/kvm`` being there says little: on a paravirtual or nested host QEMU can start with it and the guest never come
up. So a guest is booted once, and what was found is kept until the host boots again or QEMU changes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ferryfs.errors import SetupError
from ferryfs.guest.command_line import PROGRAM, Machine
from ferryfs.guest.image import Parts, cache_folder, initramfs
from ferryfs.guest.machine import Guest

KVM = "kvm"
TCG = "tcg"
# A guest under a KVM that works is up in a second or two.
PROBE_SECONDS = 10.0


def _boots(parts: Parts) -> bool:
    guest = Guest(Machine(parts.kernel, initramfs(parts), KVM, cpus=1, memory=256))
    try:
        guest.start()
        guest.wait_ready(PROBE_SECONDS)
    except (SetupError, OSError):
        return False
    else:
        return True
    finally:
        guest.stop()


def choose(parts: Parts) -> str:
    """``kvm`` or ``tcg``. The first call since the host booted may take as long as a guest's boot."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    program = shutil.which(PROGRAM)
    changed = os.stat(program).st_mtime_ns if program else 0
    key = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {changed}"
    note = cache_folder() / "guest" / "accelerator"
    if note.exists():
        known, _, value = note.read_text().rpartition(" ")
        if known == key:
            return value
    value = KVM if _boots(parts) else TCG
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{key} {value}")
    return value
