"""Every command of the user documentation, done as its page says, on a target and a Linux host.

Pages that need no host need no guest kernel, either.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.needs import requires_namespaces, requires_user_mode_linux
from helpers.netns import Namespace
from helpers.targets import REPOSITORY
from interop.guest import Images, Wire, run_guest
from interop.pages import (
    MTU_BYTES_MAX,
    Machine,
    Step,
    guest_outputs,
    guest_script,
    is_shown,
    rename_to_eth1,
    steps_of,
    two_machines,
)

GUEST_TIMEOUT_S = 400.0
PAGES = {
    path.stem: steps
    for path in sorted((REPOSITORY / "docs").glob("*.md"))
    if (steps := steps_of(path.read_text()))
}

pytestmark = [pytest.mark.timeout(GUEST_TIMEOUT_S + 60), pytest.mark.one_engine]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    requires_user_mode_linux()
    return Images.assemble(tmp_path_factory.mktemp("guest"))


def test_every_page_of_a_task_has_commands() -> None:
    without = {path.stem for path in (REPOSITORY / "docs").glob("*.md")} - set(PAGES)
    assert without == {"README", "limits", "options"}


def test_what_a_page_shows_is_compared() -> None:
    output = "NAME   SIZE\nfirst  1 MiB\n\nsecond 2 MiB\n"
    assert is_shown(output, ["first 1 MiB"])
    assert is_shown(output, ["NAME SIZE", "…  2 MiB"])
    assert not is_shown(output, ["second 2 MiB", "first 1 MiB"])
    assert not is_shown(output, ["first  1"])
    assert not is_shown("", [""])


@pytest.mark.parametrize("page", PAGES)
def test_a_page(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    requires_namespaces()
    steps = PAGES[page]
    if any(" type vlan " in step.command for step in steps):
        requires_vlan()
    if not any(step.needs_kernel for step in steps):
        with two_machines(tmp_path) as machines:
            for step in steps:
                machines[step.machine].do(step)
        return
    images = request.getfixturevalue("images")
    with Wire([MTU_BYTES_MAX]) as wire:
        rename_to_eth1(wire.namespace, wire.interfaces[0])
        with Machine("target", wire.namespace, tmp_path / "target") as target:
            with_guest(images, wire, target, steps)


def with_guest(images: Images, wire: Wire, target: Machine, steps: list[Step]) -> None:
    """Do `steps`, those of the host in a guest."""
    transcript = run_guest(
        images,
        wire,
        guest_script(steps),
        actions={"target": lambda number: target.do(steps[int(number)])},
        timeout_s=GUEST_TIMEOUT_S,
    )
    print(transcript)
    assert transcript.status == 0
    for number, output in guest_outputs(transcript.output).items():
        step = steps[number]
        assert is_shown(output, step.shown), f"line {step.line} prints:\n{output}"


def requires_vlan() -> None:
    """802.1Q in the kernel."""
    with Namespace() as namespace:
        namespace.ip("link add below type veth peer name far")
        try:
            namespace.ip("link add link below name above type vlan id 2")
        except subprocess.CalledProcessError:
            pytest.skip("needs VLAN interfaces: a kernel with 8021q")
