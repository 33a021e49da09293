"""ferryfs: a virtio-fs daemon for virtual machines that move."""
