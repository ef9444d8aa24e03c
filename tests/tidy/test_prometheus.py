"""The files in packaging/prometheus are what Prometheus reads, and name metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.needs import requires_program

FOLDER = Path(__file__).parents[2] / "packaging" / "prometheus"
SOURCE = Path(__file__).parents[2] / "ggaoe" / "server" / "metrics.py"


@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_accepts(words: tuple[str, ...]) -> None:
    requires_program("promtool")
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    requires_program("promtool")
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    expressions = [target["expr"] for target in _targets(dashboard)]
    assert len(expressions) > 10
    rules = [
        {"record": "x", "expr": expression.replace("$__rate_interval", "1m")}
        for expression in expressions
    ]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yml"])
def test_only_metrics_that_there_are(name: str) -> None:
    metrics = pytest.importorskip("ggaoe.server.metrics", reason="needs prometheus-client")
    source = SOURCE.read_text()
    known = set(re.findall(r'"(ggaoe_[a-z_]+)"', source))
    for folder, keys in (
        ("device", [called for _, called, _ in metrics._DEVICE]),
        ("interface", [called for _, called, _ in metrics._INTERFACE]),
        ("initiator", [called for called, _ in metrics._INITIATOR]),
        ("device", ["size_bytes", "interfaces", "queue_length", "in_flight", "waiting"]),
    ):
        known |= {f"ggaoe_{folder}_{key}" for key in keys}
    used = set(re.findall(r"\bggaoe_[a-z_]+", (FOLDER / name).read_text()))
    assert used
    endings = ("", "_total", "_bucket", "_sum", "_count")
    unknown = {one for one in used if not any(one.removesuffix(end) in known for end in endings)}
    assert not unknown


def _targets(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from value.get("targets", [])
        for child in value.values():
            yield from _targets(child)
    elif isinstance(value, list):
        for child in value:
            yield from _targets(child)
