"""What a command was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uploader.model.errors import SettingsError
from uploader.model.mapping import AS_IT_STANDS, ColumnMap
from uploader.model.settings import FailureBudget, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a command was asked to do.

    settings:      how to reach the backend.
    schema_path:   None for the schema of this package.
    delimiter:     of CSV files; None for what their name says.
    results:       name of the one results file; None to derive it from the usage log's.
    results_dir:   folder for derived names; None for the usage log's own.
    ledger_folder: where every run's ledger file is.
    period:        the operator's label for a billing period; empty without one.
    max_failed:    the failure budget of each file; None for none.
    event_id:      the column of the log's own event ids; None to go by content and row number.
    mapping:       how the log's columns are seen; a replay sees them as its upload did.
    again:         bill all of a content again that was uploaded before.
    allow_overlap: post rows though they look like posted ones, or as if their cells were moved.
    """

    settings: Settings
    ledger_folder: Path
    schema_path: Path | None = None
    delimiter: str | None = None
    results: Path | None = None
    results_dir: Path | None = None
    period: str = ""
    max_failed: FailureBudget | None = None
    event_id: str | None = None
    mapping: ColumnMap = AS_IT_STANDS
    again: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot go together.

        Raises:
            SettingsError: ``again`` gives events new ids, and ``event_id`` takes the log's own; the period is no text.
        """
        if not isinstance(self.period, str):  # as a program may give; it would be another one than its text
            raise SettingsError(f"--period {self.period!r}: not text", remedy="give it as text; empty for none")
        if self.again and self.event_id is not None:
            raise SettingsError(
                "--again bills events again under new ids, and --event-id takes the log's own",
                remedy="to bill an event again, give it another id of its own in the usage log",
            )
