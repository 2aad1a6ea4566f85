"""The bytes of a usage log are the same in every pass, or none come out."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from uploader.model.errors import InputChangedError, InputError
from uploader.readers.content import BLOCK_BYTES, LINE_LIMIT_BYTES, Compression, Content

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstd.compress,
}
every_packing = pytest.mark.parametrize("packing", PACK)


def write(path: Path, data: bytes) -> Path:
    """Write a file."""
    path.write_bytes(data)
    return path


def put(path: Path, *, position: int, data: bytes) -> None:
    """Change a file in place."""
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def lines_of_blocks(count: int) -> bytes:
    """Make text that fills so many blocks, and a little more."""
    return b"".join(b"%09d\n" % number for number in range(count * BLOCK_BYTES // 10 + 10))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Make a file of somewhat more than three blocks."""
    return write(tmp_path / "usage.csv", lines_of_blocks(3))


def test_every_pass_gives_the_files_bytes_and_their_digest(log: Path) -> None:
    """Two passes over a plain file give its bytes; the digest is that of the whole file."""
    content = Content(log)
    assert [content.open_lines().read() for _ in range(2)] == [log.read_bytes()] * 2
    assert content.sha256 == hashlib.sha256(log.read_bytes()).hexdigest()


def test_the_digest_is_not_known_before_a_pass_is_complete(log: Path) -> None:
    """A digest of a part must not be taken for the content's."""
    content = Content(log)
    content.open_lines().read(BLOCK_BYTES)
    with pytest.raises(RuntimeError, match="after the first complete pass"):
        _ = content.sha256


@every_packing
def test_packed_content_is_unpacked_over_all_its_members(tmp_path: Path, packing: Compression) -> None:
    """A file of two compressed members is their contents one after the other, and the digest is of those."""
    first, second = lines_of_blocks(1), b"last,line"
    path = write(tmp_path / "usage.csv", PACK[packing](first) + PACK[packing](b"") + PACK[packing](second))
    content = Content(path, compression=packing)
    assert content.open_lines().read() == first + second
    assert content.open_lines().read() == first + second
    assert content.sha256 == hashlib.sha256(first + second).hexdigest()


@every_packing
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_packed_content_that_is_cut_short_is_refused(tmp_path: Path, packing: Compression, kept: float) -> None:
    """Compressed data that ends too early is an input error that says so, not a shorter log."""
    packed = PACK[packing](os.urandom(50_000).hex().encode() + b"\n")
    path = write(tmp_path / "usage.csv", packed[: int(len(packed) * kept) or 3])
    with pytest.raises(InputError, match="cut short"):
        Content(path, compression=packing).open_lines().read()


@every_packing
@pytest.mark.parametrize("junk", [b"BZh9 but not really", b"\x1f\x8b\x08 but not really", b"a,b\n1,2\n"])
def test_a_damaged_member_is_refused_even_after_a_sound_one(tmp_path: Path, packing: Compression, junk: bytes) -> None:
    """What follows the first member is content or an error; it is never dropped unsaid."""
    for name, start in (("first", b""), ("second", PACK[packing](b"a,b\n"))):
        path = write(tmp_path / name, start + junk)
        with pytest.raises(InputError, match=r"is damaged|is cut short"):
            Content(path, compression=packing).open_lines().read()


@every_packing
def test_a_flipped_bit_in_packed_content_is_refused(tmp_path: Path, packing: Compression) -> None:
    """The packing's own checksum is heeded."""
    options = [(zstd.CompressionParameter.checksum_flag, 1)]
    content = os.urandom(5_000).hex().encode()
    packed = bytearray(zstd.compress(content, options=dict(options)) if packing == "zst" else PACK[packing](content))
    packed[len(packed) // 2] ^= 1
    path = write(tmp_path / "usage.csv", bytes(packed))
    with pytest.raises(InputError, match=r"is damaged|is cut short"):
        Content(path, compression=packing).open_lines().read()


def test_no_byte_of_a_changed_block_comes_out_of_a_later_pass(log: Path) -> None:
    """A byte changed in place ends the second pass before its block, whatever was read before stays good."""
    before = log.read_bytes()
    content = Content(log)
    content.open_lines().read()
    put(log, position=2 * BLOCK_BYTES - 1, data=b"X")
    stream = content.open_lines()
    assert stream.read(BLOCK_BYTES) == before[:BLOCK_BYTES]
    with pytest.raises(InputChangedError, match="put the file back as it was"):
        stream.read(1)


def test_a_file_put_back_as_it_was_can_be_read_again(log: Path) -> None:
    """The remedy that the message names works: it is the bytes that count, not the file's dates."""
    before = log.read_bytes()
    content = Content(log)
    content.open_lines().read()
    put(log, position=5, data=b"X")
    with pytest.raises(InputChangedError):
        content.open_lines().read()
    put(log, position=5, data=before[5:6])
    assert content.open_lines().read() == before


@pytest.mark.parametrize("change_bytes", [-1, -BLOCK_BYTES, +1, +BLOCK_BYTES])
def test_a_file_of_another_size_gives_nothing_in_a_later_pass(log: Path, change_bytes: int) -> None:
    """A shortened or grown file ends the second pass at once."""
    content = Content(log)
    content.open_lines().read()
    os.truncate(log, log.stat().st_size + change_bytes)
    with pytest.raises(InputChangedError, match="bytes since this run first read it"):
        content.open_lines().read(1)


@pytest.mark.parametrize("change", ["in place", "grown"])
def test_a_change_during_the_first_pass_is_an_input_error(log: Path, change: str) -> None:
    """Before the first pass is complete nothing can have been posted, so the file is refused, not the run stopped."""
    content = Content(log)
    content.open_lines().read(1)
    if change == "grown":
        os.truncate(log, log.stat().st_size + 1)
    else:
        put(log, position=3, data=b"X")
    with pytest.raises(InputError, match="wait until nothing writes to it"):
        content.open_lines().read()


def test_a_file_renamed_over_the_log_does_not_matter(log: Path) -> None:
    """The file that was opened is the one that every pass reads."""
    before = log.read_bytes()
    content = Content(log)
    content.open_lines().read()
    write(log.with_name("new"), b"other\n").replace(log)
    assert content.open_lines().read() == before


def test_a_seekable_view_reads_any_part_across_blocks(log: Path) -> None:
    """Reads at any place give the file's bytes, short only at its end."""
    before = log.read_bytes()
    view = Content(log).open_seekable(kept_blocks=2)
    for start, count in ((0, 4), (BLOCK_BYTES - 2, 5), (5, 2 * BLOCK_BYTES), (len(before) - 3, 10), (4, 1)):
        view.seek(start)
        assert view.read(count) == before[start : start + count]
        assert view.tell() == min(start + count, len(before))
    view.seek(-4, io.SEEK_END)
    view.seek(1, io.SEEK_CUR)
    assert view.read() == before[-3:]


def test_a_seekable_view_verifies_what_the_first_pass_hashed(log: Path) -> None:
    """After the file has been hashed, a block that differs cannot be read at any place."""
    content = Content(log)
    content.hash_file()
    assert content.sha256 == hashlib.sha256(log.read_bytes()).hexdigest()
    put(log, position=BLOCK_BYTES, data=b"X")
    view = content.open_seekable(kept_blocks=2)
    view.seek(2 * BLOCK_BYTES - 1)
    with pytest.raises(InputChangedError):
        view.read(1)


def test_content_read_before_the_file_was_hashed_is_verified_too(log: Path) -> None:
    """A Parquet footer is read on opening; hashing later must meet the same bytes."""
    content = Content(log)
    view = content.open_seekable(kept_blocks=1)
    view.seek(-1, io.SEEK_END)
    view.read(1)
    put(log, position=log.stat().st_size - 1, data=b"X")
    with pytest.raises(InputError, match="changed within"):
        content.hash_file()


def test_text_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    """More than 64 MiB without a line end is no CSV; up to that, it is left to the reader of lines."""
    path = write(tmp_path / "usage.csv", b"a,b\n")
    os.truncate(path, 4 + LINE_LIMIT_BYTES)
    read_through(path)
    os.truncate(path, 4 + LINE_LIMIT_BYTES + 1)
    with pytest.raises(InputError, match="67,108,864 bytes without a line end"):
        read_through(path)


def read_through(path: Path) -> None:
    """Read the content a block at a time."""
    stream = Content(path).open_lines()
    while stream.read(BLOCK_BYTES):
        pass


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A directory, a pipe nobody writes to and a missing file are input errors at once."""
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path, words in (
        (tmp_path, "is a directory"),
        (pipe, "is no regular file"),
        (tmp_path / "none.csv", "No such file"),
        (Path("a\0b.csv"), "embedded null"),
    ):
        with pytest.raises(InputError, match=words):
            Content(path)


def test_closing_gives_the_descriptor_back(log: Path) -> None:
    """A closed log holds no descriptor, and closing it twice is harmless."""
    before = list(Path("/dev/fd").iterdir())
    content = Content(log)
    assert len(list(Path("/dev/fd").iterdir())) == len(before) + 1
    content.close()
    content.close()
    assert len(list(Path("/dev/fd").iterdir())) == len(before)
