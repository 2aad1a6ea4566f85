"""The fixtures of the fault suite, and its summary line.

``pytest tests/faults`` runs the short form, ``pytest tests/faults --faults=full`` the full one.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.faults.mounts import why_no_disk, why_no_tmpfs
from tests.faults.scene import NewScene, Scene
from tests.faults.tally import Extent, Tally
from tests.faults.tracing import Strace, why_not_traced

FULL_TEST_SECONDS = 3600

_tally_key = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the tally."""
    config.stash[_tally_key] = Tally()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests of the full form their time."""
    if _extent(config).is_full:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.timeout(FULL_TEST_SECONDS))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the tally of a worker of pytest-xdist over to the process that sums up."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["faults"] = asdict(session.config.stash[_tally_key])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what a worker of pytest-xdist counted; one that crashed hands nothing over."""
    node.config.stash[_tally_key].add(getattr(node, "workeroutput", {}).get("faults", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures of the full form."""
    if _extent(config).is_full:
        terminalreporter.section("fault suite")
        terminalreporter.write_line(str(config.stash[_tally_key]))


def _extent(config: pytest.Config) -> Extent:
    return Extent(is_full=config.getoption("--faults") == "full")


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> Extent:
    """Tell how much is to be run."""
    return _extent(request.config)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Give the tally of the session; a throw-away one to a test of a known defect."""
    is_known_defect = request.node.get_closest_marker("xfail") is not None
    return Tally() if is_known_defect else request.config.stash[_tally_key]


@pytest.fixture
def new_scene(tmp_path: Path, tally: Tally) -> NewScene:
    """Make scenes, each in a folder of its own."""
    numbers = itertools.count(1)

    def make(**facts: Any) -> Scene:
        folder = tmp_path / f"scene-{next(numbers)}"
        folder.mkdir()
        return Scene(folder, tally=tally, **facts)

    return make


@pytest.fixture(scope="session")
def strace() -> Strace:
    """Give what injects faults into system calls; skip where that is not possible."""
    if reason := why_not_traced():
        pytest.skip(f"faults cannot be injected: {reason}")
    return Strace()


@pytest.fixture(scope="session")
def can_mount_tmpfs() -> None:
    """Skip where no tmpfs can be mounted."""
    if reason := why_no_tmpfs():
        pytest.skip(f"no tmpfs can be mounted: {reason}")


@pytest.fixture(scope="session")
def can_cut_disks() -> None:
    """Skip where no disk can be made whose power can be cut."""
    if reason := why_no_disk():
        pytest.skip(f"no disk can be mounted and cut: {reason}")
