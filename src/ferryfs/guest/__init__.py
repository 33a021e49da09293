"""A Linux guest in QEMU on demand: kernel and initramfs, command line, agent. For ``ferryfs demo`` and the tests."""
