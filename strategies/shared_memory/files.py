"""The file that a rank shares: memory without a name, which the others open through this process.

It is a memfd, reached as /proc/PID/fd/FD. So nothing is left behind however a rank ends, no other process comes across
it, only the same user may open it, and the size of /dev/shm (64 MB in a container, by default) does not matter. Its
owner holds a lock on it, which the kernel lets go when the owner's process ends, and not before.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping

from foundation.errors import UserError, first_line

TAG_BYTES = 32
_HEADER_BYTES = 2 << 20  # more than layout.h's


def machine() -> str:
    """What processes have alike that can find each other's files: one kernel, one numbering of processes, one user."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')} {os.geteuid()}"
    except OSError:
        return secrets.token_hex()  # like no other's


def file_bytes() -> int:
    """How long a file is: as long as it can ever be, which is this machine's memory. It takes what is written."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << (_HEADER_BYTES + memory).bit_length()


class OwnFile:
    """This process's file, zeros but for a tag, locked.

    Raises:
      UserError: this system has no such files, or memory for it.
    """

    def __init__(self) -> None:
        self.tag, self.bytes = secrets.token_bytes(TAG_BYTES), file_bytes()
        if not hasattr(os, "memfd_create"):
            raise UserError("shared memory: this system has no files without a name (memfd_create).")
        try:
            self.fd = os.memfd_create("headrace", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(self.fd, self.bytes)
                # What is mapped can then be touched: nobody cuts it short.
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
                os.posix_fallocate(self.fd, 0, _HEADER_BYTES)
                os.pwrite(self.fd, self.tag, 0)
                # Not flock: this one a process has, not a descriptor, which a child would keep open.
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            except OSError:
                os.close(self.fd)
                raise
        except OSError as error:
            raise UserError(f"shared memory: none to be had ({first_line(error)}).") from error

    def address(self) -> dict[str, object]:
        """What another process needs to open it."""
        return {"pid": os.getpid(), "fd": self.fd, "tag": self.tag.hex(), "bytes": self.bytes}

    def close(self) -> None:
        os.close(self.fd)


def open_file(address: Mapping[str, object]) -> int:
    """A descriptor of another process's file, of this one's to close.

    Raises:
      UserError: it cannot be opened, or is not the one that the address means.
    """
    path = f"/proc/{address['pid']}/fd/{address['fd']}"
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"shared memory: {path} cannot be opened ({error.strerror}).") from error
    try:
        meant = os.pread(file, TAG_BYTES, 0).hex() == address["tag"]
    except OSError:
        meant = False
    if not meant:
        os.close(file)
        raise UserError(f"shared memory: {path} is another process's file.")
    return file
