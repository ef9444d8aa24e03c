"""A small HTTP/1.1 server for reading: GET and HEAD of a few fixed paths.

Owns the listener, the connections with their bounds, and the errors of the protocol (which h11
reads and writes). Must not know what is served. Whatever a client sends, or neither sends nor
reads, the daemon goes on.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from ggaoe.config.endpoint import Endpoint
from ggaoe.errors import StartError
from ggaoe.server.socketfile import SocketFile

CONNECTIONS_MAX = 16
"""One more, and the one that has waited longest for a request gives way."""
HEAD_BYTES_MAX = 16384
READ_BYTES = 4096
"""At a time: a head that is complete may be longer by so much."""
REQUEST_TIMEOUT_S = 30.0
"""A connection that completes no request for so long is closed."""
WRITE_TIMEOUT_S = 10.0
UNIX_SOCKET_MODE = 0o666
"""As open as the loopback address: the directory decides who reaches it."""

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_log = logging.getLogger("ggaoe.http")


@dataclass(frozen=True, slots=True)
class Response:
    """What a path holds just now."""

    content_type: str
    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


Route = Callable[[], Awaitable[Response]]


@dataclass(slots=True, eq=False)
class _Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    )
    wants_body: bool = True


class HttpServer:
    """Serves `routes` by path on `endpoint`."""

    def __init__(self, endpoint: Endpoint, routes: Mapping[str, Route]) -> None:
        self._endpoint = endpoint
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Those that wait for a request, the one that has waited longest first."""

    async def start(self) -> None:
        """Listen; StartError where that cannot be."""
        if self._endpoint.path is not None:
            self._file = SocketFile(self._endpoint.path, UNIX_SOCKET_MODE, "metrics")
        listener = self._file.socket if self._file is not None else _listener(self._endpoint)
        self._server = await asyncio.start_server(
            self._serve, sock=listener, backlog=CONNECTIONS_MAX
        )

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is None:
            return
        if self._file is not None:
            self._file.remove()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = _Peer(reader, writer)
        try:
            if len(self._tasks) > CONNECTIONS_MAX and not self._make_room():
                text = f"{CONNECTIONS_MAX} connections are busy: try again later"
                await _send(peer, _refusal(HTTPStatus.SERVICE_UNAVAILABLE, text))
            else:
                await self._converse(task, peer)
            writer.close()
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await writer.wait_closed()
        except OSError as error:  # a time-out is one, too
            _log.debug("connection lost: %s", error or "its client does not read")
        except asyncio.CancelledError:
            pass  # it has given way, or the server is being closed
        finally:
            writer.transport.abort()
            self._waiting.pop(task, None)
            self._tasks.discard(task)

    def _make_room(self) -> bool:
        for task in self._waiting:
            task.cancel()
            del self._waiting[task]
            return True
        return False

    async def _converse(self, task: asyncio.Task[None], peer: _Peer) -> None:
        """Answer requests one after another, as long as both sides keep the connection."""
        while True:
            self._waiting[task] = None
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    request = await _request(peer)
            except TimeoutError:
                return
            except h11.RemoteProtocolError as error:
                if peer.protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    status = HTTPStatus(error.error_status_hint)
                    await _send(peer, _refusal(status, str(error)))
                return
            finally:
                self._waiting.pop(task, None)
            if request is None:
                return
            await _send(peer, await self._answer(request))
            if peer.protocol.our_state is not h11.DONE or peer.protocol.their_state is not h11.DONE:
                return
            peer.protocol.start_next_cycle()

    async def _answer(self, request: h11.Request) -> Response:
        method = request.method.decode("ascii")
        if method not in ("GET", "HEAD"):
            text = "only GET and HEAD are served: ggaoectl changes things"
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, text, ("Allow", "GET, HEAD"))
        if not self._is_meant(request):
            text = "a name that is not of this machine: take its address, or localhost"
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, text)
        path = request.target.decode("ascii", "replace").partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return _refusal(HTTPStatus.NOT_FOUND, f"there is: {' '.join(self._routes)}")
        try:
            return await route()
        except Exception:
            _log.exception("%s failed", path)
            text = "internal error: the daemon's log has the details"
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _is_meant(self, request: h11.Request) -> bool:
        """Whether the host that is named can be us. Otherwise a page of somebody else's could let
        its own name lead a browser on this machine to us, and read what we answer."""
        if self._endpoint.path is not None or not self._endpoint.is_local:
            return True
        named = next((value for key, value in request.headers if key == b"host"), b"")
        host = named.decode("ascii", "replace").lower()
        if not host.endswith("]"):
            host = host.rpartition(":")[0] or host
        if host in ("", "localhost"):
            return True
        with suppress(ValueError):
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            return True
        return False


async def _request(peer: _Peer) -> h11.Request | None:
    """The next request, which has no body; None where the client has hung up."""
    request = None
    peer.wants_body = True
    while True:
        event = peer.protocol.next_event()
        if event is h11.NEED_DATA:
            peer.protocol.receive_data(await peer.reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
            peer.wants_body = request.method != b"HEAD"
        elif isinstance(event, h11.Data):
            raise h11.RemoteProtocolError("a request with a body", 413)
        elif isinstance(event, h11.EndOfMessage):
            return request
        else:
            return None


async def _send(peer: _Peer, response: Response) -> None:
    """Write a response; TimeoutError where the client does not take it."""
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        *_HEADERS,
        *response.headers,
    ]
    protocol = peer.protocol
    if response.status >= 400:
        headers.append(("Connection", "close"))
    head = h11.Response(
        status_code=response.status,
        reason=response.status.phrase.encode("ascii"),
        headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in headers],
    )
    peer.writer.write(protocol.send(head) or b"")
    if peer.wants_body:
        peer.writer.write(protocol.send(h11.Data(data=response.body)) or b"")
    peer.writer.write(protocol.send(h11.EndOfMessage()) or b"")
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await peer.writer.drain()


def _refusal(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Response:
    body = f"{status.value} {status.phrase}: {text}\n".encode("ascii", "backslashreplace")
    return Response("text/plain; charset=utf-8", body, status, headers)


def _listener(endpoint: Endpoint) -> socket.socket:
    """A socket bound to an address and port; StartError where that cannot be."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((endpoint.host, endpoint.port))
        except OSError as error:
            hint = "set another address or port"
            if error.errno == errno.EAFNOSUPPORT:
                hint = "the service's unit or the system permits no IP: set a Unix socket's path"
            raise StartError(f"metrics {endpoint}: {error.strerror}: {hint}") from None
        stack.pop_all()
    return listener
