"""Places to listen, as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.config import parse
from ggaoe.config.endpoint import Endpoint, parse_endpoint
from ggaoe.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "endpoint", "is_local"),
    [
        ("127.0.0.1:9882", Endpoint("127.0.0.1", 9882), True),
        ("0.0.0.0:1", Endpoint("0.0.0.0", 1), False),
        ("[::1]:65535", Endpoint("::1", 65535), True),
        ("[::]:80", Endpoint("::", 80), False),
        ("/run/ggaoe/web", Endpoint(path=Path("/run/ggaoe/web")), True),
    ],
)
def test_what_can_be_written(text: str, endpoint: Endpoint, is_local: bool) -> None:
    found = parse(f"[defaults]\nmetrics = {text}\n", "f").metrics
    assert found == endpoint
    assert (str(found), found.is_local) == (text, is_local)


@pytest.mark.parametrize(
    "text",
    [
        *("localhost:1", "127.0.0.1", ":9882", "9882", "127.0.0.1:0", "127.0.0.1:65536", "::1:1"),
        *("[127.0.0.1]:1", "run/web", "127.0.0.1:١", "127.0.0.1:+1", "127.0.0.1:" + "9" * 5000),
    ],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no place to listen: write 127\.0\.0\.1:9882"):
        parse_endpoint(text)


def test_a_mistake_in_the_file_has_its_place() -> None:
    with pytest.raises(ConfigError, match="f:2:11: '9882' is no place to listen"):
        parse("[defaults]\nmetrics = 9882\n", "f")
    with pytest.raises(ConfigError, match="metrics can have at most 107 bytes"):
        parse(f"[defaults]\nmetrics = /{'x' * 200}\n", "f")


def test_without_the_option_nothing_is_served() -> None:
    assert parse("", "f").metrics is None
