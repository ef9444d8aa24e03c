"""The control socket as clients meet it: a real socket, raw lines in, raw lines out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ggaoe.cli import ggaoectl
from ggaoe.errors import BackendError, ConfigError, ControlError, Problem, StartError
from ggaoe.server import control
from ggaoe.server.control import ControlServer, Params, select

DEADLINE_S = 20.0


async def echo(params: Params) -> object:
    return params


async def refuse(params: Params) -> object:
    raise ControlError(control.NOT_FOUND, "nothing here", {"hint": 1})


async def misconfigured(params: Params) -> object:
    raise ConfigError([Problem("a.conf", 3, 1, "unknown option 'x'")])


async def unavailable(params: Params) -> object:
    raise BackendError("/dev/sdz: No such file or directory")


async def broken(params: Params) -> object:
    raise RuntimeError("secret")


async def unserialisable(params: Params) -> object:
    return b"bytes"


async def huge(params: Params) -> object:
    return "x" * control.MESSAGE_BYTES_MAX


HANDLERS = {
    "echo": echo,
    "refuse": refuse,
    "misconfigured": misconfigured,
    "unavailable": unavailable,
    "broken": broken,
    "unserialisable": unserialisable,
    "huge": huge,
}


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> Any:
        """The next answer; None where the server has hung up."""
        async with asyncio.timeout(DEADLINE_S):
            line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, line: str | bytes) -> Any:
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\n")
        return await self.line()

    async def call(self, method: str, params: object = None) -> Any:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
        return await self.ask(json.dumps(request))


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    limit = 2 * control.MESSAGE_BYTES_MAX
    reader, writer = await asyncio.open_unix_connection(str(path), limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(path: Path, **handlers: control.Handler) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, {**HANDLERS, **handlers})
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ctl"


def is_there(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def remove(path: Path) -> None:
    path.unlink()


async def test_answers_in_order_on_one_connection(path: Path) -> None:
    async with serving(path), connected(path) as client:
        for number in range(3):
            request = {"jsonrpc": "2.0", "id": number, "method": "echo", "params": {"n": number}}
            client.writer.write(json.dumps(request).encode() + b"\n")
        answers = [await client.line() for _ in range(3)]
    assert answers == [{"jsonrpc": "2.0", "id": n, "result": {"n": n}} for n in range(3)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("", control.PARSE_ERROR),
        ("{", control.PARSE_ERROR),
        (b"\xff\xfe{\x00}\x00", control.PARSE_ERROR),
        ('{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":NaN}}', control.PARSE_ERROR),
        ("[" * 100_000, control.PARSE_ERROR),
        ("9" * 10_000, control.PARSE_ERROR),
        ("[]", control.INVALID_REQUEST),
        ('[{"jsonrpc":"2.0","id":1,"method":"echo"}]', control.INVALID_REQUEST),
        ("7", control.INVALID_REQUEST),
        ('{"id":1,"method":"echo"}', control.INVALID_REQUEST),
        ('{"jsonrpc":"1.0","id":1,"method":"echo"}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":1}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":1,"method":["echo"]}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":{},"method":"echo"}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":true,"method":"echo"}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":1e999,"method":"echo"}', control.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":"' + "x" * 129 + '","method":"echo"}', control.INVALID_REQUEST),
    ],
    ids=range(17),
)
async def test_what_is_no_request_gets_an_error_without_id(
    path: Path, line: str | bytes, code: int
) -> None:
    async with serving(path), connected(path) as client:
        answer = await client.ask(line)
        assert (answer["id"], answer["error"]["code"]) == (None, code)
        assert (await client.call("echo", {"still": "there"}))["result"] == {"still": "there"}


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("nonsense", {}, {"code": control.METHOD_NOT_FOUND}),
        ("echo", [1], {"code": control.INVALID_PARAMS}),
        (
            "refuse",
            {},
            {"code": control.NOT_FOUND, "message": "nothing here", "data": {"hint": 1}},
        ),
        (
            "misconfigured",
            {},
            {
                "code": control.CONFIG_INVALID,
                "data": {
                    "problems": [
                        {
                            "file": "a.conf",
                            "line": 3,
                            "column": 1,
                            "message": "unknown option 'x'",
                            "warning": False,
                        }
                    ]
                },
            },
        ),
        (
            "unavailable",
            {},
            {"code": control.REFUSED, "message": "/dev/sdz: No such file or directory"},
        ),
        ("huge", {}, {"code": control.ANSWER_TOO_LONG}),
    ],
)
async def test_refusals_carry_the_id_and_a_code(
    path: Path, method: str, params: object, error: dict[str, object]
) -> None:
    async with serving(path), connected(path) as client:
        answer = await client.call(method, params)
    assert answer["id"] == 7
    assert {key: answer["error"][key] for key in error} == error


@pytest.mark.parametrize("method", ["broken", "unserialisable"])
async def test_a_failing_handler_is_logged_and_told_as_internal_error(
    path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path), connected(path) as client:
        answer = await client.call(method)
        assert answer["error"]["code"] == control.INTERNAL_ERROR
        assert "secret" not in answer["error"]["message"]
        assert (await client.call("echo"))["result"] == {}
    (record,) = [record for record in caplog.records if record.name == "ggaoe.control"]
    assert record.exc_info is not None


async def test_error_data_that_is_no_json_is_left_out(path: Path) -> None:
    async def bad(params: Params) -> object:
        raise ControlError(control.REFUSED, "no", b"bytes")

    async with serving(path, bad=bad), connected(path) as client:
        assert (await client.call("bad"))["error"] == {"code": control.REFUSED, "message": "no"}


async def test_a_notification_is_done_without_an_answer(path: Path) -> None:
    seen: list[Params] = []

    async def note(params: Params) -> object:
        seen.append(params)
        raise ControlError(control.REFUSED, "nobody hears this")

    async with serving(path, note=note), connected(path) as client:
        client.writer.write(b'{"jsonrpc":"2.0","method":"note","params":{"a":1}}\n')
        assert (await client.call("echo"))["id"] == 7
    assert seen == [{"a": 1}]


async def test_names_that_are_no_text_come_back_as_they_were(path: Path) -> None:
    name = os.fsdecode(b"disk\xff\n")
    async with serving(path), connected(path) as client:
        assert (await client.call("echo", {"name": name}))["result"] == {"name": name}


async def test_a_request_beyond_the_bound_ends_its_connection_only(path: Path) -> None:
    async with serving(path), connected(path) as client:
        answer = await client.ask(b"x" * (control.MESSAGE_BYTES_MAX + 1))
        assert answer["error"]["code"] == control.INVALID_REQUEST
        assert await client.line() is None
        async with connected(path) as other:
            assert (await other.call("echo"))["result"] == {}


def test_the_tool_has_the_bound_of_the_server() -> None:
    assert ggaoectl.MESSAGE_BYTES_MAX == control.MESSAGE_BYTES_MAX


async def test_a_request_that_was_cut_off_is_not_done(path: Path) -> None:
    called = False

    async def note(params: Params) -> object:
        nonlocal called
        called = True
        return None

    async with serving(path, note=note), connected(path) as client:
        client.writer.write(b'{"jsonrpc":"2.0","id":1,"method":"note"}')
        client.writer.write_eof()
        assert await client.line() is None
    assert not called


async def test_connections_beyond_the_bound_are_told_so(path: Path) -> None:
    async with serving(path), contextlib.AsyncExitStack() as stack:
        for _ in range(control.CONNECTIONS_MAX):
            client = await stack.enter_async_context(connected(path))
            assert (await client.call("echo"))["result"] == {}
        async with connected(path) as late:
            assert (await late.line())["error"]["code"] == control.BUSY
            assert await late.line() is None
        assert (await client.call("echo"))["result"] == {}


async def test_an_idle_connection_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_TIMEOUT_S", 0.01)
    async with serving(path), connected(path) as client:
        client.writer.write(b"half a request")
        assert await client.line() is None


async def test_a_client_that_does_not_read_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "WRITE_TIMEOUT_S", 0.01)

    async def large(params: Params) -> object:
        return "x" * (control.MESSAGE_BYTES_MAX - 100)

    async with serving(path, large=large):
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.setblocking(False)
            await asyncio.get_running_loop().sock_connect(stuck, str(path))
            stuck.send(b'{"jsonrpc":"2.0","id":1,"method":"large"}\n')
            async with connected(path) as client:  # somebody else is served meanwhile
                assert (await client.call("echo"))["result"] == {}
            async with asyncio.timeout(DEADLINE_S):
                await _hung_up(stuck)


async def _hung_up(stuck: socket.socket) -> None:
    """Wait until sending fails: the other end is closed, however much is left to read."""
    while True:
        try:
            stuck.send(b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        except BlockingIOError:
            pass
        await asyncio.sleep(0)


async def test_close_answers_what_is_under_way_and_hangs_up_on_the_idle(path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(params: Params) -> object:
        begun.set()
        await go_on.wait()
        return "done"

    async with serving(path, slow=slow) as server, connected(path) as idle, connected(path) as busy:
        assert (await idle.call("echo"))["result"] == {}
        asking = asyncio.create_task(busy.call("slow"))
        await begun.wait()
        closing = asyncio.create_task(server.close())
        assert await idle.line() is None
        assert not is_there(path)
        go_on.set()
        assert (await asking)["result"] == "done"
        await closing
        assert await busy.line() is None


async def test_close_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLOSE_TIMEOUT_S", 0.01)
    begun = asyncio.Event()

    async def stuck(params: Params) -> object:
        begun.set()
        await asyncio.Event().wait()
        return None

    async with serving(path, stuck=stuck) as server, connected(path) as client:
        asking = asyncio.create_task(client.call("stuck"))
        await begun.wait()
        await server.close()
        assert await asking is None


@pytest.mark.parametrize(("mode", "umask"), [(0o600, 0), (0o600, 0o077), (0o660, 0o077)])
async def test_the_mode_of_the_socket_does_not_depend_on_the_umask(
    path: Path, mode: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        server = ControlServer(path, {}, mode)
        await server.start()
        assert mode_of(path) == mode
        await server.close()
    finally:
        os.umask(before)


async def test_a_stale_socket_is_replaced_and_removed_at_the_end(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path), connected(path) as client:
        assert (await client.call("echo"))["result"] == {}
    assert not is_there(path)


async def test_a_socket_in_use_is_refused_and_left_alone(path: Path) -> None:
    async with serving(path):
        with pytest.raises(StartError, match=r"is in use by another ggaoe: stop it, or set"):
            await ControlServer(path, {}).start()
        async with connected(path) as client:
            assert (await client.call("echo"))["result"] == {}


async def test_the_datagram_socket_of_the_original_is_in_use_too(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as original:
        original.bind(str(path))
        with pytest.raises(StartError, match="is in use"):
            await ControlServer(path, {}).start()
    assert is_there(path)


def _no_directory(path: Path) -> Path:
    return path / "missing" / "ctl"


def _regular(path: Path) -> Path:
    path.write_text("precious")
    return path


def _too_long(path: Path) -> Path:
    return path.with_name("x" * 120)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_directory, "there is no directory .*/missing: create it, or set another"),
        (_regular, "a file that is no socket is in its place: remove it, or set another"),
        (_too_long, "path too long: set another control-socket"),
    ],
)
async def test_a_place_that_cannot_be_used_is_one_clear_line(
    path: Path, make: Callable[[Path], Path], message: str
) -> None:
    place = make(path)
    with pytest.raises(StartError, match=message) as caught:
        await ControlServer(place, {}).start()
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)
    if place.exists():
        assert place.read_text() == "precious"


async def test_close_leaves_the_socket_of_a_successor(path: Path) -> None:
    async with serving(path) as server:
        remove(path)
        async with serving(path):
            await server.close()
            async with connected(path) as client:
                assert (await client.call("echo"))["result"] == {}


def test_select_takes_globs() -> None:
    known = ["disk1", "disk2", "tape"]
    assert select({}, known) == (known, [])
    assert select({"names": ["disk*"]}, known) == (["disk1", "disk2"], [])
    assert select({"names": ["tape", "disk1"]}, known) == (["disk1", "tape"], [])
    assert select({"names": ["tape", "cd*"]}, known) == (["tape"], ["cd*"])
    assert select({"names": []}, []) == ([], [])
    assert select({"names": ["*"]}, known, required=True) == (known, [])
    with pytest.raises(ControlError, match=r"'cd\*', 'DISK1'") as caught:
        select({"names": ["cd*", "DISK1"]}, known)
    assert caught.value.code == control.NOT_FOUND


def test_a_name_matches_itself() -> None:
    known = ["a[1]", "a1"]
    assert select({"names": ["a[1]"]}, known) == (["a[1]"], [])
    assert select({"names": ["a[[]1]", "a[1]"]}, known) == (["a[1]"], [])


def test_globs_are_bounded_and_names_are_not() -> None:
    """A megabyte of globs would keep the loop for seconds."""
    known = [f"disk{number}" for number in range(5000)]
    assert select({"names": known}, known) == (known, [])
    enough = ["disk1?", *(f"{number}*" for number in range(control.PATTERNS_MAX - 1))]
    assert select({"names": enough}, known) == (known[10:20], enough[1:])
    for globs in (
        ["*a" * control.PATTERN_CHARACTERS_MAX],
        [f"{number}*" for number in range(control.PATTERNS_MAX + 1)],
    ):
        with pytest.raises(ControlError, match="more than") as caught:
            select({"names": globs}, known)
        assert caught.value.code == control.INVALID_PARAMS


@pytest.mark.parametrize("names", ["disk1", [1], {"a": 1}, None])
def test_names_that_are_no_list_of_strings_are_invalid(names: object) -> None:
    with pytest.raises(ControlError) as caught:
        select({"names": names}, ["disk1"])
    assert caught.value.code == control.INVALID_PARAMS


@pytest.mark.parametrize("params", [{}, {"names": []}])
def test_names_may_be_required(params: Params) -> None:
    with pytest.raises(ControlError, match="names are required") as caught:
        select(params, ["disk1"], required=True)
    assert caught.value.code == control.INVALID_PARAMS


def test_a_flag_is_true_or_false() -> None:
    assert control.flag({}, "dry_run") is False
    assert control.flag({"dry_run": True}, "dry_run") is True
    with pytest.raises(ControlError):
        control.flag({"dry_run": 1}, "dry_run")


# --- streams -------------------------------------------------------------------------------------


class Counting:
    """A stream of numbers from 0 that waits before the number `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ended = asyncio.Event()

    async def __call__(self, params: Params) -> object:
        return self._numbers()

    async def _numbers(self) -> AsyncIterator[object]:
        try:
            for number in range(self.limit):
                yield {"number": number}
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_a_stream_follows_its_answer_until_the_client_hangs_up(path: Path) -> None:
    counting = Counting(3)
    async with serving(path, count=counting):
        async with connected(path) as client:
            assert (await client.call("count"))["result"] == {"streams": True}
            for number in range(3):
                item = {"jsonrpc": "2.0", "method": "item", "params": {"number": number}}
                assert await client.line() == item
        async with asyncio.timeout(DEADLINE_S):
            await counting.ended.wait()


async def test_a_stream_ends_when_the_client_says_something(path: Path) -> None:
    counting = Counting(1)
    async with serving(path, count=counting), connected(path) as client:
        await client.call("count")
        await client.line()
        assert await client.ask("{}") is None
        assert counting.ended.is_set()


async def test_close_ends_a_stream(path: Path) -> None:
    counting = Counting(1)
    async with serving(path, count=counting) as server, connected(path) as client:
        await client.call("count")
        await client.line()
        await server.close()
        assert counting.ended.is_set()
        assert await client.line() is None


async def test_a_stream_that_fails_says_so_and_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(params: Params) -> object:
        async def items() -> AsyncIterator[object]:
            yield 1
            raise RuntimeError("secret")

        return items()

    async with serving(path, fail=failing), connected(path) as client:
        await client.call("fail")
        assert (await client.line())["params"] == 1
        last = await client.line()
        assert last["error"]["code"] == control.INTERNAL_ERROR
        assert "secret" not in str(last)
        assert await client.line() is None
    assert "a stream of the control socket failed" in caplog.text


async def test_who_does_not_read_a_stream_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "WRITE_TIMEOUT_S", 0.05)
    ended = asyncio.Event()

    async def flooding(params: Params) -> object:
        async def items() -> AsyncIterator[object]:
            try:
                while True:
                    yield "x" * 1000
            finally:
                ended.set()

        return items()

    async with serving(path, flood=flooding), connected(path) as client:
        await client.call("flood")
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()


# --- long answers --------------------------------------------------------------------------------


async def long(params: Params) -> dict[str, object]:
    names, missing = select(params, map(str, range(300)))
    devices = dict.fromkeys(names, "x" * (control.MESSAGE_BYTES_MAX // 200))
    return {"devices": devices, "missing": missing}


async def test_a_long_answer_comes_in_parts_to_whoever_understands_them(path: Path) -> None:
    expected = await long({})
    async with serving(path, long=control.splitting(long)), connected(path) as client:
        assert (await client.call("long"))["error"]["code"] == control.ANSWER_TOO_LONG
        assert (await client.call("long", {"names": ["1*"]}))["result"] == await long(
            {"names": ["1*"]}
        )
        assert (await client.call("long", {"parts": True}))["result"] == {"streams": True}
        last = None
        while (line := await client.line()) is not None:
            last = line["params"]
        assert last == {}
        assert await asyncio.to_thread(ggaoectl.ask, path, "long", {}) == expected


async def test_what_is_refused_is_refused_before_the_first_part(path: Path) -> None:
    async with serving(path, long=control.splitting(long)), connected(path) as client:
        answer = await client.call("long", {"parts": True, "names": ["x"]})
        assert answer["error"]["code"] == control.NOT_FOUND


async def test_an_answer_that_breaks_off_is_none(path: Path) -> None:
    async def answer(params: Params) -> control.Parts:
        async def tell() -> control.Parts:
            yield {"devices": ["one"]}
            raise RuntimeError("secret")

        return tell()

    async with serving(path, long=control.in_parts(answer)):
        with pytest.raises(ControlError, match="internal error"):
            await asyncio.to_thread(ggaoectl.ask, path, "long", {})

    async def too_long(params: Params) -> control.Parts:
        async def tell() -> control.Parts:
            yield {"devices": ["x" * control.MESSAGE_BYTES_MAX]}

        return tell()

    async with serving(path, long=control.in_parts(too_long)):
        with pytest.raises(ControlError, match="ask for fewer names"):
            await asyncio.to_thread(ggaoectl.ask, path, "long", {})
