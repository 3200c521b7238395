"""Who says what the task is and whether it is done: a person at the keys, or the simulated table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from embodiments.so101.serial_twin.client import TwinClient
from embodiments.so101.twin.scenario import Scenario


class Verdict(NamedTuple):
    """How an episode stands: over or not, done or not, and in a word why it is over.

    ticks: of the task's own clock, where it has one.
    """

    over: bool = False
    success: bool = False
    reason: str = ""
    ticks: int = 0


class Judge(Protocol):
    """One of these goes with a session."""

    def begin(self, episode: int) -> str:
        """Prepares episode number `episode` around an arm that stands at its start; its instruction."""

    def look(self) -> Verdict:
        """How it stands; asked at the policy's rate."""


class PersonJudge:
    """The task is what was given; it is over when somebody presses a key, or the time is up."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._said = Verdict()

    def begin(self, episode: int) -> str:
        """The task."""
        self._said = Verdict()
        return self._task

    def say(self, success: bool, reason: str) -> None:
        """Somebody has decided."""
        self._said = Verdict(True, success, reason)

    def look(self) -> Verdict:
        """What was said, if anything."""
        return self._said


class TableJudge:
    """Scenes of the simulated arm, one an episode, judged by its own table."""

    def __init__(self, twin: TwinClient, scenarios: Sequence[Scenario]) -> None:
        self._twin = twin
        self.scenarios = list(scenarios)

    def begin(self, episode: int) -> str:
        """Lays out the scene around the arm; its instruction."""
        scenario = self.scenarios[episode]
        found = self._twin.ask(
            "scene", seed=scenario.seed, family=scenario.family, variation=_variation(scenario)
        )
        return str(found["instruction"])

    def look(self) -> Verdict:
        """What the table says."""
        found = self._twin.ask("outcome")
        over = bool(found["success"])
        return Verdict(over, over, "success" if over else "", int(found["ticks"]))


def _variation(scenario: Scenario) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(scenario.variation)
