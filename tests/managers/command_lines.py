"""How managers start virtiofsd, as their sources or process lists have it. {fd}, {share} and {socket} are filled in."""

from typing import Final

COMMAND_LINES: Final = {
    # src/qemu/qemu_virtiofs.c, before and after "separate-options" was looked at; a comma in a path is doubled.
    "libvirt, -o": "--fd={fd} -o source={share},cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock --thread-pool-size=4 -d",
    "libvirt, separate": "--fd={fd} --shared-dir {share} --cache auto --sandbox namespace --xattr --readonly --thread-pool-size=0",
    "libvirt, comma": "--fd={fd} -o source={commas}",
    # Kata Containers 2 and 3: virtcontainers/virtiofsd.go with the extra arguments of configuration.toml.
    "Kata 2": "--syslog -o cache=auto -o no_posix_lock -o source={share} --fd={fd} -f --thread-pool-size=1 -o announce_submounts",
    "Kata 3": "--syslog --cache=auto --shared-dir={share} --fd={fd} --thread-pool-size=1 --announce-submounts",
    "Kata 3, ACL": "--shared-dir={share} --fd={fd} --thread-pool-size=1 --no-announce-submounts --posix-acl=always",
    # Incus and LXD: internal/server/device/device_utils_disk.go.
    "Incus": "--fd={fd} --cache=never --shared-dir={share}",
    # Proxmox VE: PVE/QemuServer/Virtiofs.pm.
    "Proxmox VE": "--fd={fd} --shared-dir={share} --announce-submounts --allow-direct-io --cache auto --writeback --xattr "
    "--posix-acl --syslog --log-level info",
    # KubeVirt: pkg/virt-controller/services, a container of its own.
    "KubeVirt": "--socket-path={socket} --shared-dir={share} --sandbox=none --cache=auto --xattr",
    "KubeVirt, migration": "--socket-path={socket} --shared-dir={share} --sandbox=none --cache=auto "
    "--migration-on-error=guest-error --migration-mode=find-paths",
    # systemd: src/vmspawn/vmspawn.c.
    "systemd-vmspawn": "--shared-dir {share} --xattr --fd {fd} --no-announce-submounts --log-level=error --modcaps=-mknod",
    # mkosi/qemu.py, with the socket made by mkosi.
    "mkosi": "--shared-dir {share} --xattr --no-announce-submounts --sandbox=chroot --fd={fd}",
    "mkosi, labels": "--shared-dir {share} --xattr --no-announce-submounts --sandbox=chroot --security-label --fd={fd}",
    # virtme-ng: virtme/commands/run.py.
    "virtme-ng": "--syslog --no-announce-submounts --socket-path {socket} --shared-dir {share} --sandbox none",
    # microvm.nix: lib/virtiofsd.nix.
    "microvm.nix": "--socket-path={socket} --socket-group=daemon --shared-dir={share} --thread-pool-size 4 --posix-acl --xattr",
    # podman machine, coreos-assembler and bcvk: an unconfined daemon for the user's own files.
    "podman machine": "--socket-path {socket} --shared-dir {share} --sandbox none --cache always --readonly",
    "coreos-assembler": "--socket-path {socket} --shared-dir {share} --sandbox none --inode-file-handles=mandatory",
    "bcvk": "--socket-path {socket} --shared-dir {share} --cache=always --sandbox=none --readonly --allow-mmap",
    # Cloud Hypervisor: docs/fs.md.
    "Cloud Hypervisor": "--log-level info --seccomp none --cache=never --socket-path={socket} --shared-dir={share}",
    # Firecracker with vhost-user-fs, and people by hand.
    "by hand": "--shared-dir {share} --socket-path {socket} --readonly --no-announce-submounts --sandbox namespace "
    "--inode-file-handles=never --migration-mode find-paths --migration-on-error abort",
    "by hand, 2020": "--socket-path={socket} -o source={share},cache=auto,writeback,xattr --thread-pool-size=1",
    "by hand, old socket": "--socket={socket} --shared-dir={share} --rlimit-nofile=0",
}
