"""TLS over a connection that does not block. The only file of the sender that knows OpenSSL."""

from __future__ import annotations

import selectors
import ssl
from pathlib import Path
from typing import Protocol

CertificateError = ssl.SSLCertVerificationError
Context = ssl.SSLContext
NOT_YET = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a stream raises that can go on only later."""
_RECEIVE_BYTES = 64 * 1024
_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_SPEAKS_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})


class Stream(Protocol):
    """A connection: a socket, or TLS over one. None of its methods waits; they raise one of ``NOT_YET``."""

    def send(self, data: bytes, /) -> int:
        """Send some of the data; tell how many bytes. To be called again with the same data after ``NOT_YET``."""

    def recv(self, most: int, /) -> bytes:
        """Receive some bytes; none when the other side has ended the connection."""

    def fileno(self) -> int:
        """Give the socket's descriptor."""

    def close(self) -> None:
        """Close the socket."""


def wanted_event(error: Exception) -> int:
    """Tell which event of ``selectors`` TLS waits for, by one of ``NOT_YET``; 0 when it is not TLS that waits."""
    if isinstance(error, ssl.SSLWantWriteError):
        return selectors.EVENT_WRITE
    return selectors.EVENT_READ if isinstance(error, ssl.SSLWantReadError) else 0


def is_tls(stream: Stream) -> bool:
    """Tell whether bytes that came may be waiting in the stream itself, not in its socket."""
    return isinstance(stream, ssl.SSLSocket | NestedTls)


def holds_some(stream: Stream) -> bool:
    """Tell whether there are such bytes."""
    return isinstance(stream, ssl.SSLSocket | NestedTls) and stream.pending() > 0


def is_lasting(error: Exception) -> bool:
    """Tell whether a handshake would fail in the same way again; not so when the connection ended in it."""
    return isinstance(error, ssl.SSLError | ValueError) and not isinstance(error, _ENDS)


def in_words(error: Exception) -> str:
    """Say what went wrong, without the numbers and names that the system and OpenSSL have for it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    if isinstance(error, _ENDS):
        return "the connection was closed"
    if isinstance(error, ssl.SSLError):
        if error.reason in _SPEAKS_NO_TLS:
            return "the other side does not speak TLS at that port"
        return str(error.reason or error.strerror or error).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def context_for(ca_bundle: str) -> Context:
    """Trust the authorities of a file, or of a folder with a file for each by its name's hash, and no other.

    TLS 1.2 or newer; the host's name is checked; HTTP/1.1 alone is offered (RFC 7301).

    Raises:
        OSError: it is not there, or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies, and trusts nothing by itself
    if Path(ca_bundle).is_dir():
        context.load_verify_locations(capath=ca_bundle)
    else:
        context.load_verify_locations(cafile=ca_bundle)
    # Whoever names the backend's own certificate, or that of a middle authority, trusts that one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # What OpenSSL itself takes, as curl does: Python would refuse old load balancers.
    context.set_ciphers("DEFAULT")
    context.set_alpn_protocols(["http/1.1"])
    # In TLS 1.2 the other side could have what is sent wait for what is to be read.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def wrapped(stream: Stream, context: Context, *, host: str) -> ssl.SSLSocket | NestedTls:
    """Put TLS over a connection; the handshake is still to come."""
    if isinstance(stream, ssl.SSLSocket):
        return NestedTls(stream, context, host=host)
    return context.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)  # type: ignore[arg-type]


class NestedTls:
    """TLS within TLS, as to a backend behind a proxy that is itself reached over TLS; the ssl module has it not."""

    def __init__(self, outer: ssl.SSLSocket, context: Context, *, host: str) -> None:
        self._outer = outer
        self._came = ssl.MemoryBIO()
        self._goes = ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._came, self._goes, server_hostname=host)
        self._unsent = b""
        self._taken_bytes = 0

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        while not self._has_shaken_hands():
            self._flush()
            self._fetch()
        self._flush()

    def send(self, data: bytes) -> int:
        """See ``Stream.send``."""
        if not self._taken_bytes:
            self._taken_bytes = self._inner.write(data)
        self._flush()  # if that must wait, the same data is handed in again, as to OpenSSL itself
        taken_bytes, self._taken_bytes = self._taken_bytes, 0
        return taken_bytes

    def recv(self, most: int) -> bytes:
        """See ``Stream.recv``."""
        while (data := self._decrypted(most)) is None:
            self._fetch()
        return data

    def pending(self) -> int:
        """Count the bytes that came and were not received yet, encrypted or not."""
        return self._inner.pending() + self._came.pending + self._outer.pending()

    def fileno(self) -> int:
        """See ``Stream.fileno``."""
        return self._outer.fileno()

    def close(self) -> None:
        """See ``Stream.close``."""
        self._outer.close()

    def _has_shaken_hands(self) -> bool:
        try:
            self._inner.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _decrypted(self, most: int) -> bytes | None:
        try:
            return self._inner.read(most)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:  # an end that was announced reads as no bytes
            return b""

    def _fetch(self) -> None:
        data = self._outer.recv(_RECEIVE_BYTES)
        if data:
            self._came.write(data)
        else:
            self._came.write_eof()

    def _flush(self) -> None:
        self._unsent += self._goes.read()
        while self._unsent:
            self._unsent = self._unsent[self._outer.send(self._unsent) :]
