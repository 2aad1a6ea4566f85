"""A CSV usage log: every record as it stands, every malformed one named, nothing lost and nothing twice."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.model.errors import InputChangedError, InputError
from uploader.model.model import Row
from uploader.readers.content import BLOCK_BYTES, Compression
from uploader.readers.csv_log import CsvLog
from uploader.readers.csv_scan import CELL_LIMIT_CHARACTERS, KEPT_CHARACTERS, RECORD_LIMIT_CHARACTERS

COLUMNS = 'tenant,"device",usage'


def opened(folder: Path, data: bytes, *, delimiter: str = ",", compression: Compression | None = None) -> CsvLog:
    """Write a file and open it."""
    path = folder / "usage.csv"
    path.write_bytes(data)
    return CsvLog(path, delimiter=delimiter, compression=compression)


def rows_of(log: CsvLog) -> list[Row]:
    """Read one pass."""
    return [row for batch in log.batches() for row in batch.rows]


def rows_in(folder: Path, body: bytes, *, header: str = COLUMNS) -> list[Row]:
    """Read the rows of a file of this header and body."""
    with opened(folder, header.encode() + b"\n" + body) as log:
        return rows_of(log)


def cells_of(rows: list[Row]) -> list[list[str]]:
    """Take the cells alone."""
    return [list(row.cells) for row in rows]


def faults_of(rows: list[Row]) -> list[str]:
    """Take the faults alone."""
    return [row.fault for row in rows]


@pytest.mark.parametrize(
    "cell",
    [
        "00123",
        "NA",
        "null",
        "None",
        "nan",
        "1e5",
        "1_000",
        " x ",
        "",
        "'5",
        "=1+1",
        "é",
        "日本",
        "\u2028",
        "\x0b\x1c\x85",
    ],
)
def test_a_cell_is_text_as_it_stands(tmp_path: Path, cell: str) -> None:
    """No cell is trimmed, converted or taken for a missing value."""
    (row,) = rows_in(tmp_path, f"a,{cell},1\n".encode())
    assert row == Row(1, ["a", cell, "1"], f"a,{cell},1")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end"])
def test_the_files_dialect_is_known_and_no_part_of_the_cells(
    tmp_path: Path, line_end: str, bom: str, last: str
) -> None:
    """Byte order mark and line end are told apart from the text, also when the last line has none."""
    text = bom + line_end.join([COLUMNS, "a,b,1", '"c,""d",é,2']) + (line_end if last else "")
    with opened(tmp_path, text.encode()) as log:
        assert (log.columns, log.header_text) == (("tenant", "device", "usage"), COLUMNS)
        assert (log.line_end, log.has_bom, log.delimiter, log.kind) == (line_end, bool(bom), ",", "csv")
        assert rows_of(log) == [Row(1, ["a", "b", "1"], "a,b,1"), Row(2, ['c,"d', "é", "2"], '"c,""d",é,2')]


def test_lines_of_one_file_may_end_differently(tmp_path: Path) -> None:
    """LF and CRLF may be mixed; neither is part of a cell."""
    rows = rows_in(tmp_path, b"a,b,1\r\nc,d,2\ne,f,3\r\n")
    assert cells_of(rows) == [["a", "b", "1"], ["c", "d", "2"], ["e", "f", "3"]]


def test_a_quoted_cell_keeps_its_line_ends(tmp_path: Path) -> None:
    """A line end, of any kind, within quotes is text, and the record is one row."""
    rows = rows_in(tmp_path, b'a,"x\ny",1\n"b\r\n\n\rc",d,2\r\n')
    assert rows == [Row(1, ["a", "x\ny", "1"], 'a,"x\ny",1'), Row(2, ["b\r\n\n\rc", "d", "2"], '"b\r\n\n\rc",d,2')]


@pytest.mark.parametrize("cell", ['a"b', 'a""b', ' "b"', 'b"', ' "'])
def test_a_quote_within_an_unquoted_cell_is_text(tmp_path: Path, cell: str) -> None:
    """Only a quote at the start of a cell quotes."""
    assert cells_of(rows_in(tmp_path, f"x,{cell},1\n".encode())) == [["x", cell, "1"]]


def test_blank_lines_are_not_rows(tmp_path: Path) -> None:
    """A line of nothing is skipped, before the header too; a line of one space is a row."""
    with opened(tmp_path, b"\n\r\nh\n\n1\n\r\n \n\n\n2") as log:
        assert [(row.number, row.text) for row in rows_of(log)] == [(1, "1"), (2, " "), (3, "2")]


def test_an_empty_quoted_cell_is_a_row_of_a_one_column_log(tmp_path: Path) -> None:
    """Quotes tell an empty cell from a blank line."""
    assert cells_of(rows_in(tmp_path, b'""\n\n', header="h")) == [[""]]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\n"])
def test_a_header_alone_is_a_log_of_no_rows(tmp_path: Path, body: bytes) -> None:
    """A flat day is a valid log."""
    with opened(tmp_path, b"a,b\n" + body) as log:
        assert rows_of(log) == []
        assert log.row_count == 0
        assert log.content_sha256 == hashlib.sha256(b"a,b\n" + body).hexdigest()


LONG = "x" * (CELL_LIMIT_CHARACTERS + 1)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"a,b", "line 3: 2 cells where the header has 3"),
        (b"a", "line 3: 1 cell where the header has 3"),
        (b"a,b,1,", "line 3: 4 cells where the header has 3"),
        (b'a,"x\ny",1,2', "lines 3-4: 4 cells where the header has 3"),
        (b'"a"x,b,1', "line 3: text after a closing quote"),
        (b'"a" ,b,1', "line 3: text after a closing quote"),
        (b'a,"x\ny" z,1', "line 4: text after a closing quote"),
        (b'a,"b"c"d",1', "line 3: text after a closing quote"),
        (b"a,caf\xe9,1", "line 3: cell 2 is not UTF-8"),
        (b"\xffa,b,1", "line 3: cell 1 is not UTF-8"),
        (b"a,b,1\xc3", "line 3: cell 3 is not UTF-8"),
        (b"a,\xed\xa0\x80,1", "line 3: cell 2 is not UTF-8"),
        (b'a,"x\n\xff",1', "line 4: cell 2 is not UTF-8"),
        (b"a,\0,1", "line 3: a NUL character"),
        (b'a,"x\n\0",1', "line 4: a NUL character"),
        (b"a\rb,b,1", "line 3: a bare carriage return"),
        (b'"a"\r,b,1', "line 3: a bare carriage return"),
        (f"a,{LONG},1".encode(), "line 3: a cell of more than 131,072 characters"),
        (f'a,"{LONG}",1'.encode(), "line 3: a cell of more than 131,072 characters"),
        (f'a,"\n{LONG}\n",1'.encode(), "line 3: a cell of more than 131,072 characters"),
        (b'"a"x,\xff\0', "line 3: a NUL character"),
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_record_that_breaks_the_rules_is_one_malformed_row(
    tmp_path: Path, record: bytes, fault: str, line_end: bytes
) -> None:
    """It has its line, its fault and its bytes; the rows before and after it are whole."""
    before, bad, after = rows_in(tmp_path, line_end.join([b"a,b,1", record, b"c,d,2", b""]))
    assert (before.cells, after.cells) == (["a", "b", "1"], ["c", "d", "2"])
    assert (before.number, bad.number, after.number) == (1, 2, 3)
    assert (bad.cells, bad.fault) == ((), fault)
    if len(record) <= KEPT_CHARACTERS:
        assert bad.text.encode("utf-8", "surrogateescape") == record


def test_a_carriage_return_too_many_is_no_line_end(tmp_path: Path) -> None:
    """Only CRLF is a line end; another carriage return is not dropped, also not at the end of the file."""
    rows = rows_in(tmp_path, b"a,b,1\r\r\n\r\r\nc,d,2\r")
    assert [row.text for row in rows] == ["a,b,1\r", "\r", "c,d,2\r"]
    assert faults_of(rows) == [f"line {line}: a bare carriage return" for line in (2, 3, 4)]


@pytest.mark.parametrize(
    "broken",
    [
        b'a,"x"y,"z\nbilled,twice,1\n",end\n',
        b'a,"x\n" y,"z\nbilled,twice,1\n"\n',
        b'"a"b,"\nbilled,twice,1\n\nbilled,twice,2\n",c\n',
        b'\0,"\nbilled,twice,1\n",c\n',
        b'\xff,"\r\nbilled,twice,1\r\n",c\r\n',
        b'a\rb,"\nbilled,twice,1\n",c\n',
        b'"a"x,"""\nbilled,twice,1\n""\n",c\n',
        f'{LONG},"\nbilled,twice,1\n",c\n'.encode(),
        b'"' + b"\nbilled,twice,1" * 10_000 + b'",b,1\n',
    ],
)
def test_no_line_within_a_broken_records_quotes_is_a_row(tmp_path: Path, broken: bytes) -> None:
    """A record that breaks the rules is malformed to its true end, whatever its quoted lines look like."""
    first, bad, last = rows_in(tmp_path, b"a,b,1\n" + broken + b"c,d,2\n")
    assert (first.fault, first.cells, last.fault, last.cells) == ("", ["a", "b", "1"], "", ["c", "d", "2"])
    assert bad.fault


def test_rows_that_all_have_a_cell_too_many_are_all_malformed(tmp_path: Path) -> None:
    """Columns are never shifted, not even when every row has the same number of cells."""
    rows = rows_in(tmp_path, b"a,b,1,x\n" * 2500)
    assert len(rows) == 2500
    assert {row.fault for row in rows} == {f"line {line}: 4 cells where the header has 3" for line in range(2, 2502)}


def test_line_numbers_count_every_line_of_the_file(tmp_path: Path) -> None:
    """Blank lines, quoted line ends and earlier faults are counted, over many batches."""
    unit = b'a,"x\n\ny",1\n\nc,d,2\nbad\n'
    rows = rows_in(tmp_path, unit * 30_000)
    assert [row.number for row in rows] == list(range(1, 90_001))
    faults = [fault for fault in faults_of(rows) if fault]
    assert faults == [f"line {7 + 6 * index}: 1 cell where the header has 3" for index in range(30_000)]


def test_a_fault_far_down_has_its_line(tmp_path: Path) -> None:
    """The lines of sound rows are counted too."""
    *_, bad = rows_in(tmp_path, b"a,b,1\n" * 100_000 + b"bad\n")
    assert bad.fault == "line 100002: 1 cell where the header has 3"


@pytest.mark.parametrize("body", [b'a,"b,1\nc,d,2\n', b'a,b,1\n"', b'a,b,1\n"x"y,"', b'a,b,1\n\xff,"\n\n'])
def test_a_quote_open_at_the_end_refuses_the_file(tmp_path: Path, body: bytes) -> None:
    """All that follows a lost quote may be rows, so none of it is read; the message names the quote's line."""
    line = 2 + body[: body.rindex(b'"')].count(b"\n")
    with opened(tmp_path, COLUMNS.encode() + b"\n" + body) as log:
        with pytest.raises(InputError, match=rf"the quote opened in line {line} is still open.*close the quote"):
            rows_of(log)
        with pytest.raises(RuntimeError):
            _ = log.row_count


LINE = b"0123456789" * 100 + b"\n"


def test_a_huge_cell_is_one_malformed_row_with_a_bounded_text(tmp_path: Path) -> None:
    """Of 10 MB, the first 64 Ki characters are kept, and words for the rest."""
    _, bad, after = rows_in(tmp_path, b"a,b,1\n" + b'a,"' + LINE * 10_000 + b'",1\nc,d,2\n')
    assert bad.fault == "line 3: a cell of more than 131,072 characters"
    kept = ('a,"' + LINE.decode() * 10_000)[:KEPT_CHARACTERS]
    left_out = 3 + 10_000 * len(LINE) + 3 - KEPT_CHARACTERS
    first_line = 3 + kept.count("\n")
    assert bad.text == f"{kept} [{left_out:,} more characters left out: lines {first_line}-10003 of the file]"
    assert after.cells == ["c", "d", "2"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("extra", [0, 1])
def test_a_malformed_text_is_cut_past_its_limit_and_not_before(tmp_path: Path, extra: int, line_end: bytes) -> None:
    """The line end is not counted."""
    record = b"x" * (KEPT_CHARACTERS + extra)
    (row,) = rows_in(tmp_path, record + line_end)
    mark = " [1 more characters left out: lines 2-2 of the file]" if extra else ""
    assert row.text == "x" * KEPT_CHARACTERS + mark


def test_the_longest_cell_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """Another library may raise csv's process-wide limit: a row's verdict stays, and so does the limit."""
    program = """
import csv
from pathlib import Path
from uploader.readers.csv_log import CsvLog
csv.field_size_limit(10**9)
with CsvLog(Path("usage.csv"), delimiter=",", compression=None) as log:
    (fault,) = [row.fault for batch in log.batches() for row in batch.rows]
assert fault == "line 2: a cell of more than 131,072 characters", fault
assert csv.field_size_limit() == 10**9
"""
    (tmp_path / "usage.csv").write_text(f"a,b\n1,{LONG}\n")
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)


def test_a_cell_of_the_longest_length_is_read(tmp_path: Path) -> None:
    """The limit is a cell's own length, quotes and doubled quotes not counted."""
    longest = '"' * CELL_LIMIT_CHARACTERS
    row, longer = rows_in(tmp_path, f'a,"{longest * 2}",1\na,"{longest * 2}""",1\n'.encode())
    assert (row.cells, row.fault) == (["a", longest, "1"], "")
    assert longer.fault == "line 3: a cell of more than 131,072 characters"


def test_a_record_that_never_ends_is_malformed(tmp_path: Path) -> None:
    """The memory for a record has a limit; its end is found all the same."""
    cell = b'"' + b"x" * 1000 + b'\n",'
    count = RECORD_LIMIT_CHARACTERS // len(cell) + 1
    bad, after = rows_in(tmp_path, cell * count + b"x\nc,d,2\n")
    assert bad.fault == "line 2: a record of more than 16,777,216 characters"
    assert bad.text.endswith(" of the file]")
    assert after.cells == ["c", "d", "2"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\n\r\n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a,b\xff\n1,2\n", "line 1: cell 2 is not UTF-8"),
        (b'a,"b"c\n1,2\n', "line 1: text after a closing quote"),
        (b"\na,b\rc,d\r", "line 2: a bare carriage return"),
        (b'a,"b\n1,2\n', "the quote opened in line 1 is still open"),
        (f"{LONG},b\n".encode(), "a cell of more than 131,072 characters"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16.*CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-be"), "NUL.*CSV UTF-8"),
        (b"\xfe\xff" + "a,b\n1,2\n".encode("utf-16-be"), "UTF-16.*CSV UTF-8"),
        (b"PAR1\x15\0", "Parquet.*name it .parquet"),
        (gzip.compress(b"a,b\n", mtime=0), "gzip.*name it .csv.gz"),
        (b"BZh91AY", "bzip2.*name it .csv.bz2"),
        (b"\x28\xb5\x2f\xfd\x24", "Zstandard.*name it .csv.zst"),
        (b"PK\x03\x04\x14", "workbook.*CSV UTF-8"),
    ],
)
def test_a_file_without_a_sound_header_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """The message names the file, what it is or what is wrong with its header, and a remedy."""
    with pytest.raises(InputError, match=f"(?s)usage.csv.*{words}"):
        opened(tmp_path, data)


def test_a_header_may_have_quoted_line_ends(tmp_path: Path) -> None:
    """The header is a record like any other, and the rows' line numbers go on from it."""
    with opened(tmp_path, b'"a\r\nb",c\r\n1\r\n') as log:
        assert (log.columns, log.header_text, log.line_end) == (("a\r\nb", "c"), '"a\r\nb",c', "\r\n")
        assert faults_of(rows_of(log)) == ["line 3: 1 cell where the header has 2"]


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", "¦", " "])
def test_another_delimiter_leaves_the_comma_alone(tmp_path: Path, delimiter: str) -> None:
    """Any one character may separate cells."""
    data = f'h1{delimiter}h2\na,b{delimiter}"c{delimiter}d"\nx\n'.encode()
    with opened(tmp_path, data, delimiter=delimiter) as log:
        good, bad = rows_of(log)
    assert log.columns == ("h1", "h2")
    assert good.cells == ["a,b", f"c{delimiter}d"]
    assert bad.fault == "line 3: 1 cell where the header has 2"


def test_batches_are_small_and_numbered_through(tmp_path: Path) -> None:
    """No batch has more than 1000 rows, short or odd as they may be; their numbers go on."""
    for body in (b"1\n" * 40_000, b"1\n\n" * 40_000):
        with opened(tmp_path, b"h\n" + body) as log:
            batches = [batch.rows for batch in log.batches()]
            assert max(map(len, batches)) <= 1000
            assert [row.number for rows in batches for row in rows] == list(range(1, 40_001))
            assert log.row_count == 40_000


def test_what_a_pass_finds_out_is_not_known_before_its_end(tmp_path: Path) -> None:
    """Neither the digest nor the number of rows of half a pass is given."""
    with opened(tmp_path, b"h\n" + b"1\n" * 1_000_000) as log:
        next(log.batches())
        for known in ("content_sha256", "row_count"):
            with pytest.raises(RuntimeError):
                getattr(log, known)


def test_packed_content_is_read_as_if_it_were_not(tmp_path: Path) -> None:
    """The digest is the content's, so a log and its compressed copy are one."""
    data = b"h\n" + b"1\n" * 5000
    (tmp_path / "packed").mkdir()
    packed_data = gzip.compress(data)
    with opened(tmp_path, data) as plain, opened(tmp_path / "packed", packed_data, compression="gz") as packed:
        assert rows_of(plain) == rows_of(packed)
        assert packed.content_sha256 == hashlib.sha256(data).hexdigest()


def test_a_row_that_changed_since_the_first_pass_never_comes_out(tmp_path: Path) -> None:
    """The second pass gives rows of the first, and stops before the block that is not the same."""
    data = b"h1,h2\n" + b"".join(b"%08d,1\n" % number for number in range(300_000))
    with opened(tmp_path, data) as log:
        first = rows_of(log)
        with log.path.open("r+b") as file:
            file.seek(2 * BLOCK_BYTES)
            file.write(b"X")
        rows = (row for batch in log.batches() for row in batch.rows)
        second = [next(rows) for _ in range(BLOCK_BYTES // 11)]
        assert second == first[: len(second)]
        with pytest.raises(InputChangedError):
            second.extend(rows)
    assert second == first[: len(second)]


def test_records_are_whole_wherever_chunks_and_blocks_part_them(tmp_path: Path) -> None:
    """Characters of several bytes and records of several lines survive every boundary."""
    table = [[f"é{number}" * (number % 7), "日\r\n本" * (number % 3), str(number)] for number in range(60_000)]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["a", "b", "c"], *table])
    data = written.getvalue().encode()
    assert len(data) > 2 * BLOCK_BYTES
    with opened(tmp_path, data) as log:
        assert cells_of(rows_of(log)) == table


any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
any_table = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(any_text, min_size=width, max_size=width), max_size=8)
)


@settings(deadline=None, max_examples=150)
@given(any_table, st.sampled_from([",", "\t", ";"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_csv_wrote_is_read_back(table: list[list[str]], delimiter: str, line_end: str, quote_all: bool) -> None:  # noqa: FBT001 -- hypothesis gives it
    """Any table of text comes back as it was, from the file and from each record's own text."""
    width = len(table[0]) if table else 2
    written = io.StringIO(newline="")
    # The Windows line end makes csv quote both of its characters, as Python 3.10 does not do by itself.
    writer = csv.writer(
        written,
        delimiter=delimiter,
        lineterminator="\r\n",
        quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL,
    )
    writer.writerows([[f"column {number}" for number in range(width)], *table])
    text = written.getvalue()
    if line_end == "\n" and text.count("\r\n") == len(table) + 1:
        text = text.replace("\r\n", "\n")
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), text.encode(), delimiter=delimiter) as log:
        rows = rows_of(log)
        assert cells_of(rows) == table
        assert faults_of(rows) == [""] * len(table)
        for row in rows:
            assert list(csv.reader([log.record_text(row)], delimiter=delimiter)) == [row.cells]


pieces = st.sampled_from(
    [b"a", b"b", b",", b",", b'"', b'"', b'""', b'","', b"\n", b"\n", b"\r\n", b"\r", b"\0", b"\xff", "é".encode()]
)


def is_sound(text: str) -> bool:
    """Judge a record of two cells by its own text alone, by strict ``csv`` and the bytes in it."""
    try:
        records = list(csv.reader([text], strict=True))
    except csv.Error:
        return False
    return (
        [len(cells) for cells in records] == [2]
        and "\0" not in text
        and text.encode("utf-8", "replace") == text.encode("utf-8", "surrogateescape")
        and sum(cell.count("\r") for cell in records[0]) == text.count("\r")
    )


@settings(deadline=None, max_examples=1000)
@given(st.lists(pieces, max_size=40).map(b"".join))
def test_every_line_belongs_to_exactly_one_row(data: bytes) -> None:
    """Whatever the bytes are, no line is lost or read twice, and a row is sound if and only if its text is."""
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_unless_open(Path(folder), data)
        if rows is None:
            # A closing quote was all that the file lacked.
            data += b'"\n'
            rows = rows_in(Path(folder), data, header="h1,h2")
    left = data.decode("utf-8", "surrogateescape")
    for number, row in enumerate(rows, 1):
        left = without_blank_lines(left)
        assert left.startswith(row.text)
        left = left[len(row.text) :]
        assert left.startswith(("\n", "\r\n")) or not left
        left = left[left.startswith("\r\n") :][1:]
        assert row.number == number
        assert bool(row.fault) != is_sound(row.text)
        if not row.fault:
            assert [row.cells] == list(csv.reader([row.text]))
    assert not without_blank_lines(left)


def rows_unless_open(folder: Path, data: bytes) -> list[Row] | None:
    """Read rows of two cells; None when a quote is open at the end."""
    try:
        return rows_in(folder, data, header="h1,h2")
    except InputError as error:
        if "is still open at the end" not in str(error):
            raise
        return None


def without_blank_lines(text: str) -> str:
    """Cut off the blank lines that the text begins with."""
    while text.startswith(("\n", "\r\n")):
        text = text[text.startswith("\r\n") :][1:]
    return text


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(pieces, max_size=8).map(b"".join), max_size=6))
def test_a_verdict_does_not_depend_on_the_neighbours(lines: list[bytes]) -> None:
    """Rows are the same whether ``csv`` splits a chunk or, for a blank line at its end, the scan does."""
    body = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        alone = rows_unless_open(Path(folder), body)
        assert rows_unless_open(Path(folder), body + b"\n") == alone
