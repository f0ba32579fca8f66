"""Where events can be relied on: by the type of the file system, judged for each directory that a scan enters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ingestd.mounts import mount_of

NETWORK_TYPES: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "beegfs", "gpfs",
    "ocfs2", "gfs2", "orangefs", "pvfs2", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "davfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys",
    "fuse.davfs", "fuse.curlftpfs", "fuse.vmhgfs-fuse", "fuse.portal", "fuse.juicefs", "fuse.mount-s3",
    "fuse.blobfuse2",
})  # fmt: skip
"""File systems that others change without this kernel's knowledge."""
LOCAL_TYPES: Final = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "zfs", "f2fs", "jfs", "reiserfs", "nilfs2", "ubifs", "jffs2",
    "tmpfs", "ramfs", "overlay", "aufs", "ecryptfs", "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfs",
    "hfsplus", "apfs", "iso9660", "udf", "squashfs", "erofs", "romfs", "cramfs",
})  # fmt: skip
"""File systems that change through this kernel alone."""


class Modes:
    """Which directories of one source are watched, and which are compared periodically. `mode`: the configuration's."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._devices: dict[int, bool] = {}
        self._tested: dict[tuple[int, str], bool] = {}

    def forget(self, *, tests: bool = False) -> None:
        """Another file system may have a device's number by now. `tests`: it may even be of the same type."""
        self._devices.clear()
        if tests:
            self._tested.clear()

    def sends(self, descriptor: int, device: int, test: Callable[[], bool | None]) -> bool:
        """Whether all changes in an open directory cause events. `test` finds out where its type does not say so (None:
        it cannot be found out now)."""
        if self._mode != "auto":
            return self._mode == "inotify"
        known = self._devices.get(device)
        if known is None:
            kind = mount_of(descriptor).kind
            known = kind in LOCAL_TYPES
            if not known and kind not in NETWORK_TYPES:
                key = (device, kind)
                if key not in self._tested:
                    heard = test()
                    if heard is None:
                        return False
                    self._tested[key] = heard
                known = self._tested[key]
            self._devices[device] = known
        return known
