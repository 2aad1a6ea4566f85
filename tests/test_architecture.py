"""The house: files import only from below, and each outside library is known by one file."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "uploader"

HOUSE: list[dict[str, list[str]]] = [
    {"": ["cli"]},
    {"commands": ["cli_look cli_post", "ending options", "console effective for_programs log_lines"]},
    {
        "checks": ["dry_run", "doctor dry_events validate"],
        "sandbox": ["sandboxed", "sandbox", "sandbox_backend"],
    },
    {
        "replays": [
            "replay_run",
            "replay_admission",
            "adoption judge moved_cells replay_sketch",
            "moved_cells_guard replay_log spreadsheets",
        ],
        "reports": ["export report", "charts documents findings frames runs summary workbook"],
    },
    {
        "uploads": [
            "upload_run",
            "admission due_rows settled_rows",
            "guards naming overlap_guard own_events",
        ]
    },
    {
        "posting": [
            "desk",
            "file_report posting",
            "progress",
            "calls customers pacing_notes timings",
        ]
    },
    {"results": ["writing", "books results", "amounts own_files reservation"]},
    {
        "ledger": [
            "glance ledger_folder",
            "ledger",
            "edits run_totals seen",
            "adopted known_ceilings run_file seen_events",
            "claims marker run_facts sketch_files",
            "database durable local_disk lock overlap",
        ],
        "readers": [
            "log_check",
            "readers",
            "csv_log event_reader parquet_log xlsx_log",
            "open_log parquet_sieve",
            "arrow_cells content csv_record csv_scan",
        ],
    },
    {
        "pacing": ["pacing", "lesson limit", "refusals trials", "bucket ceiling climb measured"],
        "schema": ["schema", "cell_readers known_cells"],
        "sender": [
            "sender",
            "dialling",
            "connecting link proxies",
            "answer_body client steps",
            "answer_head descriptors origin resolver route socks tls",
        ],
    },
    {
        "model": [
            "api identity plan",
            "configuration mapping model settings",
            "errors notes records shell wording",
        ]
    },
]
"""Storeys from the top, the folders of each, and the rows of files in a folder. Folders of one storey do not know each
other, nor do the files of one row."""

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
    "requests": "client route",
    "openpyxl": "xlsx_log",
    "xlsxwriter": "workbook",
    "backports": "content",
    "compression": "content",
}


def _modules(room: str, rows: list[str]) -> set[str]:
    return {f"uploader.{room}.{name}" if room else f"uploader.{name}" for row in rows for name in row.split()}


def _below(module: str) -> set[str]:
    """List the modules that one may import."""
    for storey, rooms in enumerate(HOUSE):
        for room, rows in rooms.items():
            for at, row in enumerate(rows):
                if module in _modules(room, [row]):
                    further_in = [_modules(*item) for lower in HOUSE[storey + 1 :] for item in lower.items()]
                    return _modules(room, rows[at + 1 :]).union(*further_in)
    raise AssertionError(f"{module} has no place in the house")


def _path(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


def _imports(module: str) -> set[str]:
    """List what a file imports, inside functions and TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(_path(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            source = str(node.module)
            is_folder = source.startswith("uploader") and not _path(source).exists()
            found |= {f"{source}.{alias.name}" for alias in node.names} if is_folder else {source}
    return found


MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def test_every_file_has_its_place() -> None:
    """A new file is given a place in the picture."""
    assert set(MODULES) == set().union(*(_modules(*item) for rooms in HOUSE for item in rooms.items()))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    """A file imports only from folders of the storeys below its own, and from rows below its own."""
    assert {imported for imported in _imports(module) if imported.startswith("uploader")} <= _below(module)


@pytest.mark.parametrize("module", MODULES)
def test_each_library_is_known_by_one_file(module: str) -> None:
    """An outside library is imported by the one file that is there for it; click and pyarrow by some."""
    imported = {name.split(".")[0] for name in _imports(module)}
    libraries = imported - sys.stdlib_module_names - {"uploader"} | imported & set(FILES_BY_LIBRARY)
    name = module.rpartition(".")[2]
    assert [library for library in libraries if name not in FILES_BY_LIBRARY.get(library, "").split()] == []


def test_folders_say_what_they_are_for_and_no_more() -> None:
    """A folder's ``__init__.py`` is its description alone: importing one file of it imports no other."""
    inits = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*/__init__.py")]
    assert len(inits) == sum(len(rooms) for rooms in HOUSE) - 1
    assert [ast.get_docstring(init) for init in inits if len(init.body) != 1 or not ast.get_docstring(init)] == []


def test_readme_draws_every_file() -> None:
    """The picture in the README has every file of the package behind the folder that it is in."""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    _, _, picture = readme.partition("\ncli.py ")
    picture, _, _ = picture.partition("```")
    _, *drawn = re.split(r"^ *(\w+)/ ", picture, flags=re.MULTILINE)
    names_by_room = {
        room: re.findall(r"\b(\w+)\.py\b", text) for room, text in zip(drawn[::2], drawn[1::2], strict=True)
    }
    assert {f"uploader.{room}.{name}" for room, names in names_by_room.items() for name in names} == {*MODULES} - {
        "uploader.cli"
    }
