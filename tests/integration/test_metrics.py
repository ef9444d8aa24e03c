"""Metrics and the status page's data, over TCP, a Unix socket, and the control socket."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ggaoe.engine.histogram import quantile
from ggaoe.engine.select import ENGINES
from helpers.needs import requires_program
from helpers.netns import wait_until
from helpers.targets import REPOSITORY
from integration.load import Load, running
from integration.scene import DEADLINE_S, GGAOE, Scene, device

pytestmark = pytest.mark.one_engine

PORT = 9882
TCP = f"127.0.0.1:{PORT}"


def defaults(**options: object) -> str:
    lines = [f"{key.replace('_', '-')} = {value}" for key, value in options.items()]
    return "\n".join(["[defaults]", *lines, ""])


def get(scene: Scene, path: str, *, unix: Path | None = None, head: str = "") -> tuple[str, str]:
    """The head and the body of an answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\nConnection: close\r\n{head}\r\n"
    return exchange(scene, request.encode(), unix)


def exchange(scene: Scene, request: bytes, unix: Path | None = None) -> tuple[str, str]:
    with scene.target.entered():
        client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.settimeout(DEADLINE_S)
        client.connect(str(unix) if unix else ("127.0.0.1", PORT))
        client.sendall(request)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
    before, _, after = answer.decode().partition("\r\n\r\n")
    return before, after


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Values by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def compare(text: str, stats: dict[str, Any], host: str) -> None:
    """What both say of what no longer changes."""
    values = parsed(text)
    disk = stats["devices"]["disk"]
    for operation in ("read", "write"):
        labels = {"device": "disk", "operation": operation}
        count = disk[f"{operation}_requests"]
        assert count > 0
        assert values[series("ggaoe_device_requests_total", **labels)] == count
        assert values[series("ggaoe_device_bytes_total", **labels)] == disk[f"{operation}_bytes"]
        assert values[series("ggaoe_device_latency_seconds_count", **labels)] == count
        total_s = values[series("ggaoe_device_latency_seconds_sum", **labels)]
        assert total_s == pytest.approx(disk[f"{operation}_ns"] / 1e9)
        assert values[series("ggaoe_device_request_size_bytes_count", **labels)] == count
        buckets = {
            float(dict(key)["le"]): value
            for (name, key), value in values.items()
            if name == "ggaoe_device_latency_seconds_bucket" and labels.items() <= dict(key).items()
        }
        assert [buckets[bound] for bound in sorted(buckets)] == sorted(buckets.values())
        median_ns = quantile(disk[f"{operation}_latency"], 0.5)
        assert median_ns is not None
        above = min(bound for bound in buckets if buckets[bound] >= count / 2)
        assert above / 2 < median_ns / 1e9 <= above * 1.0001
        ours = {"device": "disk", "initiator": host, "operation": operation}
        assert values[series("ggaoe_initiator_requests_total", **ours)] == count
    flushes = values[series("ggaoe_device_latency_seconds_count", device="disk", operation="flush")]
    assert flushes == disk["flush_requests"] > 0
    seconds = values[series("ggaoe_device_latency_seconds_sum", device="disk", operation="flush")]
    assert seconds == pytest.approx(disk["flush_ns"] / 1e9) != 0
    frames = values[series("ggaoe_interface_received_frames_total", interface="far0")]
    assert frames == stats["interfaces"]["far0"]["rx_frames"]
    assert values[series("ggaoe_device_state", device="gone", state="waiting")] == 1
    assert values[series("ggaoe_device_state", device="apart", state="no-interface")] == 1
    assert values[series("ggaoe_device_state", device="apart", state="serving")] == 0
    assert values[series("ggaoe_device_backend_errors_total", device="disk")] == 0
    assert values[series("ggaoe_device_state", device="disk", state="serving")] == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_scrape_says_what_stats_say(scene: Scene, engine: str) -> None:
    disk = scene.disk()
    scene.disk("apart")
    apart = device("apart", 3, interfaces="other*")
    sections = (defaults(metrics=TCP, engine=engine), device(), device("gone", 2), apart)
    with scene.serving(*sections) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            load = Load(remote, disk, workers=8)
            async with running(load):
                during = parsed(get(scene, "/metrics")[1])
                await remote.flush()
        stats = daemon.ask("stats")
        compare(daemon.ctl("metrics").stdout, stats, initiator_mac(scene))
        head, text = get(scene, "/metrics")
        compare(text, stats, initiator_mac(scene))
        assert "text/plain; version=0.0.4" in head
        counted = series("ggaoe_device_requests_total", device="disk", operation="write")
        assert 0 < during[counted] <= parsed(text)[counted]
        assert series("ggaoe_build_info", version="0.1.0", engine=engine) in parsed(text)


def initiator_mac(scene: Scene) -> str:
    return scene.host.mac("near0").hex(":")


FOLDER = REPOSITORY / "packaging" / "prometheus"
METRIC = re.compile(r"\b(ggaoe_[a-z_]+)(?:\{([^}]*)\})?")


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yml"])
async def test_alerts_and_dashboard_ask_for_what_there_is(scene: Scene, name: str) -> None:
    """Each metric that they name is there, and what they ask of it by a label's value, too."""
    scene.disk()
    with scene.serving(device(), device("gone", 2, interfaces="nowhere*")) as daemon:
        async with scene.initiator() as initiator:
            await (await initiator.open(0, 1)).read(0, 1)
        scene.target.run("ip", "link", "set", "far0", "down")
        daemon.wait_for_interface("far0", serving=False)
        down = parsed(daemon.ctl("metrics").stdout)
        scene.target.run("ip", "link", "set", "far0", "up")
        daemon.wait_for_interface("far0", serving=True)
        there = parsed(daemon.ctl("metrics").stdout)
    serving = series("ggaoe_interface_serving", interface="far0")
    assert (down[serving], there[serving]) == (0, 1)
    assert series("ggaoe_interface_refused", interface="far0") not in down
    used = METRIC.findall((FOLDER / name).read_text().replace('\\"', '"'))
    assert len(used) > 5
    for metric, matchers in used:
        if metric == "ggaoe_interface_refused":  # only there while there is one
            continue
        wanted = dict(re.findall(r'([a-z]+)="([^"$]+)"', matchers)).items()
        assert any(metric == known and wanted <= dict(labels).items() for known, labels in there), (
            metric,
            matchers,
        )


def test_promtool_has_no_complaint(scene: Scene) -> None:
    requires_program("promtool")
    scene.disk()
    with scene.serving(device(), device("gone", 2)) as daemon:
        text = daemon.ctl("metrics").stdout
    promtool = str(shutil.which("promtool"))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_paths_and_headers(scene: Scene) -> None:
    scene.disk()
    with scene.serving(defaults(metrics=TCP), device()) as daemon:
        head, body = get(scene, "/")
        assert head.startswith("HTTP/1.1 200 ")
        assert body.startswith("<!doctype html>")
        assert "default-src 'none'" in head
        assert "unsafe" not in head
        head, body = get(scene, "/status.json?x")
        assert "application/json" in head
        status = json.loads(body)
        assert status["list"] == daemon.ask("list")
        assert status["version"]["pid"] == daemon.ask("version")["pid"]
        assert status["stats"]["devices"].keys() == {"disk"}
        assert "device-serving" in [event["event"] for event in status["events"]]
        assert get(scene, "/etc/passwd")[0].startswith("HTTP/1.1 404 ")
        assert "127.0.0.1" not in daemon.log_text()


def test_a_unix_socket(scene: Scene) -> None:
    scene.disk()
    path = scene.directory / "web"
    with scene.serving(defaults(metrics=path), device()):
        assert "ggaoe_build_info" in get(scene, "/metrics", unix=path)[1]
    assert not path.exists()


def test_an_address_that_others_reach_is_warned_of(scene: Scene) -> None:
    with scene.serving(defaults(metrics=f"0.0.0.0:{PORT}")) as daemon:
        assert "without a password" in daemon.log_text()
        daemon.reconfigure(defaults(metrics=TCP))
        assert "needs a restart: metrics 0.0.0.0:9882 → 127.0.0.1:9882" in daemon.log_text()


def test_disks_are_served_where_an_address_is_in_use(scene: Scene) -> None:
    scene.disk()
    with scene.target.entered():
        other = socket.create_server(("127.0.0.1", PORT))
    with other, scene.serving(defaults(metrics=TCP), device()) as daemon:
        daemon.wait_for_state("disk", "serving")
        text = "metrics 127.0.0.1:9882: Address already in use"
        assert f"no metrics, no status page: {text}" in daemon.log_text()
        assert text in daemon.ask("show", "daemon")["daemon"]["metrics"]["reason"]
    assert "Traceback" not in daemon.log_text()


def test_export_has_it_too(scene: Scene) -> None:
    outcome = scene.ggaoe("export", scene.disk(), "--interface", "far0", "--metrics", "9882")
    assert outcome.status == 1
    assert "'9882' is no place to listen: write 127.0.0.1:9882" in outcome.stderr
    argv = (*GGAOE, "export", scene.directory / "disk", "--interface", "far0", "--metrics", TCP)
    log = scene.directory / "export.log"
    with log.open("wb") as file:
        scene.target.spawn(*argv, stderr=file, cwd=REPOSITORY)
    wait_until(lambda: b"ready: " in log.read_bytes(), DEADLINE_S, "export")
    assert 'ggaoe_device_state{device="disk",state="serving"} 1.0' in get(scene, "/metrics")[1]


def without(directory: Path, module: str) -> tuple[str, ...]:
    """What runs a command in a Python that lacks a package."""
    text = f"raise ModuleNotFoundError('it is not there', name={module!r})\n"
    (directory / f"{module}.py").write_text(text)
    return ("env", f"PYTHONPATH={directory}")


def test_a_missing_package_is_named_to_who_needs_it(scene: Scene) -> None:
    daemon = scene.daemon(defaults(metrics=TCP))
    daemon.wrapper = without(scene.directory, "h11")
    daemon.start()
    text = "no metrics, no status page: metrics needs the Python package h11: pip install h11"
    assert text in daemon.log_text()
    assert daemon.stop() == 0

    daemon.wrapper = without(scene.directory, "prometheus_client")
    daemon.configure()
    daemon.start()
    assert daemon.ctl("metrics").stderr == (
        "ggaoectl: metrics needs the Python package prometheus-client: "
        "pip install prometheus-client\n"
    )
    assert daemon.stop() == 0
