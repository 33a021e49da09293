"""What a guest boots: a kernel from the distribution, and an initramfs made here of busybox, an init and an agent.

The parts are unpacked into the cache folder by ``scripts/setup``; nothing of them is installed on the host.

The agent is a shell loop on a virtio-serial port. A line ``ID BASE64`` from the host is a command to run; its answer
is one line ``= ID STATUS BASE64``. Lines keep the two sides in step whatever happens between them: a guest that is
reset in the middle of an answer leaves a line that does not parse, and the next one does. The agent greets with
``= hello``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ferryfs.errors import SetupError
from ferryfs.guest import cpio

PORT_NAME = "ferryfs.agent"

INIT = f"""#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname guest
ip link set lo up
for module in /lib/guest-modules/*.ko; do
    test -e "$module" && insmod "$module"
done
# A console device that a module has just found tells of its ports a little later.
for try in $(seq 500); do
    for port in /sys/class/virtio-ports/*; do
        test "$(cat "$port/name" 2>/dev/null)" = {PORT_NAME} && agent=/dev/${{port##*/}}
    done
    test -z "$agent" && ls -d /sys/bus/virtio/drivers/virtio_console/virtio* >/dev/null 2>&1 && usleep 10000 || break
done
test -n "$agent" && exec /agent "$agent"
# Started by hand, without the port: a shell on the console.
exec setsid cttyhack sh
"""

AGENT = """#!/bin/busybox sh
# Runs commands for the host, several at a time; their answers reach the port through one writer, or lines would mix.
exec 3<>"$1"
mkdir -p /run/agent
mkfifo /run/agent/done
exec 4<>/run/agent/done
uname -r >/run/agent/hello.out
echo hello 0 >&4
while read -r id status <&4; do
    printf '= %s %s %s\\n' "$id" "$status" "$(base64 -w0 <"/run/agent/$id.out")" >&3
    rm -f "/run/agent/$id" "/run/agent/$id.out"
done &
while read -r id encoded <&3; do
    printf %s "$encoded" | base64 -d >"/run/agent/$id"
    (
        sh "/run/agent/$id" </dev/null >"/run/agent/$id.out" 2>&1 3>&- 4>&-
        echo "$id" $? >&4
    ) &
done
# The port went away: a guest without its host has nothing to do.
poweroff -f
"""

# What a guest needs of its kernel, in the order in which it is loaded; whatever is built in is no file.
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
)

# Parts of the distribution's Python that no test imports; without them the guest boots a second sooner under TCG.
PYTHON_SKIPPED = frozenset(
    f"usr/lib/python3.{minor}/{part}"
    for minor in range(11, 20)
    for part in (
        "pydoc_data",
        "lib2to3",
        "ensurepip",
        "idlelib",
        "distutils",
        "turtledemo",
        "sqlite3",
        "xml",
        "wsgiref",
    )
)
FOLDERS_SKIPPED = frozenset({"usr/share", "etc", "var", "usr/lib/x86_64-linux-gnu/gconv"})


def cache_folder() -> Path:
    """Where everything downloaded is kept: ``$FERRYFS_CACHE``, else ``~/.cache/ferryfs``."""
    named = os.environ.get("FERRYFS_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "ferryfs"


@dataclass(frozen=True, slots=True)
class Parts:
    """Files that a guest is made of. ``modules`` are kernel modules to load before anything else, in order."""

    kernel: Path
    busybox: Path
    modules: tuple[Path, ...] = ()
    python: Path | None = None


def find_parts(*, python: bool = False, kernel: Path | None = None, release: str = "") -> Parts:
    """What ``scripts/setup`` put into the cache folder; ``kernel`` takes another one, ``release`` (as "6.1") an older
    one that is there for the tests.

    :raises SetupError: something is not there.
    """
    folder = cache_folder() / "guest"
    unpacked = folder / (f"kernel-{release}" if release else "kernel")
    kernels = [kernel] if kernel else sorted(unpacked.glob("boot/vmlinuz-*"))
    # Debian 13 and Ubuntu merge /bin into /usr in the package too, Debian 12 does not.
    busyboxes = [path for path in (folder / "busybox/bin/busybox", folder / "busybox/usr/bin/busybox") if path.exists()]
    if not kernels or not kernels[-1].exists():
        raise SetupError(f"no guest kernel in {unpacked}: run `scripts/setup`, or name one with --kernel.")
    if not busyboxes and (found := shutil.which("busybox")):
        busyboxes = [Path(found)]
    if not busyboxes:
        raise SetupError(f"no busybox in {folder}/busybox: run `scripts/setup`, or install busybox-static.")
    interpreter = folder / "python"
    if python and not interpreter.exists():
        raise SetupError(f"no Python for the guest in {interpreter}: run `scripts/setup test`.")
    modules = [] if kernel else [path for name in MODULES for path in unpacked.glob(f"lib/modules/*/kernel/{name}.ko*")]
    return Parts(kernels[-1], busyboxes[0], tuple(modules), interpreter if python else None)


def _module(path: Path) -> bytes:
    """A kernel module's plain content; the distributions that have virtiofs as a module compress it."""
    programs = {".zst": ["zstd", "-dc"], ".xz": ["xz", "-dc"], ".gz": ["gzip", "-dc"]}
    command = programs.get(path.suffix)
    if command is None:
        return path.read_bytes()
    try:
        return subprocess.run([*command, str(path)], stdout=subprocess.PIPE, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise SetupError(f"can't unpack the kernel module {path} with `{' '.join(command)}`: {error}.") from error


def _entries(parts: Parts) -> Iterator[cpio.Entry]:
    if parts.python is not None:
        # First: where a distribution has /bin and /lib as links into /usr, the folders below must not come before.
        yield from cpio.tree(parts.python, PYTHON_SKIPPED | FOLDERS_SKIPPED)
        if not (parts.python / "lib64").exists():
            # Debian 13 has the loader in /usr/lib64 and, in another package, the link to it that programs go by.
            yield cpio.Entry("lib64", stat.S_IFLNK | 0o777, b"usr/lib64")
    for folder in (
        "bin",
        "sbin",
        "usr",
        "usr/bin",
        "usr/sbin",
        "lib",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "mnt",
        "etc",
    ):
        yield cpio.directory(folder)
    yield cpio.directory("root", 0o700)
    yield cpio.script("init", INIT)
    yield cpio.script("agent", AGENT)
    yield cpio.Entry("bin/busybox", 0o100755, parts.busybox.read_bytes())
    yield cpio.Entry("etc/passwd", 0o100644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    yield cpio.Entry("etc/group", 0o100644, b"root:x:0:\nnogroup:x:65534:\n")
    yield cpio.directory("lib/guest-modules")
    for number, path in enumerate(parts.modules):
        yield cpio.Entry(f"lib/guest-modules/{number}-{path.name.split('.')[0]}.ko", 0o100644, _module(path))


def initramfs(parts: Parts) -> Path:
    """The initramfs of these parts, made when none of the same content is in the cache folder yet."""
    inputs = [parts.busybox, *parts.modules, *([parts.python] if parts.python else [])]
    stamps = "".join(f"{path}\0{path.stat().st_mtime_ns}\0" for path in inputs)
    own = Path(__file__).read_bytes() + Path(cpio.__file__).read_bytes()
    name = hashlib.sha256(stamps.encode() + own).hexdigest()[:16]
    path = cache_folder() / "guest" / f"initramfs-{'python-' if parts.python else ''}{name}.cpio"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(f".part{os.getpid()}")
        work.write_bytes(cpio.archive(_entries(parts)))
        work.rename(path)
    return path
