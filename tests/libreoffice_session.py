"""What a person does in LibreOffice Calc, done by its own Python (``python3-uno``): run as a program, not imported.

Its one argument is JSON: ``open`` (a path), ``profile`` (a folder) and ``steps``, each a name and its arguments, as in
``["type", "B2", "0077"]``; ``Session`` has a method for each. It prints, as JSON, what those steps gave that gave any.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uno  # type: ignore[import-not-found] # Debian's, for Debian's Python
from com.sun.star.beans import PropertyValue  # type: ignore[import-not-found] # UNO makes these as they are named
from com.sun.star.connection import NoConnectException  # type: ignore[import-not-found] # likewise

_SAVE_AS_CSV = "44,34,76,1,,0,false,true,false"  # commas, quotes, UTF-8, from line 1, cells as they are shown
_FILTER_BY_SUFFIX = {".xlsx": "Calc MS Excel 2007 XML", ".csv": "Text - txt - csv (StarCalc)"}


def _properties(**values: Any) -> tuple[Any, ...]:
    return tuple(PropertyValue(name, 0, value, 0) for name, value in values.items())


class Session:
    """One open document, as its window shows it."""

    def __init__(self, context: Any, path: str) -> None:
        create = context.ServiceManager.createInstanceWithContext
        self.desktop = create("com.sun.star.frame.Desktop", context)
        self._dispatcher = create("com.sun.star.frame.DispatchHelper", context)
        self._document = self.desktop.loadComponentFromURL(Path(path).as_uri(), "_blank", 0, ())
        self._frame = self._document.CurrentController.Frame
        self._sheet = self._document.CurrentController.ActiveSheet

    def do(self, name: str, *arguments: Any) -> Any:
        """Take a step; give what it shows."""
        return getattr(self, f"_{name}")(*arguments)

    def _dispatch(self, command: str, **arguments: Any) -> None:
        self._dispatcher.executeDispatch(self._frame, f".uno:{command}", "", 0, _properties(**arguments))

    def _type(self, cell: str, text: str) -> None:
        self._dispatch("GoToCell", ToPoint=cell)
        self._dispatch("EnterString", StringName=text)

    def _read(self, cell: str) -> str:
        return str(self._sheet.getCellRangeByName(cell).String)

    def _has_invalid(self) -> bool:
        """Tell whether any cell holds what its list does not allow."""
        return bool(self._sheet.showInvalid())

    def _sort(self, cells: str, column: int) -> None:
        field = uno.createUnoStruct("com.sun.star.table.TableSortField")
        field.Field, field.IsAscending = column, False
        fields = uno.Any("[]com.sun.star.table.TableSortField", (field,))
        uno.invoke(
            self._sheet.getCellRangeByName(cells), "sort", (_properties(SortFields=fields, ContainsHeader=True),)
        )

    def _delete_row(self, number: int) -> None:
        self._sheet.Rows.removeByIndex(number - 1, 1)

    def _hide_rows_but(self, column: int, text: str) -> None:
        cursor = self._sheet.createCursor()
        cursor.gotoEndOfUsedArea(False)  # noqa: FBT003 -- UNO takes arguments by place only
        for line in range(1, cursor.RangeAddress.EndRow + 1):
            self._sheet.Rows.getByIndex(line).IsVisible = self._sheet.getCellByPosition(column, line).String == text

    def _add_sheet(self, name: str) -> None:
        self._document.Sheets.insertNewByName(name, 0)

    def _delete_sheet(self, name: str) -> None:
        self._document.Sheets.removeByName(name)

    def _save(self, path: str) -> None:
        suffix = Path(path).suffix
        options = {"FilterOptions": _SAVE_AS_CSV} if suffix == ".csv" else {}
        self._document.storeToURL(Path(path).as_uri(), _properties(FilterName=_FILTER_BY_SUFFIX[suffix], **options))


def _connected(office: subprocess.Popen[bytes], address: str) -> Any:
    local = uno.getComponentContext()
    resolver = local.ServiceManager.createInstanceWithContext("com.sun.star.bridge.UnoUrlResolver", local)
    context = None
    while context is None:
        with contextlib.suppress(NoConnectException):
            context = resolver.resolve(f"uno:{address};urp;StarOffice.ComponentContext")
        if office.poll() is not None:
            raise ChildProcessError(f"soffice ended with {office.returncode}")
        time.sleep(0.05)  # it says in no other way that it listens
    return context


def main() -> None:
    """Do what the argument says."""
    work = json.loads(sys.argv[1])
    address = f"pipe,name=uploader-{os.getpid()}"
    command = ["soffice", "--headless", "--norestore", "--nologo", f"--accept={address};urp;"]
    with subprocess.Popen(
        [*command, f"-env:UserInstallation={Path(work['profile']).as_uri()}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as office:
        try:
            session = Session(_connected(office, address), work["open"])
            shown = [session.do(*step) for step in work["steps"]]
            session.desktop.terminate()
        except BaseException:
            office.kill()
            raise
    sys.stdout.write(json.dumps([one for one in shown if one is not None]))


if __name__ == "__main__":
    main()
