"""The files in packaging/prometheus are what Prometheus reads; `integration/test_metrics.py` tries
that what they name is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.needs import requires_program

FOLDER = Path(__file__).parents[2] / "packaging" / "prometheus"


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


def _targets(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield from value.get("targets", [])
        for child in value.values():
            yield from _targets(child)
    elif isinstance(value, list):
        for child in value:
            yield from _targets(child)
