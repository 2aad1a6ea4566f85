"""Results of any input, and of a whole upload."""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing_answers import Answer, reply
from tests.billing_contract import Received
from tests.billing_server import BillingServer
from tests.results.written import HEADER, QUICK_FOLDER, Run, column, rejected, reread, usage_log
from uploader.model.errors import InputError
from uploader.model.plan import Plan
from uploader.model.settings import Settings
from uploader.posting.desk import Watcher
from uploader.results.results import OWN_COLUMNS
from uploader.uploads.upload_run import upload

# --- any input --------------------------------------------------------------------------------------------------------

CELLS = st.text(
    st.sampled_from("ab1 \t,;'\"=\r\n") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)
CSV_BYTES = st.lists(
    st.sampled_from([b",", b";", b'"', b"\n", b"\r", b"\r\n", b"a", b"\xff", b"\0", b"\\x41", b"acme,d,api,1\n", b"="])
    | st.binary(max_size=3),
    max_size=25,
)


def unescaped(raw: str) -> bytes:
    r"""Undo the \xNN of ``upload_raw``."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), raw.encode())


@settings(max_examples=200, deadline=None)
@given(body=CSV_BYTES.map(b"".join), line_end=st.sampled_from([b"\n", b"\r\n"]), has_bom=st.booleans())
def test_results_of_any_bytes_can_be_read_again(body: bytes, line_end: bytes, has_bom: object) -> None:
    """Of any input that can be taken, our own reader finds every row in the results once, in order, with its text."""
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / "usage.csv"
        usage.write_bytes((b"\xef\xbb\xbf" if has_bom else b"") + HEADER.encode() + line_end + body)
        try:
            _, rows = reread(usage)
        except InputError:
            return  # a quote that is open at the end
        names = Run().write(usage, rejected)
        for path in (names.results, names.failed):
            if not path.exists():
                assert not rows
                continue
            columns, ours = reread(path)
            assert columns == (*HEADER.split(","), *OWN_COLUMNS)
            assert [row.fault for row in ours] == [""] * len(rows)
            assert [row.cells[4] for row in ours] == [str(row.number) for row in rows]
            for row, own in zip(rows, ours, strict=True):
                if not row.fault:
                    assert own.text.startswith(f"{row.text},")
                    assert own.cells[:4] == row.cells
                elif "\\" not in row.text:
                    assert unescaped(own.cells[-1]) == row.text.encode("utf-8", "surrogateescape")


def spelled(cells: Sequence[str], *, delimiter: str, quotes_all: object) -> str:
    """Spell a CSV record."""
    return delimiter.join(
        '"' + cell.replace('"', '""') + '"' if quotes_all or re.search('[",;\t\r\n]', cell) else cell for cell in cells
    )


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(*[CELLS] * 6).filter(any), max_size=8),
    quotes_all=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    name=st.sampled_from(["usage.csv", "usage.csv.gz", "usage.tsv"]),
)
def test_results_carry_any_table_unchanged(
    rows: list[tuple[str, ...]], quotes_all: object, line_end: str, name: str
) -> None:
    """Any cells, however they were quoted, are the same in the results and in the failed file."""
    columns = [*HEADER.split(","), "a note", "=x"]
    delimiter = "\t" if ".tsv" in name else ","
    lines = [spelled(cells, delimiter=delimiter, quotes_all=quotes_all) for cells in (columns, *rows)]
    data = "".join(line + line_end for line in lines).encode()
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / name
        usage.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        names = Run().write(usage, rejected)
        for path in [names.results, *([names.failed] if rows else [])]:
            found, ours = reread(path)
            assert list(found) == [*columns, *OWN_COLUMNS]
            assert [tuple(row.cells[:6]) for row in ours] == rows


INTEGERS = [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), text_type=st.sampled_from(TEXTS), integer_type=st.sampled_from(INTEGERS))
def test_results_carry_any_parquet_table_unchanged(data: st.DataObject, text_type: Any, integer_type: Any) -> None:
    """Any values, of any type that pandas, Polars or Arrow write, are the same in the results."""
    count = data.draw(st.integers(0, 5))
    texts = st.lists(st.none() | CELLS, min_size=count, max_size=count)
    numbers = st.lists(st.none() | st.integers(0, 127), min_size=count, max_size=count)
    columns = {name: pa.array(data.draw(texts), pa.string()).cast(text_type) for name in HEADER.split(",")[:3]}
    table = pa.table({**columns, "total_usage": pa.array(data.draw(numbers), integer_type)})
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / "usage.parquet"
        pq.write_table(table, usage)
        names = Run().write(usage, rejected)
        results = pq.read_table(names.results)
        assert results.select(table.column_names).equals(pq.read_table(usage), check_metadata=True)
        assert results["upload_row"].to_pylist() == list(range(1, count + 1))
        if count:
            cells = [["" if cell is None else str(cell) for cell in row.values()] for row in table.to_pylist()]
            assert [list(row.cells[:4]) for row in reread(names.failed)[1]] == cells


# --- a whole upload ---------------------------------------------------------------------------------------------------


def evil_but_sound(received: Received) -> Answer:
    """Do as the contract says, in words that are dangerous in a spreadsheet."""
    if received.method == "GET":
        return reply(200, [{"id": "=HYPERLINK(1)"}])
    if received.event["total_usage"] == 2:
        return reply(422, b"\t=cmd|' /C calc'!A0\r\n@next," + b"x" * 5000)
    return reply(201, {"id": "=1"})


@pytest.mark.usefixtures("plain_environment")
@pytest.mark.parametrize("name", ["usage.csv", "usage.tsv", "usage.parquet"])
def test_the_results_of_an_upload_say_what_the_backend_did(
    folder: Path, ledgers: Path, billing_server: BillingServer, name: str
) -> None:
    """Each row has the backend's customer and answer, made harmless, and is accepted if and only if it was billed."""
    billing_server.respond = evil_but_sound
    usage = usage_log(folder / name)
    plan = Plan(settings=Settings(base_url=billing_server.base_url, retries=0), ledger_folder=ledgers)
    watcher = Watcher(begin=lambda *_: None, watch=lambda _: None, say=lambda _: None, should_stop=lambda: False)
    (report,) = upload([usage], plan=plan, watcher=watcher)
    assert report.error is None
    assert report.names is not None
    results = report.names.results
    assert column(results, "upload_status") == ["accepted", "failed", "accepted"]
    assert column(results, "upload_customer_id") == ["'=HYPERLINK(1)"] * 3
    assert column(results, "upload_response")[0] == '{"id": "=1"}'
    refusal = column(report.names.failed, "upload_response")[0]
    assert refusal.startswith(" '=cmd|' /C calc'!A0  @next,xxx")
    assert len(refusal) == 1024
    assert column(report.names.failed, "device_id") == ["d2"]
    billed = billing_server.billed_by("x-request-id")
    event_ids = column(results, "upload_event_id")
    assert billed == {event_ids[0]: 1, event_ids[2]: 1}
