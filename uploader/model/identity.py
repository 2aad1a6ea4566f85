"""What makes two uploads the same run, and a row's event the same event."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

from uploader.model.mapping import AS_IT_STANDS, ColumnMap

RUN_ID = re.compile(r"r[0-9a-f]{15}")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_NAMESPACE = uuid.UUID("6f1c9d1e-52f1-5d0b-9c39-3a0f7f1c1f5e")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """The destination, the period and the content; two uploads that agree in all are one run.

    base_url:       normalised.
    period:         the operator's label for a billing period; empty without one.
    content_sha256: hex digest of the usage log's decompressed content.
    again:          1 of the run that ``--again`` began, to bill all of it once more.
    adopted_run_id: of a run that is known from a file of its results alone, so that its content is not known, and its
                    period by a person's word; empty for any other.
    mapping:        how the log's columns are seen.
    """

    base_url: str
    period: str
    content_sha256: str
    again: int = 0
    adopted_run_id: str = ""
    mapping: ColumnMap = AS_IT_STANDS

    @property
    def run_id(self) -> str:
        """The ledger file's name and ``upload_run``; it begins with a letter: no spreadsheet takes it for a number."""
        return self.adopted_run_id or "r" + hashlib.sha256(self.canonical.encode()).hexdigest()[:15]

    @property
    def canonical(self) -> str:
        """The identity as JSON, the one text that ids are made from."""
        parts: list[Any] = [self.base_url, self.period, self.content_sha256]
        if self.again or self.adopted_run_id:
            parts.append(self.again)
        if self.adopted_run_id:
            parts.append(self.adopted_run_id)
        if self.mapping:
            parts.append(self.mapping.to_json())
        return json.dumps(parts)

    @classmethod
    def from_canonical(cls, text: str) -> RunIdentity:
        """Read back what ``canonical`` gave."""
        base_url, period, content_sha256, *others = json.loads(text)
        mapping = ColumnMap.from_json(others.pop()) if others and isinstance(others[-1], dict) else AS_IT_STANDS
        return cls(
            base_url=base_url,
            period=period,
            content_sha256=content_sha256,
            again=others[0] if others else 0,
            adopted_run_id=others[1] if len(others) > 1 else "",
            mapping=mapping,
        )


class EventIds:
    """Gives each row of a run its event id, the same on every attempt and replay: UUIDv5 (RFC 9562 section 5.5)."""

    def __init__(self, identity: RunIdentity) -> None:
        self.namespace = uuid.uuid5(_NAMESPACE, identity.canonical)
        self._prefix = _prefix(self.namespace)

    def of(self, row_number: int) -> str:
        """Spell ``uuid.uuid5(namespace, str(row_number))``, several times faster."""
        return _uuid5(self._prefix, str(row_number))


class OwnEventIds:
    """Gives each event the id that its log's own id makes (``--event-id``): the same in whatever file it stands."""

    def __init__(self, base_url: str) -> None:
        self._prefix = _prefix(uuid.uuid5(_NAMESPACE, json.dumps(["the log's own event ids", base_url])))

    def of(self, own_id: str) -> str:
        """Give the UUIDv5 of an own id at this destination."""
        return _uuid5(self._prefix, own_id)


def _prefix(namespace: uuid.UUID) -> Any:
    return hashlib.sha1(namespace.bytes, usedforsecurity=False)


def _uuid5(prefix: Any, name: str) -> str:
    digest = prefix.copy()
    digest.update(name.encode("utf-8", "surrogateescape"))
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"
