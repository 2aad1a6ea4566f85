"""How calls leave this machine, settled from the environment as `requests` does, for every call.

`requests` is imported only when there is something to settle: it takes 0.1 s.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

from uploader.model.errors import SettingsError
from uploader.model.settings import PRINTABLE_ASCII, stays_inside

_PROXY_SCHEMES = ("http", "https", "socks", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Route:
    """How calls leave this machine, settled from the environment as `requests` does.

    proxy:     its URL; empty for a direct connection.
    ca_bundle: path of a file (or a folder) with the certificates to trust; empty where nothing is spoken over TLS.
    """

    proxy: str
    ca_bundle: str


def settle_route(base_url: str, *, carries_key: bool) -> Route:
    """Settle proxy (``http_proxy``, ``NO_PROXY`` and so on) and CA bundle (``REQUESTS_CA_BUNDLE``) for a base URL.

    Raises:
        SettingsError: the proxy is no URL; the backend is reached over TLS, and the CA bundle is not there; or the API
            key would cross the network in plain text to a proxy.
    """
    if _is_direct(base_url):
        return Route(proxy="", ca_bundle="")
    import requests.utils  # noqa: PLC0415 -- heavy, see the top

    with requests.Session() as session:
        chosen = session.merge_environment_settings(base_url, {}, None, None, None)
    proxy = requests.utils.select_proxy(base_url, chosen["proxies"]) or ""
    proxy = _checked_proxy(proxy, base_url=base_url) if proxy else ""
    verify = chosen["verify"]
    ca_bundle = verify if isinstance(verify, str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
    if base_url.startswith("https:") and not os.access(ca_bundle, os.R_OK):
        raise SettingsError(
            f"{ca_bundle}: no file or folder of certificates that this user may read",
            remedy="set REQUESTS_CA_BUNDLE to one, or unset it and CURL_CA_BUNDLE",
        )
    if carries_key and base_url.startswith("http:") and proxy and not stays_inside(urlsplit(proxy).hostname or ""):
        raise SettingsError(
            f"the API key would cross the network in plain text to the proxy on the way to {base_url}",
            remedy="name the backend's host in NO_PROXY, or use https",
        )
    return Route(proxy=proxy, ca_bundle=ca_bundle)


def _checked_proxy(proxy: str, *, base_url: str) -> str:
    """Give a proxy's URL as the sender and `requests` alike read it; one that they stumble over may hold a password.

    Raises:
        SettingsError: it is none.
    """
    if "://" not in proxy:
        proxy = f"http://{proxy.removeprefix('//')}"  # "proxy:3128" is allowed in the environment
    try:
        parts = urlsplit(proxy)
        is_one = parts.scheme.lower() in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.query or parts.fragment or not PRINTABLE_ASCII.fullmatch(proxy):
        raise SettingsError(
            f"the proxy that the environment names for {base_url} is no URL such as http://proxy.example.com:3128",
            remedy="correct http_proxy, https_proxy or all_proxy, with special characters of a password as in %40; or "
            "name the backend's host in NO_PROXY",
        )
    return proxy


def _is_direct(base_url: str) -> bool:
    """Tell whether calls can only go straight to the backend, in plain text, so that there is nothing to settle."""
    # The settings of macOS may name proxies too.
    may_name_a_proxy = sys.platform == "darwin" or any(name.lower().endswith("_proxy") for name in os.environ)
    return base_url.startswith("http:") and not may_name_a_proxy
