"""What the ledger knows: the runs, and one of them in full."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from uploader.ledger.lock import holder
from uploader.ledger.run_facts import RunFacts, accepted_in, failed_in, has_begun
from uploader.ledger.run_file import ledger_path, remembered, run_ids
from uploader.model.errors import LedgerRefusal, UploaderError
from uploader.model.identity import RunIdentity

_COLUMNS = (
    "run",
    "begun",
    "state",
    "rows",
    "accepted",
    "units",
    "failed",
    "in doubt",
    "input",
    "destination",
    "period",
)


def list_runs(folder: Path) -> str:
    """Give a table of a ledger folder's runs, the latest last."""
    lines = sorted(filter(None, (_line(folder, run_id) for run_id in run_ids(folder))), key=lambda line: line[1])
    if not lines:
        return f"the ledger in {folder} knows no run"
    widths = [max(len(line[at]) for line in (_COLUMNS, *lines)) for at in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (_COLUMNS, *lines)
    )


def show_run(folder: Path, run_id: str) -> str:
    """Give all that a run remembers of itself.

    Raises:
        LedgerRefusal: the folder does not know it.
    """
    path = ledger_path(folder, run_id)
    if at_work := holder(path.with_suffix(".lock")):
        return f"{run_id}: {at_work}"
    facts = remembered(folder, run_id)
    if not facts:
        raise LedgerRefusal(f"run {run_id} is not known to the ledger in {folder}", remedy="see: uploader runs")
    identity = RunIdentity.from_canonical(facts["identity"])
    lines = [
        f"run          {run_id}, {_state(facts)}",
        f"input        {facts.get('path', '')}, {facts.get('rows', 0):,} rows, SHA-256 {identity.content_sha256}",
        f"destination  {identity.base_url}",
        f"begun        {_moment(facts.get('started_milliseconds'))}",
        f"ended        {_moment(facts.get('ended_milliseconds'))}",
        f"ledger       {path}",
    ]
    if "adopted" in facts:
        lines[1] = f"adopted      from {facts['adopted']}, {facts['rows']:,} rows"
    lines[3:3] = [f"column       {name} is {column}" for name, column in identity.mapping.columns]
    lines[3:3] = [f"constant     {name} = {value}" for name, value in identity.mapping.constants]
    if identity.period:
        lines.insert(3, f"period       {identity.period}")
    if facts.get("is_summed_up") is False:
        lines.append("totals       not known: the last command was killed; run it again")
    for reason, (rows, units) in _totals(facts).items():
        lines.append(f"{'accepted' if reason == 'accepted' else 'failed, ' + reason}: {rows:,} rows, {units:,} units")
    lines += [f"file         {path}" for path in facts.get("files", {})]
    return "\n".join(lines)


def _line(folder: Path, run_id: str) -> tuple[str, ...]:
    """Give a run's cells; none when its file is empty, as a refused command may leave it."""
    if at_work := holder(ledger_path(folder, run_id).with_suffix(".lock")):
        return (run_id, "now", at_work, *[""] * (len(_COLUMNS) - 3))
    try:
        facts = remembered(folder, run_id)
    except UploaderError as error:  # one damaged file does not keep the others from being listed
        return (run_id, "", str(error), *[""] * (len(_COLUMNS) - 3))
    if not has_begun(facts):
        return ()
    identity = RunIdentity.from_canonical(facts["identity"]) if "identity" in facts else None
    totals = _totals(facts)
    accepted, units = accepted_in(totals)
    return (
        run_id,
        _moment(facts.get("started_milliseconds")),
        _state(facts),
        f"{facts.get('rows', 0):,}",
        *(
            (f"{accepted:,}", f"{units:,}", f"{failed_in(totals):,}", f"{totals.get('in_doubt', [0])[0]:,}")
            if totals or facts.get("rows") == 0
            else ("?",) * 4
        ),
        str(facts.get("path", "")),
        identity.base_url if identity else "",
        identity.period if identity else "",
    )


def _totals(facts: RunFacts) -> dict[str, list[int]]:
    """Give the totals, none where a killed command has left those of the one before."""
    return facts.get("totals", {}) if facts.get("is_summed_up", True) else {}


def _state(facts: RunFacts) -> str:
    if "adopted" in facts:
        return "adopted"
    return "finished" if facts.get("is_finished") else "unfinished"


def _moment(milliseconds: int | None) -> str:
    if not milliseconds:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
