"""One call at a time, for programs that report usage as it happens.

`requests` is imported when a client is made: it takes 0.1 s. It follows no redirect (a POST's 302 would be repeated as
a GET and its 200 taken for an acceptance) and reads no .netrc (which would replace the Authorization header).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uploader.model import api
from uploader.model.model import UsageEvent
from uploader.model.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_TIMEOUT_SECONDS,
    Settings,
    key_of_environment,
)
from uploader.model.wording import shown
from uploader.sender.route import Route, settle_route

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)


def _session(base_url: str, route: Route) -> requests.Session:
    import requests  # noqa: PLC0415 -- heavy, see the top

    session = requests.Session()
    session.trust_env = False
    session.verify = route.ca_bundle or True
    if route.proxy:
        session.proxies = {urlsplit(base_url).scheme: route.proxy}
    return session


class MeterClient:
    """Post usage events one at a time over one kept connection; each tenant's customer is asked for once.

    Not for files (that is ``uploader upload``) and not for several threads at once. A call that returns None may have
    been recorded all the same, when the network failed after it was sent: the log says which. ``timeout_seconds`` is
    for each wait on the network, as in `requests`.
    """

    def __init__(
        self,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._settings = Settings(base_url=base_url, api_key=api_key, timeout_seconds=timeout_seconds)
        self._customer_id_by_tenant: dict[str, str] = {}
        route = settle_route(self._settings.base_url, carries_key=api_key is not None)
        self._session = _session(self._settings.base_url, route)

    def __enter__(self) -> MeterClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def customer_id(self, tenant_id: str) -> str | None:
        """Look a tenant's customer up, once; None when there is none or the look-up failed (asked again next time).

        Raises:
            ValueError: a tenant id that cannot be sent. Nothing was sent.
        """
        known = self._customer_id_by_tenant.get(tenant_id)
        if known is not None:
            return known
        if problem := api.tenant_problem(tenant_id):
            raise ValueError(f"tenant_id: {problem}")
        answer = self._answer("GET", api.look_up_request(self._settings, tenant_id), list, dict)
        found = api.customer_id_of(answer)
        if found is None:
            log.warning("no customer found for tenant %s", shown(tenant_id))
            return None
        self._customer_id_by_tenant[tenant_id] = found
        return found

    def post_meter_usage(
        self, tenant_id: str, device_id: str, meter_id: str, total_usage: int
    ) -> dict[str, Any] | None:
        """Record one usage event.

        Returns:
            The backend's JSON; None for a failed look-up, a network error or a status other than 2xx.

        Raises:
            ValueError: a value that cannot be sent (say, a tenant id with a line break). Nothing was sent.
        """
        event = UsageEvent(tenant_id=tenant_id, device_id=device_id, meter_id=meter_id, total_usage=total_usage)
        if problems := api.wire_problems(event):
            raise ValueError("; ".join(f"{column}: {words}" for column, words in problems.items()))
        customer_id = self.customer_id(tenant_id)
        if customer_id is None:
            return None
        request = api.post_request(self._settings, event, customer_id=customer_id, event_id=None)
        answer: dict[str, Any] | None = self._answer("POST", request, dict)
        return answer

    def _answer(self, method: str, request: api.Request, *shapes: type) -> Any:
        import requests  # noqa: PLC0415 -- heavy, see the top

        headers = dict(header.split(": ", 1) for header in request.headers)
        try:
            response = self._session.request(
                method,
                request.url,
                data=request.body,
                headers=headers,
                timeout=self._settings.timeout_seconds,
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = self._body(response)
        except requests.RequestException as error:
            log.warning("%s %s failed: %s", method, request.url, error)
            return None
        if not 200 <= response.status_code <= 299:
            log.warning("%s %s answered HTTP %d", method, request.url, response.status_code)
            return None
        answer = api.json_of(body)
        if not isinstance(answer, shapes):
            log.warning("%s %s answered HTTP %d without the JSON due", method, request.url, response.status_code)
            return None
        return answer

    @staticmethod
    def _body(response: requests.Response) -> bytes:
        """Read an answer of a bounded size: `requests` would read on for ever."""
        import requests  # noqa: PLC0415 -- heavy, see the top

        body = b""
        for chunk in response.iter_content(8192):
            body += chunk
            if len(body) > api.MOST_ANSWER_BYTES:
                raise requests.exceptions.ContentDecodingError("the answer is too large")
        return body


def post_meter_usage(tenant_id: str, device_id: str, meter_id: str, total_usage: int) -> dict[str, Any] | None:
    """Look the tenant's customer up and record one usage event, as meter-lib's function of the same name does.

    The backend is the one of ``UPLOADER_BASE_URL``, with the key of ``UPLOADER_API_KEY_FILE`` or ``UPLOADER_API_KEY``
    if set; 10 seconds for each wait on the network. Synchronous. See ``MeterClient.post_meter_usage`` for what is
    returned and raised.
    """
    base_url = os.environ.get("UPLOADER_BASE_URL") or DEFAULT_BASE_URL
    with MeterClient(base_url=base_url, api_key=key_of_environment()) as client:
        return client.post_meter_usage(tenant_id, device_id, meter_id, total_usage)
