"""The HTTP server as clients meet it: a real socket, raw bytes in, raw bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ggaoe.config.endpoint import Endpoint
from ggaoe.errors import StartError

http = pytest.importorskip("ggaoe.server.http", reason="needs h11")

DEADLINE_S = 20.0
BIG = 1 << 20


async def hello() -> object:
    return http.Response("text/plain", b"hello\n")


async def broken() -> object:
    raise RuntimeError("secret")


async def big() -> object:
    return http.Response("text/plain", bytes(BIG))


ROUTES = {"/": hello, "/broken": broken, "/big": big}


@contextlib.asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[None]:
    server = http.HttpServer(endpoint, ROUTES)
    await server.start()
    try:
        yield
    finally:
        await server.close()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    async with serving(Endpoint(path=tmp_path / "s")):
        yield tmp_path / "s"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    async with serving(Endpoint("127.0.0.1", number)):
        yield number


async def ask(path: Path, *requests: bytes) -> bytes:
    """Everything that comes back until the server hangs up."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.closing(writer):
            for request in requests:
                writer.write(request)
            return await reader.read()


def get(target: str = "/", *, method: str = "GET", last: bool = True, host: str = "x") -> bytes:
    close = "Connection: close\r\n" if last else ""
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode()


async def test_requests_of_one_connection_are_answered_in_order(path: Path) -> None:
    answer = await ask(path, get(last=False), get("/none?a=b", last=False), get())
    assert answer.count(b"HTTP/1.1 ") == 2, "a refusal ends the connection"
    assert answer.index(b"200 OK") < answer.index(b"404 Not Found")
    assert b"\r\n\r\nhello\n" in answer
    assert b"there is: / /broken /big" in answer


async def test_head_has_no_body(path: Path) -> None:
    answer = await ask(path, get(method="HEAD"))
    assert answer.lower().endswith(b"\r\n\r\n")
    assert b"content-length: 6" in answer.lower()


async def test_a_long_answer_arrives(path: Path) -> None:
    answer = await ask(path, get("/big"))
    assert answer.partition(b"\r\n\r\n")[2] == bytes(BIG)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get(method="POST"), 405),
        (get(method="DELETE"), 405),
        (get("/broken"), 500),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 413),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
        (b"\xff" * 64 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 30000 + b"\r\n\r\n", 431),
        (b"GET /" + b"b" * 40000, 431),
    ],
)
async def test_what_is_refused(path: Path, request_bytes: bytes, status: int) -> None:
    answer = await ask(path, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"secret" not in answer
    assert (await ask(path, get())).endswith(b"hello\n")


@pytest.mark.parametrize(
    ("requests", "status"),
    [
        ([b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"], 413),
        ([get(method="HEAD", last=False), b"GET / HTTP/1.1\r\n\r\n"], 400),
        ([get(method="HEAD", last=False), b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n"], 400),
    ],
)
async def test_what_is_refused_beside_a_head(
    path: Path, caplog: pytest.LogCaptureFixture, requests: list[bytes], status: int
) -> None:
    answer = await ask(path, *requests)
    assert b"HTTP/1.1 %d " % status in answer
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_waits_longest_gives_way_to_who_comes(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), contextlib.AsyncExitStack() as stack:
        silent = []
        for _ in range(http.CONNECTIONS_MAX):
            reader, writer = await asyncio.open_unix_connection(path)
            stack.callback(writer.close)
            writer.write(b"GET /")
            silent.append(reader)
        assert (await ask(path, get())).endswith(b"hello\n")
        assert await silent[0].read() == b""


async def test_whoever_hangs_up_disturbs_nobody(path: Path) -> None:
    for piece in (b"", b"GET / HT", get("/big")):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.send(piece)
    assert (await ask(path, get())).endswith(b"hello\n")


async def test_any_bytes_are_answered_or_dropped(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(100):
        request = bytearray(get(last=False) * rng.randint(1, 3))
        for _ in range(rng.randint(0, 6)):
            request[rng.randrange(len(request))] = rng.choice(b"\r\n :\x00\xff/" + rng.randbytes(1))
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                writer.write(request)
                writer.write_eof()
                answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await ask(path, get())).endswith(b"hello\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("localhost:9", 200),
        ("[::1]", 200),
        ("[::1]:9", 200),
        ("", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("[evil]", 421),
    ],
)
async def test_the_loopback_address_answers_to_no_foreign_name(
    port: int, host: str, status: int
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(get(host=host))
            assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)


async def test_the_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(Endpoint(path=path)):
        assert stat.S_IMODE(path.stat().st_mode) == http.UNIX_SOCKET_MODE
        with pytest.raises(StartError, match="is in use by another ggaoe"):
            await http.HttpServer(Endpoint(path=path), ROUTES).start()
    assert not path.exists()
    async with serving(Endpoint(path=path)):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    with pytest.raises(StartError, match=r"no socket is in its place: .* set another metrics"):
        await http.HttpServer(Endpoint(path=path), ROUTES).start()
