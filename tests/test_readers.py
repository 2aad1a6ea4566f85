"""A usage log is opened by its name, and taken only when its columns can be told apart."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uploader.model.errors import InputError
from uploader.readers.readers import UsageLog, open_usage_log

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def as_it_is(data: bytes) -> bytes:
    """Pack nothing."""
    return data


def cells_of(log: UsageLog) -> list[list[object]]:
    """Read one pass."""
    return [list(row.cells) for batch in log.batches() for row in batch.rows]


@pytest.mark.parametrize(
    ("packing", "pack"),
    [("", as_it_is), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd.compress), (".GZ", gzip.compress)],
)
@pytest.mark.parametrize(("extension", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_a_csv_is_opened_by_its_extensions(
    tmp_path: Path, packing: str, pack: Callable[[bytes], bytes], extension: str, separator: str
) -> None:
    """The extensions say how it is packed and what separates its cells, whatever the case and the rest."""
    path = tmp_path / f"usage 2026.11.21{extension}{packing}"
    path.write_bytes(pack(f"a{separator}b\n1{separator}2\n".encode()))
    with open_usage_log(path, delimiter=None) as log:
        assert (log.path, log.kind, log.columns, log.delimiter) == (path, "csv", ("a", "b"), separator)
        assert cells_of(log) == [["1", "2"]]
        assert log.row_count == 1


@pytest.mark.parametrize("extension", [".csv", ".tsv"])
def test_a_given_delimiter_wins_over_the_extension(tmp_path: Path, extension: str) -> None:
    """The operator's word is taken."""
    path = tmp_path / f"usage{extension}"
    path.write_bytes(b"a;b\n1,\t;2\n")
    with open_usage_log(path, delimiter=";") as log:
        assert log.delimiter == ";"
        assert cells_of(log) == [["1,\t", "2"]]


@pytest.mark.parametrize("name", ["usage.parquet", "usage.PQ"])
def test_a_parquet_is_opened_by_its_extension(tmp_path: Path, name: str) -> None:
    """The CSV delimiter does not concern it."""
    path = tmp_path / name
    pq.write_table(pa.table({"a": ["1"], "b": [2]}), path)
    with open_usage_log(path, delimiter=";") as log:
        assert (log.kind, log.columns) == ("parquet", ("a", "b"))
        assert cells_of(log) == [["1", 2]]


def test_a_folder_is_refused_with_what_to_name(tmp_path: Path) -> None:
    """Whatever its name is: its files are what can be read."""
    folder = tmp_path / "november.csv"
    folder.mkdir()
    with pytest.raises(InputError, match=r"november.csv is a folder -- name the files in it, as in .*/\*\.csv"):
        open_usage_log(folder, delimiter=None)


@pytest.mark.parametrize("name", ["usage", "usage.gz", "usage.csv.xz", "usage.parquet.gz", ".csv"])
def test_another_extension_is_refused_with_those_that_are_not(tmp_path: Path, name: str) -> None:
    """Nothing is guessed from the content."""
    (tmp_path / name).write_bytes(b"a,b\n")
    with pytest.raises(InputError, match=r"\.csv or \.tsv \(also with \.gz, \.bz2 or \.zst\), \.parquet or \.pq"):
        open_usage_log(tmp_path / name, delimiter=None)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r", "\0", "\\t"])
def test_what_cannot_separate_cells_is_refused(tmp_path: Path, delimiter: str) -> None:
    """A delimiter is one character that quoting does not use."""
    path = tmp_path / "usage.csv"
    path.write_bytes(b"a,b\n")
    with pytest.raises(InputError, match="give one character"):
        open_usage_log(path, delimiter=delimiter)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["a", "b", "a"], "2 columns are named 'a'"),
        (["a", ""], "column 2 has no name.*index=False"),
        (["", "", ""], "column 1 has no name"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, columns: list[str], words: str, kind: str
) -> None:
    """No one could say which of two columns is to be billed."""
    path = tmp_path / f"usage.{kind}"
    if kind == "csv":
        path.write_text(",".join(columns) + "\n")
    else:
        pq.write_table(pa.table([pa.array([1])] * len(columns), names=columns), path)
    with pytest.raises(InputError, match=words):
        open_usage_log(path, delimiter=None)


@pytest.mark.parametrize(
    ("name", "data"), [("a.csv", b"a,a\n"), ("b.csv", b"\xff\n"), ("c.csv.gz", b"\x1f"), ("d.pq", b"PAR1")]
)
def test_a_refused_file_is_closed(tmp_path: Path, name: str, data: bytes) -> None:
    """A command that goes on with other files does not run out of descriptors."""
    path = tmp_path / name
    path.write_bytes(data)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(InputError):
        open_usage_log(path, delimiter=None)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_columns_that_differ_in_anything_are_different(tmp_path: Path) -> None:
    """Names are compared as they stand, by case and spaces too."""
    path = tmp_path / "usage.csv"
    path.write_text("a,A, a,a \n1,2,3,4\n")
    with open_usage_log(path, delimiter=None) as log:
        assert log.columns == ("a", "A", " a", "a ")


def test_reading_csv_does_not_load_pyarrow(tmp_path: Path) -> None:
    """The nightly run of a CSV does not wait for a library that it does not use."""
    path = tmp_path / "usage.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    program = f"""
import sys
from pathlib import Path
from uploader.readers.readers import open_usage_log
with open_usage_log(Path({str(path)!r}), delimiter=None) as log:
    assert [row.text for batch in log.batches() for row in batch.rows] == ["1,2"]
sys.exit("pyarrow" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
