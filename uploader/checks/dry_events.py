"""Events that the log itself names, in a dry run: the claims are looked at, and new ones made in a scratch folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from uploader.ledger.claims import Claim, Claims, claims_path
from uploader.ledger.glance import Glance
from uploader.ledger.run_file import known_run
from uploader.uploads.own_events import OwnEvents


class DryEvents(OwnEvents):
    """The claims that one run would make.

    here:     those that this command would have made by now.
    standing: those that uploads made; None without any.
    """

    def __init__(self, ledger_folder: Path, run: Glance, *, here: Claims, standing: Claims | None) -> None:
        super().__init__(ledger_folder, run, here)
        self._standing = standing

    def _stake(self, wanted: Sequence[Claim]) -> list[Claim]:
        """Claim what nobody has in the scratch folder; what an earlier file claimed there would be accepted by now."""
        standing = {} if self._standing is None else self._standing.standing(wanted)
        here = self._claims.standing(wanted)
        to_claim = [
            claim
            for claim in wanted
            if claim.id in here or claim.id not in standing or standing[claim.id].is_by_the_same_row(claim)
        ]
        claimed = dict(zip([claim.id for claim in to_claim], self._claims.stake(to_claim), strict=True))
        return [
            replace(found, is_accepted=found.run_id != self._run_id) if found is not None else standing[claim.id]
            for claim in wanted
            for found in [claimed.get(claim.id)]
        ]

    def _take_over(self, _standing: Claim, claim: Claim) -> bool:
        [found] = self._claims.stake([claim])
        return found.is_by_the_same_row(claim)

    def _owner(self, run_id: str) -> AbstractContextManager[Glance]:
        return contextlib.nullcontext(Glance.at(self._folder, known_run(self._folder, run_id)))


@contextlib.contextmanager
def dry_events(ledger_folder: Path, run: Glance, *, scratch: Path | None) -> Iterator[DryEvents | None]:
    """Give the claims that a run would make; None where events have no ids of their own, and so no scratch folder.

    Raises:
        LedgerRefusal: the claims that stand cannot be used.
    """
    if scratch is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(contextlib.closing(Claims(scratch)))
        standing = None
        if claims_path(ledger_folder).exists():
            standing = stack.enter_context(contextlib.closing(Claims(ledger_folder)))
        yield DryEvents(ledger_folder, run, here=here, standing=standing)
