"""One running episode: a simulation, the given task's monitor, the monitors beside it, the step counter.

The single environment, the vector environment and the recorder all run this; it knows nothing of gymnasium.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.events import EventWatch
from embodiments.so101.twin.expert import expert_action
from embodiments.so101.twin.language import COLOURS, Task
from embodiments.so101.twin.monitor import TaskMonitor
from embodiments.so101.twin.scenario import Scenario
from embodiments.so101.twin.simulation import SimulationState, TwinSimulation
from embodiments.so101.twin.variation import draw_layout

NUM_SLOTS = len(COLOURS)


@dataclass(frozen=True)
class EpisodeState:
    """A restorable snapshot of an episode."""

    scenario: Scenario
    simulation: SimulationState
    monitors: tuple[TaskMonitor, ...]
    events: EventWatch | None
    step: int


class Episode:
    """Runs scenarios one after the other on one simulation."""

    def __init__(self, image_size: int) -> None:
        if not 16 <= image_size <= 640:
            raise ValueError(f"so101 twin: image_size is {image_size}; allowed is 16 to 640 pixels")
        self.image_size = image_size
        self.simulation = TwinSimulation()
        self._scenario: Scenario | None = None
        self._monitors: tuple[TaskMonitor, ...] = ()
        self._events: EventWatch | None = None
        self.sent = np.zeros(c.NUM_JOINTS)  # the last action as the servos took it
        self.step = 0

    @property
    def scenario(self) -> Scenario:
        """What is being played; RuntimeError before the first start."""
        if self._scenario is None:
            raise RuntimeError("so101 twin: no episode yet; call reset first")
        return self._scenario

    @property
    def success(self) -> bool:
        """Whether the given task is done."""
        return self._monitors[0].success

    @property
    def monitored(self) -> np.ndarray:
        """(1 + M,) bool: success of the given task, then of each task in `scenario.monitor`."""
        return np.array([monitor.success for monitor in self._monitors])

    @property
    def events(self) -> np.ndarray:
        """(3,) bool: which of `events.EVENTS` the last tick had."""
        assert self._events is not None
        return self._events.found

    @property
    def truncated(self) -> bool:
        """Whether the step limit is reached."""
        return self.step >= self.scenario.max_steps

    @property
    def done(self) -> bool:
        """Success or step limit."""
        return self.success or self.truncated

    def start(self, scenario: Scenario) -> None:
        """Lay out the scene of `scenario`."""
        self._scenario = scenario
        self.simulation.reset(draw_layout(scenario.seed, scenario.variation))
        self._begin_watching()

    def restart_task(self) -> None:
        """Give the task anew, to the table as it is now: monitors and the step counter begin again."""
        self._begin_watching()

    def _begin_watching(self) -> None:
        first, scenario = self.simulation.table_state(), self.scenario
        self._monitors = tuple(TaskMonitor(task, first) for task in (scenario.task, *scenario.monitor))
        self._events = EventWatch(scenario.task, first)
        self.step = 0

    def advance(self, action: np.ndarray) -> None:
        """One tick towards `action` (6,) in reported degrees and percent."""
        self.simulation.tick(action)
        assert self._events is not None
        self.sent = self.simulation.within_range(action)
        self.step += 1
        state = self.simulation.table_state()
        self._events.update(state, np.abs(action - self.sent))
        for monitor in self._monitors:
            monitor.update(state)

    def expert_action(self, task: Task | None = None) -> np.ndarray:
        """What the expert does now, as reported targets (6,) float32; for another task if one is given."""
        layout = self.simulation.layout
        assert layout is not None
        target = expert_action(self.simulation.table_state(), task or self.scenario.task, layout.expert_speed)
        return self.simulation.true_to_reported(target).astype(np.float32)

    def pictures(self) -> dict[str, np.ndarray]:
        """Each camera's (S, S, 3) uint8 picture."""
        return self.simulation.pictures(self.image_size)

    def agent_pos(self) -> np.ndarray:
        """(6,) float32 reported joints."""
        return self.simulation.reported_joints()

    def objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Table-plane positions (K, 2) float32 in metres, zeros where absent, and presence (K,) bool."""
        state = self.simulation.table_state()
        return state.blocks[:, :2].astype(np.float32), state.present

    def get_state(self) -> EpisodeState:
        """A snapshot; the episode may go on, the snapshot does not change."""
        monitors = copy.deepcopy(self._monitors)
        events = copy.deepcopy(self._events)
        return EpisodeState(self.scenario, self.simulation.get_state(), monitors, events, self.step)

    def set_state(self, state: EpisodeState) -> None:
        """Return to a snapshot, from whatever scene is there now."""
        self._scenario = state.scenario
        self.simulation.reset(draw_layout(state.scenario.seed, state.scenario.variation))
        self.simulation.set_state(state.simulation)
        self._monitors, self._events = copy.deepcopy(state.monitors), copy.deepcopy(state.events)
        self.step = state.step
