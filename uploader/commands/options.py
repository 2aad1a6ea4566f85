"""The options of the commands: their names, variables, types and help.

What can bill again has neither a variable nor a place in the settings file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from uploader.commands.effective import lay_file_under
from uploader.model.configuration import Kind
from uploader.model.settings import DEFAULT_BASE_URL, DEFAULT_PATIENCE_SECONDS, DEFAULT_RETRIES, DEFAULT_TIMEOUT_SECONDS

_KIND_BY_KEY: dict[str, Kind] = {}


class _Place(click.Path):
    """A file or folder, there already or not; an empty name would be the folder one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("a name is missing, perhaps an unset variable of the shell", param, ctx)
        return super().convert(value, param, ctx)


FILE = _Place(path_type=Path)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add_all(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add_all


def _option(name: str, *, kind: Kind | None = None, **facts: Any) -> Callable[[Any], Any]:
    """Make an option that can be set as UPLOADER_NAME and in a file too; flags that can bill again are made without.

    kind: what stands in the file, where the option's type does not tell.
    """
    _KIND_BY_KEY[name.removeprefix("--").replace("-", "_")] = kind or _kind(click.Option([name], **facts))
    return _with_variable(name, **facts)


def _with_variable(name: str, **facts: Any) -> Callable[[Any], Any]:
    variable = "UPLOADER_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **facts)


def _kind(option: click.Option) -> Kind:
    if option.multiple:
        return Kind.TABLE
    kind_by_type = {
        click.types.StringParamType: Kind.TEXT,
        _Place: Kind.PATH,
        click.types.IntParamType: Kind.WHOLE_NUMBER,
        click.types.FloatParamType: Kind.NUMBER,
    }
    return kind_by_type.get(type(option.type), Kind.SCALAR)


_note = functools.partial(lay_file_under, kind_by_key=_KIND_BY_KEY)

_file = _options(
    _with_variable(
        "--config",
        type=FILE,
        is_eager=True,
        callback=_note,
        help="Settings file; without it ./uploader.toml, else the one in your configuration folder.",
    ),
    _with_variable(
        "--destination",
        metavar="NAME",
        default="",
        is_eager=True,
        callback=_note,
        help="Which of the settings file's destinations is meant.",
    ),
)
_schema = _option("--schema", type=FILE, help="JSON Schema for the rows; without it the one that ships.")


class _Delimiter(click.types.StringParamType):
    """One character; a tab is hard to type."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "\t" if value in ("tab", r"\t") else super().convert(value, param, ctx)


_delimiter = _option(
    "--delimiter",
    kind=Kind.TEXT,
    type=_Delimiter(),
    metavar="CHAR|tab",
    help="Between the cells of a CSV file; without it a comma (.tsv: a tab). In files that this program wrote it is "
    "found out.",
)
_results_dir = _option("--results-dir", type=FILE, help="Folder for the results; without it beside the input.")
_ledger = _option(
    "--ledger", type=FILE, help="Folder of the ledger, on a local disk.  [default: ~/.local/state/uploader/ledger]"
)


class _Pair(click.types.StringParamType):
    """``NAME=TEXT``; in a variable they stand between commas, for a column's name may have spaces."""

    name = "pair"
    envvar_list_splitter = ","


_mapping = _options(
    _option(
        "--column",
        type=_Pair(),
        multiple=True,
        metavar="NAME=COLUMN",
        help="The schema's NAME is the log's COLUMN, as in tenant_id=TenantID.  [repeatable]",
    ),
    _option(
        "--constant",
        type=_Pair(),
        multiple=True,
        metavar="NAME=VALUE",
        help="The log has no NAME: each of its cells is VALUE, as in device_id=import.  [repeatable]",
    ),
)
_results = _option("--results", type=FILE, help="Name of the results file, for a single input.")
_period = _option(
    "--period",
    default="",
    metavar="LABEL",
    help="The usage's period, as in 2026-11-21: the same content in another period is another upload.",
)
_event_id = _option(
    "--event-id",
    metavar="COLUMN",
    help="The column of the log's own event ids: an event is posted once, whatever files it stands in.",
)


@dataclass(slots=True)
class Voice:
    """In which form the last words of a command are said; None for a person's."""

    log_format: str | None = None


def _note_log_format(context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    context.ensure_object(Voice).log_format = value
    return value


_report = _option("--report", type=FILE, help="Write a page for a person to this file: HTML that needs no network.")
_max_failed = _option(
    "--max-failed",
    kind=Kind.SCALAR,
    metavar="N|P%",
    help="Stop a file of which more rows than this fail, as in 100 or 1%.",
)
_sending = _options(
    _file,
    _option("--base-url", default=DEFAULT_BASE_URL, show_default=True, help="Where the backend is."),
    _schema,
    _delimiter,
    _mapping,
    _results_dir,
    _ledger,
    _option(
        "--concurrency",
        kind=Kind.SCALAR,
        default="auto",
        show_default=True,
        metavar="auto|N",
        help="Calls in flight at the most; auto finds out what the backend takes.",
    ),
    _option("--max-rate", type=float, metavar="N", help="Rows posted a second at the most; without it no cap."),
    _option(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="For each call, until its whole answer is in.",
    ),
    _option(
        "--retries",
        type=int,
        default=DEFAULT_RETRIES,
        show_default=True,
        help="Further attempts at a row that was certainly not recorded, or at a look-up.",
    ),
    _option(
        "--patience",
        type=float,
        default=DEFAULT_PATIENCE_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait in all for a backend in trouble, before the run stops.",
    ),
    _option(
        "--safe-status",
        metavar="STATUS,...",
        help="5xx answers that, by your word, mean 'not recorded', as in 500,502.",
    ),
    _option("--idempotency-header", metavar="NAME", help="The header by which the backend drops repeats."),
    _option("--summary", type=FILE, help="Write totals, calls, latency and rate to this file, as JSON."),
    _report,
    _option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        callback=_note_log_format,
        help="Log lines on standard error instead of a progress bar, one a change of state; with json one object a "
        "line, and no summary on standard output.  [default: a bar on a terminal, else text]",
    ),
)

_allow_overlap = click.option(
    "--allow-overlap", is_flag=True, help="Post rows that look as if they had been posted before, or moved."
)
of_config = _options(_sending, _results, _period, _event_id, _max_failed)
of_upload = _options(
    of_config,
    click.option("--again", is_flag=True, help="Bill all of a content again that was uploaded before, under new ids."),
    _allow_overlap,
    click.option(
        "--dry-run",
        is_flag=True,
        # No variable: one that is forgotten would keep every later night from posting, and say that all is well.
        help="Do all but post: guards, checks and look-ups; say what would be posted. Nothing is written.",
    ),
    click.option("--sandbox", is_flag=True, help="Try it: post to a local backend that is started for this run."),
)
of_replay = _options(
    _sending,
    _with_variable(
        "--period", default="", metavar="LABEL", help="With --without-ledger: the label that the upload had, if any."
    ),
    _allow_overlap,
    click.option(
        "--include-in-doubt", is_flag=True, help="Post the rows in doubt once more: each may then be billed twice."
    ),
    click.option(
        "--accept-changes", is_flag=True, help="Take cells that a spreadsheet seems to have changed as they are."
    ),
    click.option(
        "--without-ledger",
        is_flag=True,
        help="Adopt the file's run: the ledger of its upload is lost. Then never continue that upload elsewhere.",
    ),
)
of_export = _options(
    click.option("--output", "-o", type=FILE, help="Name of the workbook; without it that of FILE with .xlsx."),
    _delimiter,
)
of_report = _options(
    _file,
    _mapping,
    click.option("-o", "--output", type=FILE, help="Name of the page; without it that of RESULTS, ending in .html."),
)
of_validate = _options(_file, _schema, _delimiter, _mapping, _event_id, _max_failed, _report)
of_runs = _options(_file, _ledger)
of_doctor = _options(
    _sending, click.option("--tenant", metavar="ID", help="Whose customer is looked up; else of FILE's first good row.")
)
of_sandbox = _options(
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", default=8000, show_default=True, help="0 takes a free one."),
    click.option(
        "--latency",
        "latency_milliseconds",
        default=0.0,
        show_default=True,
        metavar="MS",
        help="How long each answer is held back.",
    ),
    click.option(
        "--fail-with-503",
        default=0.0,
        metavar="SHARE",
        help="Posts answered 503 with Retry-After, 0 to 1; not recorded.",
    ),
    click.option(
        "--fail-with-500",
        default=0.0,
        metavar="SHARE",
        help="Posts answered 500; every second one is recorded all the same.",
    ),
    click.option("--drop", default=0.0, metavar="SHARE", help="Posts recorded and then left without an answer."),
    click.option("--seed", default=0, show_default=True, help="Which posts those are."),
)
