"""The house: files import only from rows below their own, and each outside library is known by one file."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uploader"

ROWS = [
    {"cli"},
    {"cli_look", "cli_post"},
    {"ending", "options", "sandboxed"},
    {"commands", "console", "doctor", "dry_run", "log_lines", "report", "runs", "sandbox", "validate"},
    {"charts", "dry_events", "effective", "export", "findings", "frames", "replay_run", "summary", "upload_run"},
    {"replay_admission"},
    {"adoption", "due_rows", "judge", "moved_cells", "replay_sketch", "sandbox_backend", "settled_rows"},
    {"admission", "naming"},
    {"desk", "glance", "guards", "overlap_guard", "own_events", "workbook", "writing"},
    {"file_report", "log_check", "pacing_notes", "posting", "replay_log", "spreadsheets"},
    {
        "books",
        "claims",
        "documents",
        "client",
        "customers",
        "ledger",
        "marker",
        "overlap",
        "pacing",
        "progress",
        "readers",
        "results",
        "seen",
        "sender",
    },
    {"adopted", "amounts", "edits", "event_reader", "reservation", "run_totals", "timings"},
    {"run_file"},
    {
        "bucket",
        "csv_log",
        "database",
        "descriptors",
        "durable",
        "limit",
        "local_disk",
        "lock",
        "parquet_log",
        "schema",
        "xlsx_log",
    },
    {"dialling", "link", "open_log", "parquet_sieve", "refusals", "trials"},
    {"answer_body", "connecting", "proxies"},
    {"origin", "steps"},
    {
        "answer_head",
        "api",
        "arrow_cells",
        "calls",
        "ceiling",
        "cell_readers",
        "content",
        "csv_record",
        "csv_scan",
        "identity",
        "known_cells",
        "measured",
        "plan",
        "resolver",
        "socks",
        "tls",
    },
    {"climb", "configuration", "mapping", "model", "notes", "settings"},
    {"errors", "records", "shell", "wording"},
]
"""From the top; the parts of one row do not know each other."""

FILES_BY_LIBRARY = {
    "click": "cli cli_look cli_post effective ending options",
    "platformdirs": "configuration",
    "tomli": "configuration",
    "tomllib": "configuration",
    "rich": "console",
    "jinja2": "report",
    "markupsafe": "report",
    "pygal": "charts",
    "pandas": "frames",
    "starlette": "sandbox",
    "uvicorn": "sandbox",
    "pyarrow": "parquet_log parquet_sieve arrow_cells",
    "jsonschema_rs": "schema",
    "sqlite3": "database",
    "datasketches": "overlap",
    "requests": "client",
    "openpyxl": "xlsx_log",
    "xlsxwriter": "workbook",
    "backports": "content",
    "compression": "content",
}


def _imports(name: str) -> set[str]:
    """List what a file imports, inside functions and TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"uploader.{node.module}" if node.level else str(node.module)
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "uploader" else {module}
    return found


FILES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_file_has_its_row() -> None:
    """A new file is given a place in the picture."""
    assert set(FILES) == set().union(*ROWS)


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down(name: str) -> None:
    """A file imports only from rows below its own."""
    row = next(at for at, names in enumerate(ROWS) if name in names)
    below = set().union(*ROWS[row + 1 :])
    own = {module.split(".")[1] for module in _imports(name) if module.startswith("uploader.")}
    assert own <= below


@pytest.mark.parametrize("name", FILES)
def test_each_library_is_known_by_one_file(name: str) -> None:
    """An outside library is imported by the one file that is there for it; click and pyarrow by some."""
    modules = {module.split(".")[0] for module in _imports(name)}
    libraries = modules - sys.stdlib_module_names - {"uploader"} | modules & set(FILES_BY_LIBRARY)
    assert [library for library in libraries if name not in FILES_BY_LIBRARY.get(library, "").split()] == []


def test_readme_draws_every_file() -> None:
    """The picture in the README names every file of the package."""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    _, _, picture = readme.partition("\ncli.py ")
    picture, _, _ = picture.partition("```")
    drawn = {"cli", *re.findall(r"\b(\w+)\.py\b", picture)}
    assert set(FILES) - drawn == set()
    assert drawn - set(FILES) == set()
