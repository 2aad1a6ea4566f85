"""The options of the commands: their names, variables, types and help; and how a settings file joins them.

A value comes from the command line, else from its variable, else from the file, else it is the default: click's own
order, with the file as its "default map". What can bill again has neither a variable nor a place in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from uploader.configuration import Configuration, Kind, find_configuration
from uploader.errors import SettingsError
from uploader.settings import DEFAULT_BASE_URL, normalised_base_url

_KIND_BY_KEY: dict[str, Kind] = {}
_NOTED = "uploader.settings"

FILE = click.Path(path_type=Path)
"""A file or folder, there already or not."""


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
        click.Path: Kind.PATH,
        click.types.IntParamType: Kind.WHOLE_NUMBER,
        click.types.FloatParamType: Kind.NUMBER,
    }
    return kind_by_type.get(type(option.type), Kind.SCALAR)


def _note(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Lay the file under the other options, once both the file and the destination are known, in whichever order."""
    noted = context.meta.setdefault(_NOTED, {})
    noted[option.name] = value
    if "config" in noted and "found" not in noted:
        noted["found"] = found = find_configuration(value, _KIND_BY_KEY)
        context.default_map = {"destination": found.default_destination} if found.default_destination else {}
    if len(noted) == 3:
        context.default_map = noted["found"].chosen(noted["destination"])
    return value


def configuration() -> tuple[Configuration, str]:
    """Give the settings file of the command that runs, and the name of the destination, empty for none."""
    noted = click.get_current_context().meta[_NOTED]
    return noted["found"], noted["destination"]


def key_source() -> tuple[str, Path | None]:
    """Say where the API key comes from, and which file holds it; an empty text for no key.

    It is no option: a command line can be seen by every user of the machine.
    """
    found, destination = configuration()
    if named := os.environ.get("UPLOADER_API_KEY_FILE"):
        return "variable UPLOADER_API_KEY_FILE", Path(named)
    if os.environ.get("UPLOADER_API_KEY"):
        return "variable UPLOADER_API_KEY", None
    if named := found.chosen(destination).get("api_key_file"):
        return found.place("api_key_file", destination), Path(named)
    return "", None


def demand_whole_destination() -> None:
    """Refuse another backend, or another key, beside a destination that has its own: which one is meant?

    Raises:
        SettingsError: a destination is chosen, and an option or a variable says otherwise.
    """
    found, destination = configuration()
    own = found.values_by_destination.get(destination, {})
    base_url = click.get_current_context().params["base_url"]
    key_place, key_file = key_source()
    if "base_url" in own and normalised_base_url(own["base_url"]) != normalised_base_url(base_url):
        what, otherwise = f"is {own['base_url']}", f"{source('base_url')} says {base_url}"
    elif "api_key_file" in own and key_place.startswith("variable") and key_file != Path(own["api_key_file"]):
        what, otherwise = "has a key of its own", f"{key_place} gives another"
    else:
        return
    raise SettingsError(
        f"destination {destination!r} of {found.path} {what}, and {otherwise}",
        remedy="leave one of them out; nothing was posted",
    )


def effective_settings(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the settings of the command that runs: key, value, and where it came from; the API key is masked."""
    found, _ = configuration()
    settings = [(name, _shown(value), source(name)) for name, value in values.items()]
    if found.path is not None and values["config"] is None:
        settings[[*values].index("config")] = ("config", str(found.path), "found")
    key_place, key_file = key_source()
    place = f"{key_place} ({key_file})" if key_file else key_place
    return [*settings, ("api_key", "********" if key_place else "", place or "default")]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def source(name: str) -> str:
    """Say where the value of an option of the command that runs came from."""
    context = click.get_current_context()
    [option] = [option for option in context.command.params if option.name == name]
    origin = context.get_parameter_source(name)
    if origin is ParameterSource.COMMANDLINE:
        return f"option {option.opts[0]}"
    if origin is ParameterSource.ENVIRONMENT:
        return f"variable {option.envvar}"
    if origin is ParameterSource.DEFAULT_MAP:
        found, destination = configuration()
        return found.place(name, destination)
    return "default"


def is_typed(name: str) -> bool:
    """Tell whether an option was given by the command line or its variable, and not by the settings file."""
    origin = click.get_current_context().get_parameter_source(name)
    return origin in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


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
_delimiter = _option(
    "--delimiter", metavar="CHAR", help="Between the cells of a CSV file; without it a comma (.tsv: a tab)."
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
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="For each call, until its whole answer is in.",
    ),
    _option(
        "--retries",
        type=int,
        default=2,
        show_default=True,
        help="Further attempts at a row that was certainly not recorded, or at a look-up.",
    ),
    _option(
        "--patience",
        type=float,
        default=600.0,
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

of_config = _options(_sending, _results, _period, _event_id, _max_failed)
of_upload = _options(
    of_config,
    click.option("--again", is_flag=True, help="Bill all of a content again that was uploaded before, under new ids."),
    click.option("--allow-overlap", is_flag=True, help="Take a file although most of its rows were posted before."),
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
    click.option(
        "--include-in-doubt", is_flag=True, help="Post the rows in doubt once more: each may then be billed twice."
    ),
    click.option(
        "--accept-changes", is_flag=True, help="Take ids that a spreadsheet seems to have changed as they are now."
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
