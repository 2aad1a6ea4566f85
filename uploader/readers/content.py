"""The bytes of a usage log: in every pass the same ones, or none.

A run reads its log three times, and posts and reports what it counted and compared in the first pass. So the
file is opened once, every block's SHA-256 is noted when the block is first read, and from then on no byte of
a block is handed on unless the whole block still has that digest.
"""

from __future__ import annotations

import bz2
import errno
import functools
import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import Final, Literal, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from uploader.model.errors import InputChangedError, InputError, UploaderError

Compression = Literal["gz", "bz2", "zst"]

BLOCK_BYTES = 1024 * 1024
LINE_LIMIT_BYTES = 64 * BLOCK_BYTES

# Whatever a decompressor raises on bytes that it did not write.
_DAMAGE = (OSError, zlib.error, zstd.ZstdError)


class Content:
    """One open usage log file.

    compression: how the file's bytes are packed; None when they are the content itself.

    Raises ``InputError`` when the path is no readable regular file. A change of the file is an ``InputError``
    as long as the first pass is not complete, and an ``InputChangedError`` after it.
    """

    def __init__(self, path: Path, *, compression: Compression | None = None) -> None:
        self.path = path
        self._compression = compression
        self._descriptor = _open_regular(path)
        self.size_bytes: Final = os.fstat(self._descriptor).st_size
        self._digest_by_block: dict[int, bytes] = {}
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the decompressed content; ``RuntimeError`` before the first complete pass."""
        if not self._sha256:
            raise RuntimeError(f"{self.path}: the content's digest is known after the first complete pass")
        return self._sha256

    def open_lines(self) -> io.BufferedReader:
        """Start a pass over the decompressed content.

        Reading raises ``InputError`` for packed data that is cut short or damaged, and for more than
        ``LINE_LIMIT_BYTES`` without a line end.
        """
        return io.BufferedReader(_LineStream(self, self._unpacked()), BLOCK_BYTES)

    def open_seekable(self, *, kept_blocks: int) -> VerifiedFile:
        """Open the file's own bytes, at any position; ``kept_blocks`` of 1 MiB stay in memory."""
        return VerifiedFile(self, size_bytes=self.size_bytes, kept_blocks=kept_blocks)

    def hash_file(self) -> None:
        """Read the whole file, unless it was: the first pass of a log that is not read from start to end."""
        if self._sha256:
            return
        digest = hashlib.sha256()
        for index in range(-(-self.size_bytes // BLOCK_BYTES)):
            digest.update(self.read_block(index))
        self.complete(digest.hexdigest())

    def complete(self, sha256: str) -> None:
        """Note that a pass has come to the end of the content, and its digest."""
        self._sha256 = sha256

    def read_block(self, index: int) -> bytes:
        """Give the file's bytes from ``index * BLOCK_BYTES``, the same as when they were first read."""
        start = index * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, self.size_bytes - start)
        try:
            block = _read_at(self._descriptor, start, wanted)
            size_bytes = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._changed(f"cannot be read at byte {start:,}: {error.strerror}") from error
        if size_bytes != self.size_bytes or len(block) != wanted:
            raise self._changed(f"went from {self.size_bytes:,} to {size_bytes:,} bytes")
        digest = hashlib.sha256(block).digest()
        if self._digest_by_block.setdefault(index, digest) != digest:
            raise self._changed(f"changed within the {len(block):,} bytes after byte {start:,}")
        return block

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _changed(self, what: str) -> UploaderError:
        if self._sha256:
            return InputChangedError(
                f"{self.path} {what} since this run first read it",
                remedy="put the file back as it was, with its time of modification, and run the same command again",
            )
        return InputError(
            f"{self.path} {what} while it was first read",
            remedy="wait until nothing writes to it any more and run the same command again",
        )

    def _unpacked(self) -> io.RawIOBase | io.BufferedIOBase:
        verified = self.open_seekable(kept_blocks=1)
        if self._compression is None:
            return verified
        packed = io.BufferedReader(verified, BLOCK_BYTES)
        if self._compression == "gz":
            return gzip.GzipFile(fileobj=packed)
        if self._compression == "bz2":
            return _Bz2Members(packed)
        # A ZstdFile is a BufferedIOBase, whatever the back-port's annotations say of it.
        return cast("io.BufferedIOBase", zstd.ZstdFile(packed))


class VerifiedFile(io.RawIOBase):
    """A read-only view of a ``Content``'s own bytes, every one of them from a verified block."""

    def __init__(self, content: Content, *, size_bytes: int, kept_blocks: int) -> None:
        super().__init__()
        self._block = functools.lru_cache(maxsize=kept_blocks)(content.read_block)
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Give the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as ``io.IOBase.seek`` does; never before the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def forget_blocks(self) -> None:
        """Keep none of the blocks read so far, so that a new pass sees the file as it is now."""
        self._block.cache_clear()

    # typeshed wants any kind of buffer here; io's own classes pass a memoryview.
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, short only at the end of the file."""
        wanted = min(len(buffer), self._size_bytes - self._position)
        done = 0
        while done < wanted:
            index, offset = divmod(self._position, BLOCK_BYTES)
            part = memoryview(self._block(index))[offset : offset + wanted - done]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done


class _LineStream(io.RawIOBase):
    """One pass over the content: digests it, and watches over the length of its lines."""

    def __init__(self, content: Content, source: io.RawIOBase | io.BufferedIOBase) -> None:
        super().__init__()
        self._content = content
        self._source = source
        self._digest = hashlib.sha256()
        self._line_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # as in VerifiedFile
        path = self._content.path
        try:
            count = self._source.readinto(buffer) or 0
        except EOFError as error:
            raise InputError(
                f"{path} is cut short: its compressed data ends too early",
                remedy="copy or write the file again",
            ) from error
        except _DAMAGE as error:
            raise InputError(
                f"{path} is damaged or not compressed as its name says: {error}",
                remedy="copy or write the file again, or name it after what it holds",
            ) from error
        if count == 0:
            self._content.complete(self._digest.hexdigest())
            return 0
        chunk = bytes(buffer[:count])
        self._digest.update(chunk)
        last_line_end = chunk.rfind(b"\n")
        self._line_bytes = self._line_bytes + count if last_line_end < 0 else count - last_line_end - 1
        if self._line_bytes > LINE_LIMIT_BYTES:
            raise InputError(
                f"{path} has more than {LINE_LIMIT_BYTES:,} bytes without a line end",
                remedy="check that it is a CSV file with LF or CRLF line ends, and save it as one",
            )
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class _Bz2Members(io.RawIOBase):
    """The content of all members of a bzip2 file.

    Not ``bz2.BZ2File``: that takes a member it cannot read, from the second on, for padding, and ends there
    unsaid.
    """

    def __init__(self, packed: io.BufferedIOBase) -> None:
        super().__init__()
        self._packed = packed
        self._member = bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # as in VerifiedFile
        content = b""
        while not content:
            data = b""
            if self._member.eof:
                data = self._member.unused_data or self._packed.read(BLOCK_BYTES)
                if not data:
                    return 0
                self._member = bz2.BZ2Decompressor()
            elif self._member.needs_input:
                data = self._packed.read(BLOCK_BYTES)
                if not data:
                    raise EOFError
            content = self._member.decompress(data, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _open_regular(path: Path) -> int:
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown reason")
        raise InputError(f"{path} cannot be opened: {reason}", remedy="check the path and the permissions") from error
    except ValueError as error:
        raise InputError(f"{path!r} cannot be opened: {error}", remedy="check the path") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{path} is {what}", remedy="name a CSV or Parquet file; save a pipe's data to one first")
    return descriptor


def _read_at(descriptor: int, start: int, wanted: int) -> bytes:
    """``wanted`` bytes from ``start``, fewer only at the end of the file."""
    block = os.pread(descriptor, wanted, start)
    while 0 < len(block) < wanted:
        more = os.pread(descriptor, wanted - len(block), start + len(block))
        if not more:
            break
        block += more
    return block
