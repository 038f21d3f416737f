"""One `.tmp` of a draft, whoever fills it: what was received is hashed as it comes, what a program wrote is read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from vecbak.backups.files import FileDamaged, Identity, read_through
from vecbak.backups.formats import END_BYTES

STAMPING_SHARE = 0.1  # of the time; a network file system writes everything to its disk first


class DraftFile:
    """A `.tmp`, filled by us through `write`, or by a program that is given its name or its descriptor.

    Attributes:
        path: of the `.tmp`.
        descriptor: open for reading and writing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._digest = hashlib.sha256()
        self._size = 0
        self._seen = Identity.of(os.fstat(descriptor))
        self._is_stamped = False
        self._is_received = False
        self._began = time.monotonic()
        self._stamping_seconds = 0.0

    def write(self, chunk: memoryview) -> None:
        """Append to it, and to its checksum: what is hashed is what was received, whatever becomes of the file.

        Raises:
            FileDamaged: somebody else wrote into it, or cut it.
            OSError: the disk.
        """
        self._check_untouched()
        self._digest.update(chunk)
        self._size += len(chunk)
        try:
            while chunk:
                chunk = chunk[os.write(self.descriptor, chunk) :]
        except OSError as error:
            error.filename = str(self.path)
            raise
        if self._stamping_seconds < STAMPING_SHARE * (time.monotonic() - self._began):
            self._stamp()
        else:  # a change within the same tick of the kernel's clock as our last write then stays unseen
            self._seen = Identity.of(os.fstat(self.descriptor))

    def end(self) -> None:
        """Nothing more is written through `write`.

        Raises:
            FileDamaged: somebody else wrote into it, or cut it.
        """
        self._check_untouched()
        self._stamp()
        self._is_received = True

    def _check_untouched(self) -> None:
        # our next write would hide it: a file that was cut gets zeros where its rows were
        found = Identity.of(os.fstat(self.descriptor))
        if not found.is_content_of(self._seen) or found.size != self._size:
            raise FileDamaged(f"{self.path.name} was changed by somebody else while it was written")

    def _stamp(self) -> None:
        # finer than the kernel's own file times: whoever writes from here on leaves another
        began, now = time.monotonic(), time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(self.descriptor, ns=(now, now))
        self._stamping_seconds += time.monotonic() - began
        self._seen = Identity.of(os.fstat(self.descriptor))
        self._is_stamped = self._seen.modified_ns == now

    @property
    def is_racy(self) -> bool:
        """Whether a change after `summary` might leave no trace in stat: the file system does not keep the times that it is told."""
        return not self._is_stamped

    def summary(self) -> tuple[int, str, Identity]:
        """Size, SHA-256, and what stat said when they were true: of what was written, or by reading what a program wrote."""
        if self._is_received:
            return self._size, self._digest.hexdigest(), self._seen
        self._stamp()
        return *read_through(self.descriptor, None), self._seen

    def ends(self) -> tuple[bytes, bytes]:
        """Its first and its last few bytes."""
        size = os.fstat(self.descriptor).st_size
        return os.pread(self.descriptor, END_BYTES, 0), os.pread(self.descriptor, END_BYTES, max(0, size - END_BYTES))
