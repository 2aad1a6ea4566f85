"""TLS to the backend: whom it trusts, what it offers, and what becomes of a row when it fails."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.billing_server import BillingServer
from tests.sender.calls import (
    assert_never_sent,
    ended,
    judged,
    post_one,
    post_to,
    sending,
)
from uploader.model.model import Reason

pytestmark = pytest.mark.usefixtures("plain_environment")


class Agreed(NamedTuple):
    """What a handshake came to."""

    protocol: str | None
    cipher: str | None


def agreed(context: ssl.SSLContext, authority_file: Path) -> Agreed:
    """Have a sender connect to a server of such TLS."""

    def shake_hands(listener: socket.socket) -> Agreed:
        with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
            return Agreed(tls.selected_alpn_protocol(), (tls.cipher() or (None,))[0])

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as executor,
        sending(ca_bundle=authority_file) as sender,
    ):
        server_side = executor.submit(shake_hands, listener)
        sender.start("d1", post_to(f"https://127.0.0.1:{listener.getsockname()[1]}", "d1"))
        ended(sender)
        return server_side.result()


def test_tls_is_checked_against_the_bundle_given(authority: trustme.CA, authority_file: Path) -> None:
    """With the right authority and name, rows are accepted over TLS."""
    with BillingServer(authority=authority) as server, sending(ca_bundle=authority_file) as sender:
        assert post_one(sender, server).reason is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files of such a folder")
def test_a_folder_of_certificates_is_trusted(authority: trustme.CA, authority_file: Path, tmp_path: Path) -> None:
    """``REQUESTS_CA_BUNDLE`` may name a folder, with a file for each authority by the hash of its name."""
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(authority_file)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(authority_file.read_bytes())
    with BillingServer(authority=authority) as server, sending(ca_bundle=tmp_path) as sender:
        assert post_one(sender, server).reason is None


def test_no_http_2_is_offered(authority: trustme.CA, authority_file: Path) -> None:
    """HTTP/2 has its own ways to send a request again; the TLS handshake offers HTTP/1.1 alone (RFC 7301)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert agreed(context, authority_file).protocol == "http/1.1"


@pytest.mark.parametrize("trouble", ["another authority", "another name", "no such file", "rubbish file"])
def test_a_tls_error_stops_the_run_before_anything_is_sent(
    authority: trustme.CA, authority_file: Path, tmp_path: Path, trouble: str
) -> None:
    """A certificate of another authority or name, and a CA bundle that cannot be used, are set-up faults."""
    other_file = tmp_path / "other.pem"
    if trouble == "another authority":
        trustme.CA().cert_pem.write_to_path(str(other_file))
    elif trouble == "rubbish file":
        other_file.write_text("rubbish")
    names = ("other.example",) if trouble == "another name" else ("127.0.0.1",)
    ca_bundle = authority_file if trouble == "another name" else other_file
    with BillingServer(authority=authority, names=names) as server, sending(ca_bundle=ca_bundle) as sender:
        told = post_one(sender, server)
    assert_never_sent(told, stops=True)
    assert "REQUESTS_CA_BUNDLE" in told.verdict.stop


def test_a_middle_authority_may_be_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    """A bundle need not go up to the first authority: whoever names a later one trusts that."""
    middle = authority.create_child_ca()
    bundle = tmp_path / "middle.pem"
    middle.cert_pem.write_to_path(str(bundle))
    with BillingServer(authority=middle) as server, sending(ca_bundle=bundle) as sender:
        assert post_one(sender, server).reason is None


def test_an_old_load_balancer_is_spoken_to(authority: trustme.CA, authority_file: Path) -> None:
    """TLS 1.2 with a cipher that Python leaves out by itself, and OpenSSL does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")
    assert agreed(context, authority_file).cipher == "AES128-GCM-SHA256"


@pytest.mark.parametrize("is_reset", [False, True], ids=["end", "reset"])
def test_a_handshake_that_is_cut_stops_no_run(authority_file: Path, *, is_reset: bool) -> None:
    """A load balancer that has no backend just now ends connections so; that passes."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        BillingServer() as server,
        sending(ca_bundle=authority_file) as sender,
    ):
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        sender.start("d1", post_to(url, "d1"))
        sender.wait(timeout_seconds=0)
        with listener.accept()[0] as connection:
            assert connection.recv(65536)  # else the end would be a reset, too
            if is_reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert_never_sent(judged(server, ended(sender))["d1"])


def test_tls_to_a_port_that_speaks_none(authority: trustme.CA, authority_file: Path) -> None:
    """At the start that is a wrong base URL and stops the run; once answers came over TLS, it passes like a refusal."""
    with BillingServer() as plain, BillingServer(authority=authority) as server:
        https_to_plain = plain.base_url.replace("http:", "https:")
        with sending(ca_bundle=authority_file) as sender:
            assert_never_sent(post_one(sender, plain, "d1", base_url=https_to_plain), stops=True)
            assert post_one(sender, server, "d2").reason is None
            assert_never_sent(post_one(sender, plain, "d3", base_url=https_to_plain))


def test_no_tls_to_a_port_that_speaks_it(authority: trustme.CA) -> None:
    """The request has left in plain text, so it counts as sent."""
    with BillingServer(authority=authority) as server, sending() as sender:
        told = post_one(sender, server, base_url=server.base_url.replace("https:", "http:"))
    assert told.reason is Reason.IN_DOUBT
    assert server.received == []
