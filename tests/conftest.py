"""What every test stands on: shapes checked as the tests run, one thread, no network, fixed seeds."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import platform
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # two workers of two threads each would only stand in each other's way
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["NO_COLOR"] = "1"

import hypothesis
import jaxtyping
import pytest

assert not [name for name in sys.modules if name.startswith("formers.")], "the hook comes before what it hooks into"


def _outermost(check: Callable[..., Any]) -> Callable[..., Any]:
    """`jaxtyped`, but functions within functions stay as they are: they would be wrapped anew at each call, in 4 ms."""

    def decorator(**named: Any) -> Callable[..., Any]:
        return lambda it: it if "<locals>" in getattr(it, "__qualname__", "") else check(it, **named)

    return decorator


jaxtyping.jaxtyped = _outermost(jaxtyping.jaxtyped)
jaxtyping.install_import_hook(["formers.parts", "formers.models"], "beartype.beartype")
SHAPES_CHECKED = {Path(__file__).parent / name for name in ("inspection", "models", "parity", "parts")}

hypothesis.settings.register_profile("fast", max_examples=15, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("full", max_examples=300, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Shapes are checked where parts and models are what is tested. Elsewhere, and in the thousands of little calls that a law
    makes, it would be most of the time."""
    unchecked = SHAPES_CHECKED.isdisjoint(item.path.parents) or "law" in item.name
    jaxtyping.config.update("jaxtyping_disable", unchecked)


class NetworkForbidden(AssertionError):
    """A test reached for the network."""


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connecting to (or looking up) anything but this machine raises, so that no test can come to need it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name), 1))
        patch.setattr(socket, "getaddrinfo", _local_only(socket.getaddrinfo, 0))
        yield


def _local_only(function: Callable[..., Any], place: int) -> Callable[..., Any]:
    def guarded(*arguments: Any, **named: Any) -> Any:
        address = arguments[place]
        host = address[0] if isinstance(address, tuple) else address
        if not _is_local(host):
            raise NetworkForbidden(f"a test reached for {host!r}: tests run without a network")
        return function(*arguments, **named)

    return guarded


def _is_local(host: Any) -> bool:
    """Names of this machine, addresses of its loopback, and paths of Unix sockets."""
    if host is None or host in ("", "localhost", b"localhost", socket.gethostname()):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return text.startswith(("/", "\0"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test begins with the same random numbers, whatever ran before it."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


# --- the result of `make check`, to be committed -----------------------------------------------------------------------


_BEGAN = time.time()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--result-json", help="write what came of this run to a JSON file")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """With xdist this runs in the process that collects the results of all others."""
    target = config.getoption("--result-json")
    if target is None:
        return
    import torch

    import formers

    stats = terminalreporter.stats
    calls = [report for outcome in stats.values() for report in outcome if getattr(report, "when", "") == "call"]
    slowest = sorted(calls, key=lambda report: -report.duration)[:10]
    result = {
        "ok": exitstatus == 0,
        "date": datetime.date.today().isoformat(),
        "counts": {name: len(stats[name]) for name in ("passed", "failed", "error", "skipped") if stats.get(name)},
        "failed": sorted(report.nodeid for name in ("failed", "error") for report in stats.get(name, ())),
        "skipped": sorted({str(report.longrepr[-1]) for report in stats.get("skipped", ())}),
        "minutes": round((time.time() - _BEGAN) / 60, 1),
        "hypothesis_profile": os.environ.get("HYPOTHESIS_PROFILE", "fast"),
        "slowest_seconds": {report.nodeid: round(report.duration, 1) for report in slowest},
        "versions": {"formers": formers.__version__, "python": platform.python_version(), "torch": torch.__version__},
    }
    Path(target).write_text(json.dumps(result, indent=2) + "\n")
