"""What every test stands on: no screen, no network, no file of the user's; and what the markers skip."""

import contextlib
import importlib.util
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings

import pytest
from _pytest.runner import runtestprotocol

# Set before LeRobot, MuJoCo and transformers are imported; commands that tests run inherit it.
_home = tempfile.mkdtemp(prefix="hybridpolicy-tests-")
os.environ.update(
    {
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": os.path.join(_home, "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_LEROBOT_HOME": os.path.join(_home, "lerobot"),
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
    }
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each wait for one another
os.environ.setdefault("MUJOCO_GL", {"linux": "egl", "darwin": "cgl"}.get(sys.platform, "glfw"))

_connect = socket.socket.connect


def _connect_locally(self, address):
    """The real connect to this machine; anything else fails the test that tried."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = address[0]
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = host == "localhost"
        if not local:
            raise AssertionError(f"a test tried to reach {host}:{address[1]}; tests run without a network")
    return _connect(self, address)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config):
    socket.socket.connect = _connect_locally


def pytest_unconfigure(config):
    socket.socket.connect = _connect
    shutil.rmtree(_home, ignore_errors=True)


def _has_cuda():
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


# Real-time tests follow one another: two arms at once would starve each other on two cores.
_REAL_TIME = (
    *("embodiments/control", "embodiments/so101/test_so101_robot", "embodiments/twin_camera"),
    *("lerobot/test_guarded", "lerobot/test_serial", "recipes/arm", "recipes/bench"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, a worker runs a file at a time, whose tests share fixtures, or everything real-time."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0].removeprefix("tests/")
            return "real time" if file.startswith(_REAL_TIME) else file

    return Scheduling(config, log)


ATTEMPTS = 4
REST_S = 5.0  # before another attempt: what starves a machine often takes seconds
STARVED_MS = 20.0  # longer than this, replies are lost and cycles missed whatever the code does
LATE = "its source has stopped or is too slow"  # LeRobot ends where a picture is older than 0.5 s


class StallProbe:
    """How long this machine kept a thread (real-time where permitted) waiting: no fault of ours."""

    def __init__(self):
        self.worst_ms = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(25))  # this thread alone
        while not self._stop.is_set():
            due = time.monotonic() + 0.005
            time.sleep(0.005)
            self.worst_ms = max(self.worst_ms, (time.monotonic() - due) * 1e3)

    def end(self):
        self._stop.set()
        self._thread.join()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """A real-time test that the machine starved is run again, and says so; its last failure counts."""
    if not item.nodeid.removeprefix("tests/").startswith(_REAL_TIME):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(1, ATTEMPTS + 1):
        probe = StallProbe()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        probe.end()
        reason = _starved([report for report in reports if report.failed], probe.worst_ms)
        if attempt == ATTEMPTS or not reason:
            break
        warnings.warn(f"{item.name}: run again, {reason}", stacklevel=1)
        time.sleep(REST_S)
    for report in reports:
        if report.failed and reason:
            report.sections.append(("machine", f"{reason} (attempt {attempt})"))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _starved(failed, stood_ms):
    if failed and stood_ms > STARVED_MS:
        return f"the machine stood still for {stood_ms:.0f} ms"
    if any(LATE in report.longreprtext for report in failed):
        return "a picture came too late"
    return ""


def pytest_collection_modifyitems(config, items):
    absent = {
        "slow": None if config.getoption("--slow") else "takes minutes; run with --slow",
        "hardware": None
        if os.environ.get("HYBRIDPOLICY_HARDWARE")
        else "needs a real arm; set HYBRIDPOLICY_HARDWARE to its port",
    }
    if any(item.get_closest_marker("gpu") for item in items):  # importing torch costs seconds
        absent["gpu"] = None if _has_cuda() else "needs a CUDA device; none is visible"
    for item in items:
        for marker, reason in absent.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
