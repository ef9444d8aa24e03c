"""The control socket: JSON-RPC 2.0 over a Unix stream socket, one JSON object a line.

Owns the socket file, the connections with their bounds, and the errors of the protocol. Must not
know what any method does. Whatever a client sends, or neither sends nor reads, the daemon goes on.

Requests of one connection are answered in order, those of several connections side by side.
Parameters are an object; a batch is refused, since a line per request does the same. What goes on
(events, a trace) is a stream: after the answer its items follow, as notifications of the method
"item", until the server hangs up at its end, or the client sends anything or hangs up. To whoever
says that it understands "parts", an answer that may be longer than a line is such a stream, too; an
empty object is its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ggaoe import parts
from ggaoe.errors import ConfigError, ControlError, GgaoeError, limit_reached
from ggaoe.server.socketfile import SocketFile
from ggaoe.units import counted

PROTOCOL_VERSION = 1
"""Counts up when a method or a result changes so that an older client would misread it."""

MESSAGE_BYTES_MAX = 1 << 20
"""Longest line either way, without its newline."""
CONNECTIONS_MAX = 16
IDLE_TIMEOUT_S = 60.0
"""A connection that completes no request for so long is closed."""
WRITE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
"""Requests under way when the server closes have so long to be answered."""
ID_CHARACTERS_MAX = 128
ERROR_CHARACTERS_MAX = 4096
ID_MAX = 1 << 63
QUOTED_CHARACTERS_MAX = 60
PATTERNS_MAX = 256
"""Globs of a request that are nobody's name: to read one takes the loop some hundred microseconds,
and each is compared with all names."""
PATTERN_CHARACTERS_MAX = 16384
"""Of all of them: each adds some microseconds."""

# JSON-RPC 2.0, Error object
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# Ours, in the range that JSON-RPC leaves to servers
NOT_FOUND = -32001
"""Nothing has a name that was asked for."""
REFUSED = -32002
"""It cannot be done now; the message says why."""
CONFIG_INVALID = -32003
"""data: {"problems": [{"file", "line", "column", "message", "warning"}]}"""
BUSY = -32004
"""More than CONNECTIONS_MAX connections."""
ANSWER_TOO_LONG = -32005

Params = dict[str, object]
Handler = Callable[[Params], Awaitable[object]]
"""From parameters to a JSON value, or to an AsyncGenerator of such. ControlError refuses;
ConfigError and other GgaoeError become CONFIG_INVALID and REFUSED; anything else is logged and
answered as an internal error."""
Parts = AsyncGenerator[dict[str, object], None]
"""Of one answer, as `ggaoe.parts` joins them."""

_Items = AsyncGenerator[object, None] | None
_UCRED = struct.Struct("3i")
_log = logging.getLogger("ggaoe.control")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    params: object
    request_id: str | int | None
    is_notification: bool


class ControlServer:
    """Serves `handlers` by method name on the socket file `path` with permissions `mode`."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], mode: int = 0o600) -> None:
        self.path = path
        self._handlers = handlers
        self._mode = mode
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Listen; replaces a socket that nobody serves any more. StartError where another daemon
        serves it, or it cannot be made."""
        self._file = SocketFile(self.path, self._mode, "control-socket")
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._file.socket, limit=MESSAGE_BYTES_MAX, backlog=CONNECTIONS_MAX
        )

    async def close(self) -> None:
        """Stop listening, answer what is under way (for CLOSE_TIMEOUT_S at most), hang up."""
        if self._server is None or self._file is None:
            return
        self._closing = True
        self._file.remove()
        self._server.close()
        for task in self._idle:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            _log.debug("control connection of %s", _peer(writer))
            if len(self._tasks) > CONNECTIONS_MAX:
                text = f"{CONNECTIONS_MAX} control connections are open already: try again later"
                await _send(writer, _failure(None, ControlError(BUSY, text)))
            else:
                await self._converse(task, reader, writer)
            await _hang_up(writer)
        except OSError as error:  # a time-out is one, too
            _log.debug("control connection lost: %s", error or "its client does not read")
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _converse(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while not self._closing:
            self._idle.add(task)
            try:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    line = await reader.readuntil(b"\n")
            except (asyncio.IncompleteReadError, TimeoutError):
                return
            except asyncio.LimitOverrunError:
                text = f"the request is longer than {MESSAGE_BYTES_MAX} bytes"
                await _send(writer, _failure(None, ControlError(INVALID_REQUEST, text)))
                return
            finally:
                self._idle.discard(task)
            answer, items = await self._answer(line)
            if answer is not None:
                await _send(writer, answer)
            if items is not None:
                await self._stream(task, reader, writer, items)
                return

    async def _stream(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        items: AsyncGenerator[object, None],
    ) -> None:
        async def forward() -> None:
            try:
                async for item in items:
                    message: Params = {"jsonrpc": "2.0", "method": "item", "params": item}
                    await _send(writer, _encode(message))
            except Exception as error:
                if not isinstance(error, OSError):  # else nobody is there to hear it
                    await _send(writer, _failure(None, _refusal(error)))
                raise

        forwarding = asyncio.create_task(forward())
        ended = asyncio.create_task(reader.read(1))
        self._idle.add(task)
        try:
            await asyncio.wait((forwarding, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._idle.discard(task)
            forwarding.cancel()
            ended.cancel()
            found, _ = await asyncio.gather(forwarding, ended, return_exceptions=True)
            await items.aclose()
        if isinstance(found, Exception) and not isinstance(found, OSError | GgaoeError):
            _log.error("a stream of the control socket failed", exc_info=found)

    async def _answer(self, line: bytes) -> tuple[bytes | None, _Items]:
        """The line that answers a request, None where the request is a notification; and what is
        to be streamed behind it."""
        items: _Items = None
        try:
            request = _parse(line)
        except ControlError as error:
            return _failure(None, error), None
        try:
            result = await self._call(request)
            if isinstance(result, AsyncGenerator):
                items, result = result, {"streams": True}
            answer = _success(request.request_id, result)
        except Exception as error:
            refusal = _refusal(error)
            if refusal.code == INTERNAL_ERROR:
                _log.exception("control method %s failed", request.method)
            answer = _failure(request.request_id, refusal)
        return None if request.is_notification else answer, items

    async def _call(self, request: _Request) -> object:
        handler = self._handlers.get(request.method)
        if handler is None:
            text = f"unknown method {_quoted(request.method)}: is the daemon of an older version?"
            raise ControlError(METHOD_NOT_FOUND, text)
        if not isinstance(request.params, dict):
            raise ControlError(INVALID_PARAMS, "the parameters are no object: name each of them")
        return await handler(request.params)


def in_parts(answer: Callable[[Params], Awaitable[Parts]]) -> Handler:
    """The handler of a method whose answer may be long: in parts for whoever understands them, each
    in a turn of the loop, otherwise whole."""

    async def handle(params: Params) -> object:
        found = await answer(params)
        if flag(params, "parts"):
            return _one_by_one(found)
        whole: dict[str, object] = {}
        async for part in _one_by_one(found):
            parts.join(whole, part)
        return whole

    return handle


async def _one_by_one(found: Parts) -> Parts:
    async for part in found:
        yield part
        await asyncio.sleep(0)
    yield {}


def splitting(handler: Callable[[Params], Awaitable[dict[str, object]]]) -> Handler:
    """The same of a method whose answer is made at once."""

    async def answer(params: Params) -> Parts:
        return pieces(await handler(params))

    async def pieces(whole: dict[str, object]) -> Parts:
        for part in parts.split(whole):
            yield part

    return in_parts(answer)


def string_list(params: Params, key: str) -> list[str]:
    """`params[key]`, a list of strings, empty where there is none; ControlError otherwise."""
    value = params.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ControlError(INVALID_PARAMS, f"{key} is no list of strings")
    return value


def flag(params: Params, key: str) -> bool:
    """`params[key]`, true or false, false where there is none; ControlError otherwise."""
    value = params.get(key, False)
    if not isinstance(value, bool):
        raise ControlError(INVALID_PARAMS, f"{key} is neither true nor false")
    return value


def select(
    params: Params, known: Iterable[str], *, required: bool = False
) -> tuple[list[str], list[str]]:
    """(the known names that the globs in `names` match, in their order; the globs that match
    nothing). Without any glob that is all of them, or, where globs are `required`, a ControlError.
    A known name matches itself, whatever characters it has. ControlError NOT_FOUND where no glob
    matches."""
    names = list(known)
    globs = string_list(params, "names")
    if not globs:
        if required:
            raise ControlError(INVALID_PARAMS, "names are required: '*' stands for all")
        return names, []
    chosen, missing = matching(globs, names)
    if not chosen:
        text = f"nothing matches {', '.join(map(_quoted, missing))}: the list verb shows the names"
        raise ControlError(NOT_FOUND, text)
    return chosen, missing


def matching(globs: list[str], names: list[str]) -> tuple[list[str], list[str]]:
    """(those of `names` that `globs` match, in their order; the globs that match nothing).
    ControlError where there are too many globs."""
    asked = set(globs)
    patterns = asked.difference(names)
    if len(patterns) > PATTERNS_MAX:
        text = f"more than {PATTERNS_MAX} of the names are globs or unknown: ask for fewer names"
        raise ControlError(INVALID_PARAMS, text)
    if sum(map(len, patterns)) > PATTERN_CHARACTERS_MAX:
        text = f"the globs have more than {PATTERN_CHARACTERS_MAX} characters: ask for fewer names"
        raise ControlError(INVALID_PARAMS, text)
    matched = {glob: {name for name in names if fnmatchcase(name, glob)} for glob in patterns}
    found = asked.intersection(names).union(*matched.values())
    return (
        [name for name in names if name in found],
        [glob for glob in globs if not matched.get(glob, True)],
    )


def _parse(line: bytes) -> _Request:
    """The request in a line; ControlError where it is none."""
    try:
        # Strict JSON: Python's own reading would accept NaN and guess at other encodings.
        request = json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ControlError(PARSE_ERROR, f"the line is no JSON: {error}") from None
    if isinstance(request, list):
        raise ControlError(INVALID_REQUEST, "batches are not served: send a request per line")
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
        raise ControlError(INVALID_REQUEST, 'no JSON-RPC request: it has no "jsonrpc": "2.0"')
    method = request.get("method")
    if not isinstance(method, str):
        raise ControlError(INVALID_REQUEST, "the request names no method")
    request_id = request.get("id")
    if not _is_id(request_id):
        text = f"id is no integer of 64 bits and no string of up to {ID_CHARACTERS_MAX} characters"
        raise ControlError(INVALID_REQUEST, text)
    return _Request(method, request.get("params", {}), request_id, "id" not in request)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= ID_CHARACTERS_MAX
    if isinstance(value, int) and not isinstance(value, bool):
        return -ID_MAX <= value < ID_MAX
    return value is None


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def _success(request_id: str | int | None, result: object) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def _refusal(error: Exception) -> ControlError:
    """What a client is told about an exception of a handler."""
    if isinstance(error, ControlError):
        return error
    if isinstance(error, ConfigError):
        data = {"problems": [problem._asdict() for problem in error.problems]}
        return ControlError(CONFIG_INVALID, "the configuration has errors", data)
    if isinstance(error, GgaoeError):
        return ControlError(REFUSED, str(error))
    if (limit := limit_reached(error)) is not None:
        return ControlError(REFUSED, limit)
    return ControlError(INTERNAL_ERROR, "internal error: the daemon's log has the details")


def _failure(request_id: str | int | None, error: ControlError) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id}
    content: dict[str, object] = {
        "code": error.code,
        "message": str(error)[:ERROR_CHARACTERS_MAX],
    }
    if error.data is not None:
        with suppress(ControlError, TypeError, ValueError):  # too long, or no JSON
            return _encode({**message, "error": {**content, "data": error.data}})
    return _encode({**message, "error": content})


def _encode(message: dict[str, object]) -> bytes:
    # ASCII: no newline, and file names that are no UTF-8 survive as lone surrogates.
    line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii")
    if len(line) > MESSAGE_BYTES_MAX:
        size = counted(len(line), "byte")
        text = f"the answer has {size}, {MESSAGE_BYTES_MAX} at most: ask for fewer names"
        raise ControlError(ANSWER_TOO_LONG, text)
    return line + b"\n"


def _quoted(text: str) -> str:
    cut = text[:QUOTED_CHARACTERS_MAX]
    return repr(cut) + ("…" if cut != text else "")


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Write a line; TimeoutError where the client does not take it."""
    writer.write(line)
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await writer.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close once what was written has been taken; TimeoutError where it is not."""
    writer.close()
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await writer.wait_closed()


def _peer(writer: asyncio.StreamWriter) -> str:
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size
    )
    process_id, user_id, group_id = _UCRED.unpack(credentials)
    return f"process {process_id}, user {user_id}, group {group_id}"
