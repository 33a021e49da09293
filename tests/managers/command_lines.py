"""How managers start virtiofsd. {fd}, {share}, {commas} (the share with commas doubled) and {socket} are filled in.

``RECORDED`` follows the manager's source or a process list, named above each line; ``LIKELY`` is what their documents
suggest.
"""

from typing import Final

RECORDED: Final = {
    # libvirt, src/qemu/qemu_virtiofs.c: paths go through virQEMUBuildBufferEscapeComma.
    "libvirt": "--fd={fd} -o source={share},cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock "
    "--thread-pool-size=4 -d",
    "libvirt, locks": "--fd={fd} -o source={share},no_xattr,flock,posix_lock",
    "libvirt, comma": "--fd={fd} -o source={commas}",
    # Kata Containers 2, process lists in bug reports.
    "Kata 2": "--syslog -o cache=auto -o no_posix_lock -o source={share} --fd={fd} -f --thread-pool-size=1 "
    "-o announce_submounts",
    "Kata 2, debug": "--fd={fd} -o source={share} -o cache=auto --syslog -o no_posix_lock -d --thread-pool-size=1",
    # Incus, internal/server/device/device_utils_disk.go: without and with an idmap.
    "Incus": "--fd={fd} --cache=never --shared-dir={share} --posix-acl=auto",
    "Incus, idmap": "--fd={fd} --cache=metadata --shared-dir={share} "
    "--translate-uid=map:0:1000000:65536 --translate-uid=forbid-guest:0:0 "
    "--translate-gid=map:0:1000000:65536 --translate-gid=forbid-guest:0:0 "
    "--translate-uid=forbid-guest:65536:4294901759 --translate-gid=forbid-guest:65536:4294901759",
    # Proxmox VE, PVE/QemuServer/Virtiofs.pm.
    "Proxmox VE": "--fd={fd} --shared-dir={share} --xattr --posix-acl --announce-submounts --allow-direct-io "
    "--cache=auto --writeback --syslog",
    # KubeVirt, pkg/virt-controller/services/virtiofs.go.
    "KubeVirt": "--socket-path={socket} --shared-dir={share} --sandbox=none --cache=auto",
    # systemd, src/vmspawn/vmspawn.c.
    "systemd-vmspawn": "--shared-dir {share} --xattr --fd {fd} --no-announce-submounts --log-level=error "
    "--modcaps=-mknod",
    # mkosi, mkosi/qemu.py.
    "mkosi": "--shared-dir {share} --xattr --no-announce-submounts --sandbox=chroot --fd {fd}",
    "mkosi, labels": "--shared-dir {share} --xattr --no-announce-submounts --sandbox=chroot --security-label --fd {fd}",
    # virtme-ng, virtme/commands/run.py.
    "virtme-ng": "--syslog --no-announce-submounts --socket-path {socket} --shared-dir {share} --sandbox none",
    # microvm.nix, nixos-modules/microvm/virtiofsd/default.nix; the number of files depends on the host.
    "microvm.nix": "--socket-path={socket} --socket-group=daemon --shared-dir={share} --rlimit-nofile 2000 "
    "--thread-pool-size 4 --posix-acl --xattr --cache=auto --inode-file-handles=prefer --tag=ro-store --readonly",
    # coreos-assembler, mantle/platform/qemu.go, createVirtiofsCmd; run in the folder that it shares.
    "coreos-assembler": "--sandbox none --socket-path {socket} --shared-dir . --modcaps=-mknod:-setfcap --seccomp=none",
    # QEMU's and Kata's documents.
    "by hand, 2020": "--socket-path={socket} -o source={share},cache=auto,writeback,xattr --thread-pool-size=1",
}

LIKELY: Final = {
    "libvirt, separate": "--fd={fd} --shared-dir {share} --cache auto --sandbox namespace --xattr --readonly",
    "Kata 3": "--syslog --cache=auto --shared-dir={share} --fd={fd} --thread-pool-size=1 --announce-submounts",
    "Kata 3, ACL": "--shared-dir={share} --fd={fd} --thread-pool-size=1 --no-announce-submounts --posix-acl=always",
    "KubeVirt, migration": "--socket-path={socket} --shared-dir={share} --sandbox=none --cache=auto "
    "--migration-on-error=guest-error --migration-mode=find-paths",
    "podman machine": "--socket-path {socket} --shared-dir {share} --sandbox none --cache always --readonly",
    "bcvk": "--socket-path {socket} --shared-dir {share} --cache=always --sandbox=none --readonly --allow-mmap",
    "Cloud Hypervisor": "--log-level info --seccomp none --cache=never --socket-path={socket} --shared-dir={share}",
    "by hand": "--shared-dir {share} --socket-path {socket} --readonly --no-announce-submounts --sandbox namespace "
    "--inode-file-handles=never --migration-mode find-paths --migration-on-error abort",
    "by hand, old socket": "--socket={socket} --shared-dir={share} --rlimit-nofile=0",
}

COMMAND_LINES: Final = RECORDED | LIKELY
