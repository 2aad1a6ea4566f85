"""Results as a pandas table, which is imported only when one is asked for. The only file that knows `pandas`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uploader.model.model import cell_text
from uploader.results.own_files import demand_own_columns, open_own_file
from uploader.results.results import OWN_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def read_results(path: Path | str) -> pd.DataFrame:
    """Load a results or failed file (CSV, Parquet, or a workbook made of one) into a table, a line a row.

    The input's columns hold what they hold in the file: text from CSV, never changed (``00123``, ``NA``), an empty
    text for an empty cell. Of ours, ``upload_row``, ``upload_http_status`` and ``upload_attempts`` are whole numbers
    (``Int64``, missing where there is none), ``upload_at`` is a moment in UTC, the others are text.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    import pandas as pd  # noqa: PLC0415 -- most of a second

    from uploader.readers.parquet_log import read_table  # noqa: PLC0415 -- likewise

    path = Path(path)
    with open_own_file(path, delimiter=None) as log:
        demand_own_columns(log)
        kind, delimiter = log.kind, log.delimiter
        has_no_reader = path.suffix.lower() in (".xlsx", ".zst")
        rows = [row.cells for batch in log.batches() for row in batch.rows if row.cells] if has_no_reader else []
        columns = log.columns
    if has_no_reader:
        table = pd.DataFrame([[*map(cell_text, row)] for row in rows], columns=columns)
    elif kind == "parquet":
        # What pandas noted in its log about itself, such as which column was its index, is about the log alone.
        table = read_table(path).to_pandas(ignore_metadata=True)
    else:
        table = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    for column, type_name in OWN_COLUMNS.items():
        if column not in table.columns:
            continue
        if type_name == "integer":
            table[column] = pd.to_numeric(table[column], errors="coerce").astype("Int64")
        elif column == "upload_at":
            table[column] = pd.to_datetime(table[column], errors="coerce", utc=True, format="ISO8601")
        else:
            table[column] = table[column].fillna("")
    return table
