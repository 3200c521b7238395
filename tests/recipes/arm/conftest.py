"""A simulated arm on its serial port, and a small untrained policy for it: motions of a degree or so."""

import sys

import pytest

from embodiments.so101.serial_twin.client import TwinProcess
from recipes.arm.view import PlainView

START = (0.0, -48.0, 30.0, 82.0, 0.0, 3.0)


@pytest.fixture(scope="session")
def twin_process(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("arm") / "so101", seed=4, size=32, fps=30.0) as twin:
        yield twin


@pytest.fixture
def twin(twin_process):
    """The arm folded, nothing broken."""
    twin_process.ask("clear")
    twin_process.ask("fold")
    return twin_process


@pytest.fixture(scope="session")
def policy_folder(make_policy_folder):
    return make_policy_folder()


@pytest.fixture(scope="session")
def planned_folder(make_policy_folder):
    """A policy that can be planned with."""
    return make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)


class Watched(PlainView):
    """A view that remembers, and that somebody may act through: `acts` are called with every telemetry."""

    def __init__(self, *acts):
        super().__init__(sys.stderr)
        self.checks, self.events, self.shown, self.acts = [], [], [], list(acts)
        self.pressed = None

    def check(self, check):
        self.checks.append(check)

    def event(self, severity, text):
        self.events.append((severity.name, text))

    def show(self, telemetry):
        self.shown.append(telemetry)
        for act in self.acts:
            act(self, telemetry)

    def key(self):
        pressed, self.pressed = self.pressed, None
        return pressed

    def said(self, part):
        return [text for _, text in self.events if part in text]


@pytest.fixture
def watched():
    return Watched
