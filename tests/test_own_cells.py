"""How our cells stand in a CSV results file, whatever is in them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.model.model import Batch, Row
from uploader.readers.readers import open_usage_log
from uploader.results.results import OWN_COLUMNS, CsvTable

_TEXT = st.text(st.sampled_from("a1,;\t|\"\r\n 'é"), max_size=6)
_FREE = {"upload_detail", "upload_event_id", "upload_customer_id", "upload_response", "upload_raw"}
_PLAIN = {
    "upload_row": st.one_of(st.none(), st.integers(1, 10**9)),
    "upload_http_status": st.one_of(st.none(), st.integers(200, 599)),
    "upload_attempts": st.one_of(st.none(), st.integers(0, 9)),
}
_CELLS = st.tuples(
    *(
        st.one_of(st.none(), _TEXT)
        if column in _FREE
        else _PLAIN.get(column, st.sampled_from([None, "", "failed", "2026-11-20T00:00:00.123Z"]))
        for column in OWN_COLUMNS
    )
)


@pytest.mark.parametrize("delimiter", [",", "\t", "-"], ids=["comma", "tab", "minus"])
def test_cells_are_spelled_as_the_standard_library_does(delimiter: str, tmp_path: Path) -> None:
    """Quotes stand where ``csv.writer`` sets them, and nowhere else."""
    path = tmp_path / "x.csv"
    path.write_text(f"a{delimiter}b\n")

    @settings(max_examples=60, deadline=None)
    @given(all_cells=st.lists(_CELLS, min_size=1, max_size=5))
    def try_with(all_cells: list[tuple[str | int | None, ...]]) -> None:
        written = io.BytesIO()
        table = CsvTable(written, log)
        header_bytes = written.tell()
        table.write(Batch([Row(1, ["x", "y"], "xy")] * len(all_cells)), all_cells)
        assert written.getvalue()[header_bytes:].decode() == "".join(f"xy{delimiter}{_spelled(c)}\n" for c in all_cells)

    def _spelled(cells: tuple[str | int | None, ...]) -> str:
        spelled = io.StringIO(newline="")
        csv.writer(spelled, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
        return spelled.getvalue().removesuffix("\r\n")

    with open_usage_log(path, delimiter=delimiter) as log:
        try_with()
