"""Everything that ends a command, grouped by what it means for the rows.

    UploaderError
      RefusedError            nothing was posted: mend it, run the same command again (exit 2)
        SettingsError         an option, a variable or a combination of them
        InputError            the usage log cannot be taken as it is
        SchemaError           the schema file is not a schema for usage rows
        LedgerRefusal         what earlier runs recorded forbids this one
      StoppedError            the run ended early, what is known is safe: run the same command again (exit 3)
        InputChangedError     the usage log is no longer what the first pass read
        LedgerFault           the ledger or the results cannot be written
      ImbalanceError          a fault of ours: the totals do not add up (exit 4)

What happens to a single row is never an exception; it is an ``Outcome``.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """What a command's exit code means; a public contract. One that a signal ended has 128 and the signal's number."""

    ACCEPTED = 0
    SOME_FAILED = 1
    NOTHING_POSTED = 2
    STOPPED = 3
    FAULT = 4

    __str__ = int.__repr__  # as from Python 3.11 on


class UploaderError(Exception):
    """A command ends; the text says what happened and where, ``remedy`` what to do next."""

    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy

    def __str__(self) -> str:
        what = super().__str__()
        return f"{what} -- {self.remedy}" if self.remedy else what


class RefusedError(UploaderError):
    """Nothing was posted."""

    exit_code = ExitCode.NOTHING_POSTED


class SettingsError(RefusedError):
    """An option or variable, or a combination of them, cannot be used."""


class InputError(RefusedError):
    """The usage log cannot be read as it is."""


class SchemaError(RefusedError):
    """The schema file cannot be used to check usage rows."""


class LedgerRefusal(RefusedError):  # noqa: N818 -- it is a refusal, not a fault
    """What the ledger knows of earlier runs forbids this one."""


class StoppedError(UploaderError):
    """The run ended early; every row's state is known and the same command continues."""


class InputChangedError(StoppedError):
    """The usage log changed under the run."""


class LedgerFault(StoppedError):  # noqa: N818 -- the operating system's fault, passed on
    """The ledger or the results could not be written."""


class ImbalanceError(UploaderError):
    """Rows or units in are not rows or units out: a fault of this program."""

    exit_code = ExitCode.FAULT
