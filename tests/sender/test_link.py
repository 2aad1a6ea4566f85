"""One connection: what of a request has left, known to the byte."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tests.billing_answers import chunked, http_1_0, interim, reply, unframed
from uploader.sender.answer_body import Answer
from uploader.sender.link import Link
from uploader.sender.origin import Origin
from uploader.sender.tls import context_for, wrapped

ORIGIN = Origin("http", "127.0.0.1", 80)
EVT = {"id": "evt_1"}
ANSWERS = {
    "Content-Length": reply(201, EVT),
    "chunked": chunked(201, EVT, trailers={"X-Sum": "1"}),
    "interim": interim(100, interim(103, reply(201, EVT))),
    "HTTP/1.0": http_1_0(reply(201, EVT)),
    "empty": reply(204),
    "until the end": unframed(201, EVT),
    "two at once": reply(201, EVT),
}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two ends of a connection; ours does not block."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


def test_a_connection_that_takes_no_byte_has_sent_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """The kernel refuses a request over a connection that the other side has reset: it has certainly not left."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    theirs.close()
    with pytest.raises(OSError, match="pipe"):
        link.begin("d1", b"POST / HTTP/1.1\r\n\r\n")
    assert not link.has_sent
    assert not link.may_go_on


def test_a_request_of_which_a_part_was_taken_may_have_left(ends: tuple[socket.socket, socket.socket]) -> None:
    """Some bytes are with the kernel when the connection is lost: what became of them nobody knows."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    link.begin("d1", b"x" * 10_000_000)
    assert link.wants_to_write
    theirs.close()
    link.send()
    assert link.has_sent
    assert not link.wants_to_write
    with contextlib.suppress(ConnectionResetError):
        assert link.receive()
    assert link.answer.head is None


def test_an_answer_before_the_end_of_the_request_is_the_answer(ends: tuple[socket.socket, socket.socket]) -> None:
    """A backend may refuse a request that it has not read to its end; the connection is not used again."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    link.begin("d1", b"x" * 10_000_000)
    theirs.sendall(reply(413).data)
    assert link.receive()
    assert link.answer.head is not None
    assert link.answer.head.status == 413
    assert not link.may_go_on


@pytest.mark.parametrize(
    ("data", "goes_on"),
    [
        (b"HTTP/1.1 201 X\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 204 X\r\n\r\n", True),
        (b"HTTP/1.1 201 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 201 X\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n{}", False),
        (b"HTTP/1.1 201 X\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\n{}", False),
        (b"HTTP/1.1 201 X\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\n{}", False),
        (b"HTTP/1.0 201 X\r\nContent-Length: 2\r\n\r\n{}", False),
        (b"HTTP/1.0 201 X\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 201 X\r\nContent-Length: 2\r\n\r\n{}x", False),
        (b"HTTP/1.1 201 X\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", False),
    ],
)
def test_a_connection_goes_on_when_both_sides_know_where_the_answer_ends(
    ends: tuple[socket.socket, socket.socket], data: bytes, *, goes_on: bool
) -> None:
    """Else what comes next might be taken for the answer to another row (RFC 9112 sections 6.3 and 9.3)."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    link.begin("d1", b"POST / HTTP/1.1\r\n\r\n")
    theirs.sendall(data)
    assert link.receive()
    assert link.answer.is_whole
    assert link.may_go_on is goes_on


def test_a_connection_whose_end_was_the_answers_does_not_go_on(ends: tuple[socket.socket, socket.socket]) -> None:
    """An answer that says nothing of its length lasts until the connection ends (RFC 9112 section 6.3)."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    link.begin("d1", b"POST / HTTP/1.1\r\n\r\n")
    assert theirs.recv(1000)
    theirs.sendall(unframed(201, EVT).data)
    theirs.close()
    while not link.receive():
        pass
    assert link.answer.is_whole
    assert not link.may_go_on


def test_what_tls_has_taken_may_have_left(
    authority: trustme.CA, authority_file: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Over TLS an error tells nothing of how many bytes went before it."""
    ours, theirs = ends
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ours.settimeout(None)
    stream = wrapped(ours, context_for(str(authority_file)), host="127.0.0.1")
    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(context.wrap_socket, theirs, server_side=True)
        stream.do_handshake()
        link: Link[str] = Link(stream, ORIGIN)
        other.result().close()
    link.begin("d1", b"POST / HTTP/1.1\r\n\r\n")
    assert link.has_sent
    stream.close()


def test_an_idle_connection_hears_its_end_and_what_nobody_asked_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """With nothing to be read it stays idle; whatever comes, it is not to be used again."""
    ours, theirs = ends
    link: Link[str] = Link(ours, ORIGIN)
    assert link.is_still_idle()
    theirs.sendall(b"HTTP/1.1 408 Too slow\r\n\r\n")
    assert not link.is_still_idle()
    theirs.close()
    assert not link.is_still_idle()


def test_long_heads_are_read_as_fast_as_short_ones() -> None:
    """Blanks, folds and drips of which a head may have thousands: nothing else is seen to while it is read.

    This would take minutes, where each of them is looked at again for each other.
    """
    blank = b"HTTP/1.1 102 Wait\r\nX: " + b" " * 60_000 + b"y\r\n\r\n"
    folded = b"HTTP/1.1 102 Wait\r\nX: " + b"\r\n " * 20_000 + b"y\r\n\r\n"
    answer = Answer()
    for number in range(8):
        assert not answer.feed(blank.replace(b"X", b"X%d" % number))
        assert not answer.feed(folded.replace(b"X", b"X%d" % number))
    for byte in b"HTTP/1.1 201 OK\r\n" + b"X: y\r\n" * 9000:
        answer.feed(bytes([byte]))
    assert answer.feed(b"Content-Length: 2\r\n\r\n{}")
    assert (answer.is_whole, answer.content) == (True, b"{}")


@pytest.mark.parametrize("name", ANSWERS)
@given(st.data())
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(name: str, draw: st.DataObject) -> None:
    """Bytes come as the network cuts them: head, status, body and what is behind them are found all the same."""
    data = ANSWERS[name].data + (reply(500).data if name == "two at once" else b"")
    cuts = sorted({0, len(data), *draw.draw(st.lists(st.integers(0, len(data)), max_size=8))})
    at_once, piecemeal = Answer(), Answer()
    at_once.feed(data)
    for start, end in itertools.pairwise(cuts):
        if piecemeal.feed(data[start:end]):
            break
    for answer in (at_once, piecemeal):
        if name == "until the end":
            answer.end()
    assert (piecemeal.head, piecemeal.content, piecemeal.is_whole, piecemeal.fault) == (
        at_once.head,
        at_once.content,
        True,
        "",
    )
