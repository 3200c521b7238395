"""One simulated arm for all tests of the bus, and a port on it."""

import pytest

from embodiments.feetech.port import FeetechPort
from embodiments.so101.serial_twin.client import TwinProcess

IDS = (1, 2, 3, 4, 5, 6)
PATIENT_S = 0.2  # a reply deadline that a starved test machine keeps; timing itself is for benchmarks


@pytest.fixture(scope="session")
def twin_process(tmp_path_factory):
    """A twin without cameras, shared by the session's tests."""
    with TwinProcess(tmp_path_factory.mktemp("bus") / "so101", seed=3, cameras=False) as twin:
        yield twin


@pytest.fixture
def twin(twin_process):
    """The twin as it came: no faults, no torque."""
    yield twin_process
    twin_process.ask("clear")
    twin_process.ask("power_cycle")


@pytest.fixture
def port(twin):
    """An open port with a patient deadline."""
    with FeetechPort(twin.port, reply_deadline_s=PATIENT_S) as opened:
        yield opened
