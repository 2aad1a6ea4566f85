"""From a backend's name to an open connection: its addresses, a socket, a proxy, TLS. No request is sent here."""

from __future__ import annotations

import contextlib

from uploader.sender.connecting import connected
from uploader.sender.origin import Origin
from uploader.sender.proxies import Proxy, socks_way, tunnel
from uploader.sender.resolver import Question, Resolver
from uploader.sender.steps import Prospect, Steps, UnconnectedError, Wait, done
from uploader.sender.tls import CertificateError, Context, Stream, context_for, in_words, is_lasting, wrapped


class Dialling:
    """Makes connections, all by the same way.

    most_sockets: that one of them may take, while it tries several addresses.
    resolver:     whose bell tells that what waits for a name may go on.
    """

    def __init__(self, *, proxy: Proxy | None, ca_bundle: str, most_sockets: int) -> None:
        self.resolver = Resolver()
        self._proxy = proxy
        self._ca_bundle = ca_bundle
        self._most_sockets = most_sockets
        self._context: Context | None = None

    def dial(self, backend: Origin) -> Steps[Stream]:
        """Make a connection that takes requests for a backend.

        Raises:
            UnconnectedError: in words, what went wrong.
        """
        proxy = self._proxy
        nearest = backend if proxy is None else proxy.origin
        named = backend.netloc if proxy is None else proxy.named
        question = yield from self._answered(nearest, named=named)
        with contextlib.ExitStack() as failing:  # or it may be given up
            stream: Stream
            stream, address = yield from connected(question.addresses, door=named, most_at_once=self._most_sockets)
            failing.callback(lambda: stream.close())  # noqa: PLW0108 -- whichever it is then
            question.prefer(address)
            if proxy is not None:
                if proxy.origin.scheme == "https":
                    stream = yield from self._over_tls(stream, proxy.origin.host, named=named)
                yield from self._through(stream, proxy, backend)
            if backend.scheme == "https":
                stream = yield from self._over_tls(stream, backend.host, named=backend.netloc)
            failing.pop_all()
        return stream

    def _answered(self, origin: Origin, *, named: str) -> Steps[Question]:
        what = f"address of {named}"
        question = self.resolver.ask(origin.host, origin.port)
        while not question.is_answered:
            yield Wait(f"{what} from the name server")
        if question.error:
            raise UnconnectedError(f"no {what}: {question.error}")
        return question

    def _through(self, stream: Stream, proxy: Proxy, backend: Origin) -> Steps[None]:
        if not proxy.speaks_http:
            hosts: list[str] = []
            if not proxy.resolves_names:
                question = yield from self._answered(backend, named=backend.netloc)
                hosts = [str(address.sockaddr[0]) for address in question.addresses]
            yield from socks_way(stream, proxy, backend, addresses=hosts)
        elif backend.scheme == "https":
            yield from tunnel(stream, proxy, backend)

    def _over_tls(self, stream: Stream, host: str, *, named: str) -> Steps[Stream]:
        context = self._trusting()
        what = f"TLS with {named}"
        try:
            with contextlib.ExitStack() as failing:
                over = wrapped(stream, context, host=host)
                failing.callback(over.close)
                yield from done(over, over.do_handshake, what=what)
                failing.pop_all()
        except (OSError, ValueError) as error:  # a proxy's name may be none
            raise UnconnectedError(f"no {what}: {in_words(error)}", prospect=_prospect(error)) from error
        return over

    def _trusting(self) -> Context:
        if self._context is None:
            try:
                self._context = context_for(self._ca_bundle)
            except OSError as error:
                words = f"{self._ca_bundle}: no certificates can be read from it: {in_words(error)}"
                raise UnconnectedError(words, prospect=Prospect.NONE) from error
        return self._context


def _prospect(error: Exception) -> Prospect:
    if isinstance(error, CertificateError):
        return Prospect.NONE
    return Prospect.NONE_AT_FIRST if is_lasting(error) else Prospect.OPEN
