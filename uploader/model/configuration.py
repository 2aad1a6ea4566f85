"""``uploader.toml``: where it is looked for, and what may stand in it; and the user's own folders.

The keys are the names of the options that can be set by a variable too, so that nothing that can bill again may stand
here. Of the API key only the file that holds it is named: a settings file is copied, shown and committed, a key must
not be.
"""

from __future__ import annotations

import difflib
import enum
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uploader.model.errors import SettingsError

_FILE_NAME = "uploader.toml"
_KEY_FILE = "api_key_file"


class Kind(enum.Enum):
    """What a key's value must be, in an operator's words."""

    TEXT = "text in quotes"
    PATH = "a path in quotes"
    WHOLE_NUMBER = "a whole number"
    NUMBER = "a number"
    SCALAR = "a number, or text in quotes"
    TABLE = "a table of names and values"


_TYPES_BY_KIND: dict[Kind, tuple[type, ...]] = {
    Kind.TEXT: (str,),
    Kind.PATH: (str,),
    Kind.WHOLE_NUMBER: (int,),
    Kind.NUMBER: (int, float),
    Kind.SCALAR: (int, float, str),
    Kind.TABLE: (dict,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings of a file, checked.

    path:                  None when there is no file; it holds nothing then.
    values:                by key, outside of every destination; paths are relative to the file's folder.
    values_by_destination: the tables ``[destination.NAME]``.
    default_destination:   the one that is meant when none is named; empty for none.
    """

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    values_by_destination: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default_destination: str = ""

    def chosen(self, destination: str) -> dict[str, Any]:
        """Give the values for a destination, which go before those outside of every one; empty for no destination.

        Raises:
            SettingsError: the file has no such destination.
        """
        return {**self.values, **self._of(destination)}

    def place(self, key: str, destination: str) -> str:
        """Say where a value stands: the file and the whole key; ``destination`` is the default one."""
        if key == "destination":
            return f"{self.path}: default_destination"
        prefix = f"destination.{destination}." if key in self._of(destination) else ""
        return f"{self.path}: {prefix}{key}"

    def _of(self, destination: str) -> Mapping[str, Any]:
        if not destination:
            return {}
        if destination not in self.values_by_destination:
            where = f"{self.path} does not describe it" if self.path else f"there is no {_FILE_NAME} that describes it"
            raise SettingsError(
                f"destination {destination!r}: {where}",
                remedy=_nearest(destination, list(self.values_by_destination))
                or f"describe it in {self.path or _FILE_NAME}, under [destination.{destination}]",
            )
        return self.values_by_destination[destination]


def find_configuration(named: Path | None, kind_by_key: Mapping[str, Kind]) -> Configuration:
    """Read the file that was named, else ``./uploader.toml``, else the one in the user's configuration folder.

    Raises:
        SettingsError: the named one is not there, or what was found cannot be used.
    """
    if named is not None:
        return _read(named, kind_by_key)
    folder = _own_folder("config")
    for path in (Path(_FILE_NAME), *([folder / _FILE_NAME] if folder else [])):
        if _is_there(path):
            return _read(path, kind_by_key)
    return Configuration()


def _is_there(path: Path) -> bool:
    """Tell whether there is a file of that name, of whatever kind.

    Raises:
        SettingsError: its folder may not be looked into, so that nobody knows what it says.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror}",
            remedy="run the command in a folder that this user may enter, with its own HOME and XDG_CONFIG_HOME; or "
            "name a settings file with --config",
        ) from error
    return True


def default_ledger_folder() -> Path:
    """Give the folder of the ledger where none is named: ``UPLOADER_LEDGER``, else one in the user's state folder.

    For programs, too: what they post and what the command line posts must be known to each other.

    Raises:
        SettingsError: the user has no such folder.
    """
    if named := os.environ.get("UPLOADER_LEDGER"):
        return Path(named)
    folder = _own_folder("state")
    if folder is None:
        raise SettingsError(
            "no ledger is named, and this user has no home folder where it could be",
            remedy="set HOME, or name the ledger's folder with --ledger or UPLOADER_LEDGER, the same one each time",
        )
    return folder / "ledger"


def _own_folder(what: Literal["config", "state"]) -> Path | None:
    """Give the user's folder for this program; None for a user without a home."""
    places = (os.path.expanduser("~"), os.environ.get(f"XDG_{what.upper()}_HOME", ""))  # noqa: PTH111 -- raises nothing
    if not any(map(os.path.isabs, places)):  # some versions of platformdirs would take the working folder
        return None
    from platformdirs import PlatformDirs  # noqa: PLC0415 -- `uploader --help` must stay fast

    folders = PlatformDirs("uploader")
    try:
        return folders.user_config_path if what == "config" else folders.user_state_path
    except (RuntimeError, KeyError):  # see Path.home()
        return None


def _read(path: Path, kind_by_key: Mapping[str, Kind]) -> Configuration:
    document = _parsed(path)
    kinds = {**kind_by_key, _KEY_FILE: Kind.PATH}
    destination = document.pop("destination", {})
    default = document.pop("default_destination", "")
    if not isinstance(default, str):
        raise _wrong(path, "default_destination", default, Kind.TEXT)
    if not isinstance(destination, dict):
        raise SettingsError(
            f"{path}: destination: not a table",
            remedy='name the usual one with default_destination = "NAME", and describe each under [destination.NAME]',
        )
    found = Configuration(
        path=path,
        values=_checked(path, document, kinds, prefix=""),
        values_by_destination={
            name: _checked(path, table, kinds, prefix=f"destination.{name}.") for name, table in destination.items()
        },
        default_destination=default,
    )
    found.chosen(default)
    return found


def _parsed(path: Path) -> dict[str, Any]:
    # Not at the top: it takes longer than the rest of `uploader --help`.
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 -- see above
    else:
        import tomli as tomllib  # noqa: PLC0415 -- see above

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror}", remedy="give --config a readable file, or leave it out"
        ) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise SettingsError(f"{path}: {error}", remedy="correct it; it must be TOML (toml.io)") from error


def _checked(path: Path, table: object, kinds: Mapping[str, Kind], *, prefix: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise _wrong(path, prefix.rstrip("."), table, Kind.TABLE)
    return {key: _checked_value(path, f"{prefix}{key}", value, kinds.get(key), kinds) for key, value in table.items()}


def _checked_value(path: Path, key: str, value: object, kind: Kind | None, kinds: Mapping[str, Kind]) -> Any:
    if kind is None:
        raise _unknown(path, key, kinds)
    if isinstance(value, bool) or not isinstance(value, _TYPES_BY_KIND[kind]):
        raise _wrong(path, key, value, kind)
    if kind is Kind.PATH:
        if not value:  # it would be the folder that the file is in
            raise _wrong(path, key, value, kind)
        try:
            return str(path.parent / Path(str(value)).expanduser())
        except RuntimeError:  # of that user no folder is known
            raise _wrong(path, key, value, kind) from None
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(entry, str):
                raise _wrong(path, f"{key}.{name}", entry, Kind.TEXT)
        return [f"{name}={entry}" for name, entry in value.items()]
    return value


def _unknown(path: Path, key: str, kinds: Mapping[str, Kind]) -> SettingsError:
    name = key.rpartition(".")[2]
    if name == "api_key":
        return SettingsError(
            f"{path}: {key}: a key has no place in this file, which is shown and copied",
            remedy=f"put the key alone into a file of its own, mode 0600, and name that one here: {_KEY_FILE}",
        )
    known = [*kinds, *(() if "." in key else ("default_destination", "destination"))]
    return SettingsError(
        f"{path}: {key}: no such setting", remedy=_nearest(name, known) or f"there are {', '.join(sorted(known))}"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _wrong(path: Path, key: str, value: object, kind: Kind) -> SettingsError:
    return SettingsError(f"{path}: {key}: {value!r} is not {kind.value}", remedy=f"write {kind.value} for {key}")
