"""What the options of the command that runs come to: each value, the place it comes from, and the plan they make.

A value comes from the command line, else from its variable, else from the settings file, else it is the default:
click's own order, with the file as its "default map".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from uploader.model.configuration import Configuration, Kind, default_ledger_folder, find_configuration
from uploader.model.errors import SettingsError
from uploader.model.mapping import ColumnMap
from uploader.model.plan import Plan
from uploader.model.settings import Settings, key_in, key_of_environment, normalised_base_url, parse_concurrency

_NOTED = "uploader.model.settings"
_OF_UPLOADS = ("results", "period", "event_id", "max_failed", "again", "allow_overlap")


def lay_file_under(
    context: click.Context, option: click.Parameter, value: Any, *, kind_by_key: Mapping[str, Kind]
) -> Any:
    """Lay the file under the other options, once both the file and the destination are known, in whichever order."""
    noted = context.meta.setdefault(_NOTED, {})
    noted[option.name] = value
    if "config" in noted and "found" not in noted:
        noted["found"] = found = find_configuration(value, kind_by_key)
        context.default_map = {"destination": found.default_destination} if found.default_destination else {}
    if len(noted) == 3:
        context.default_map = noted["found"].chosen(noted["destination"])
    return value


def configuration() -> tuple[Configuration, str]:
    """Give the settings file of the command that runs, and the name of the destination, empty for none."""
    noted = click.get_current_context().meta[_NOTED]
    return noted["found"], noted["destination"]


def _source(name: str) -> str:
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


def is_given(name: str) -> bool:
    """Tell whether an option was given by the command line or its variable, and not by the settings file."""
    origin = click.get_current_context().get_parameter_source(name)
    return origin in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def is_on_command_line(name: str) -> bool:
    """Tell whether an option was given by the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def effective_settings(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the settings of the command that runs: key, value, and where it came from; the API key is masked."""
    found, _ = configuration()
    settings = [(name, _shown(value), _source(name)) for name, value in values.items()]
    if found.path is not None and values["config"] is None:
        settings[[*values].index("config")] = ("config", str(found.path), "found")
    key_place, key_file = _key_source()
    place = f"{key_place} ({key_file})" if key_file else key_place
    return [*settings, ("api_key", "********" if key_place else "", place or "default")]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Make the plan of a command from its options.

    Raises:
        SettingsError: an option is wrong, or does not go with another.
    """
    if options.get("period") == "" and is_given("period"):
        raise SettingsError(
            "--period '': a label is missing, perhaps an unset variable of the shell",
            remedy="write it as in --period 2026-11-21; nothing was posted",
        )
    return Plan(
        settings=settings_of(options),
        ledger_folder=options["ledger"] or default_ledger_folder(),
        schema_path=options["schema"],
        delimiter=options["delimiter"],
        results_dir=options["results_dir"],
        mapping=ColumnMap.parse(options["column"], options["constant"]),
        **{name: options[name] for name in _OF_UPLOADS if name in options},
    )


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Make the settings of a command from its options.

    Raises:
        SettingsError: one is wrong, or it is not clear which backend or key is meant.
    """
    _demand_whole_destination()
    return Settings(
        base_url=options["base_url"],
        api_key=_api_key(),
        timeout_seconds=options["timeout"],
        retries=options["retries"],
        concurrency=parse_concurrency(options["concurrency"]),
        max_rate=options["max_rate"],
        patience_seconds=options["patience"],
        safe_statuses=_statuses(options["safe_status"] or ""),
        idempotency_header=options["idempotency_header"],
    )


def _statuses(text: str) -> frozenset[int]:
    try:
        return frozenset(int(status) for status in text.split(",") if status.strip())
    except ValueError:
        raise SettingsError(
            f"--safe-status {text!r}: not a list of statuses", remedy="write it as in --safe-status 500,502"
        ) from None


def _demand_whole_destination() -> None:
    """Refuse another backend, or another key, beside a destination that has its own: which one is meant?

    Raises:
        SettingsError: a destination is chosen, and an option or a variable says otherwise.
    """
    found, destination = configuration()
    own = found.values_by_destination.get(destination, {})
    base_url = click.get_current_context().params["base_url"]
    key_place, key_file = _key_source()
    if "base_url" in own and normalised_base_url(own["base_url"]) != normalised_base_url(base_url):
        what, otherwise = f"is {own['base_url']}", f"{_source('base_url')} says {base_url}"
    elif "api_key_file" in own and key_place.startswith("variable") and key_file != Path(own["api_key_file"]):
        what, otherwise = "has a key of its own", f"{key_place} gives another"
    else:
        return
    raise SettingsError(
        f"destination {destination!r} of {found.path} {what}, and {otherwise}",
        remedy="leave one of them out; nothing was posted",
    )


def _api_key() -> str | None:
    place, path = _key_source()
    return key_of_environment() if path is None or place.startswith("variable") else key_in(path, place=place)


def _key_source() -> tuple[str, Path | None]:
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
