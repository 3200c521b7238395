"""MetaworldVector: N slots, each with its own task, in this process or in spawned light workers."""

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from embodiments.metaworld.env import CAMERA, EnvSettings, action_space, observation_space
from embodiments.metaworld.simulation import ACTION_DIM, STATE_DIM
from embodiments.metaworld.slots import SlotGroup, Transition
from embodiments.metaworld.tasks import check_task, task_description

_REPOSITORY = Path(__file__).resolve().parents[2]


class _Worker:
    """A SlotGroup in another process; `send` then `receive`, so that several workers run at once."""

    def __init__(self, tasks: Sequence[str], settings: EnvSettings) -> None:
        self._connection, theirs = Pipe()
        environment = dict(os.environ, OMP_NUM_THREADS="1", LP_NUM_THREADS="1")  # one core each
        path = [str(_REPOSITORY), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embodiments.metaworld.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the parent, which closes the workers
        )
        theirs.close()
        self.send("open", tasks, settings)

    @property
    def connection(self) -> Connection:
        return self._connection

    def send(self, method: str, *args: Any) -> None:
        self._connection.send((method, args))

    def receive(self) -> Any:
        try:
            status, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait(timeout=10)
            raise RuntimeError(
                f"metaworld worker {self._process.pid} ended with exit code {code}; "
                "its own message is on stderr above; workers=0 runs everything in this process"
            ) from error
        if status == "error":
            raise RuntimeError(f"metaworld worker {self._process.pid} failed:\n{result}")
        return result

    def close(self) -> None:
        if self._process.poll() is None:
            try:
                self.send("close")
            except (BrokenPipeError, OSError):
                pass  # already gone
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._connection.close()


class _Local:
    """The same two calls as _Worker, in this process."""

    def __init__(self, tasks: Sequence[str], settings: EnvSettings) -> None:
        self._group = SlotGroup(tasks, settings)
        self._result: Any = None

    def send(self, method: str, *args: Any) -> None:
        self._result = getattr(self._group, method)(*args)

    def receive(self) -> Any:
        return self._result

    def close(self) -> None:
        self._group.close()


class MetaworldVector(gym.vector.VectorEnv[dict[str, Any], NDArray[np.float32], NDArray[Any]]):
    """N = len(tasks) slots stepped together; a slot that ended is frozen, and free, until the next `reset`.

    workers=0 runs them here; workers=W spreads them over W processes (POSIX only).
    """

    def __init__(self, tasks: Sequence[str], settings: EnvSettings | None = None, workers: int = 0) -> None:
        self.settings = settings or EnvSettings()
        self.tasks = tuple(check_task(task) for task in tasks)
        self.task_descriptions = tuple(task_description(task) for task in self.tasks)
        self.num_envs = len(self.tasks)
        if not self.tasks:
            raise ValueError("metaworld: tasks is empty; give one task per slot, such as MT8 * 2")
        if not 0 <= workers <= self.num_envs:
            raise ValueError(f"metaworld: workers={workers}; allowed 0..{self.num_envs}, the number of slots")
        size = self.settings.render.image_size
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.settings.fps}
        self.render_mode = "rgb_array"
        self.single_observation_space = observation_space(size)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._slots = np.array_split(np.arange(self.num_envs), max(workers, 1))
        self._groups: list[_Worker | _Local]
        parts = [[self.tasks[i] for i in slots] for slots in self._slots]
        if workers:
            self._groups = [_Worker(part, self.settings) for part in parts]
            for group in self._groups:  # all are starting by now
                group.receive()
        else:
            self._groups = [_Local(parts[0], self.settings)]
        self._frames = np.zeros((self.num_envs, size, size, 3), np.uint8)
        self._agent_pos = np.zeros((self.num_envs, STATE_DIM), np.float32)
        self._success = np.zeros(self.num_envs, bool)
        self._truncated = np.zeros(self.num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
        render: bool = True,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """New layouts; an int seeds slot i with seed + i. ValueError if the number of seeds is not N."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"metaworld: {len(seeds)} seeds for {self.num_envs} slots; give one seed per slot"
            )
        for group, slots in zip(self._groups, self._slots, strict=True):
            group.send("reset", [seeds[i] for i in slots], render)
        self._success[:] = self._truncated[:] = False
        self._collect()
        return self._observation(render), self._info()

    def step(
        self, actions: NDArray[np.float32], render: bool = True
    ) -> tuple[dict[str, Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One policy step of every slot that has not ended; the ended keep their flags and give reward 0.

        actions (N, 4). `render=False` leaves "pixels" out. A frozen slot shows the last picture drawn of it.
        """
        actions = np.asarray(actions, dtype=np.float32)
        if actions.shape != (self.num_envs, ACTION_DIM):
            raise ValueError(
                f"metaworld: actions have shape {actions.shape}; expected ({self.num_envs}, {ACTION_DIM})"
            )
        active = ~(self._success | self._truncated)
        for group, slots in zip(self._groups, self._slots, strict=True):
            group.send("step", actions[slots], active[slots], render)
        rewards = self._collect()
        return self._observation(render), rewards, self._success.copy(), self._truncated.copy(), self._info()

    def expert_actions(self) -> NDArray[np.float32]:
        """(N, 4) float32 in [-1, 1] of the scripted experts."""
        return np.stack(self._gather("expert_actions"))

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """N pictures (video_size, video_size, 3) uint8 for people."""
        return tuple(self._gather("render"))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What lerobot-eval asks of every slot: task, task_description, _max_episode_steps, render."""
        if name == "render":
            return self.render()
        per_slot: dict[str, Sequence[Any]] = {
            "task": self.tasks,
            "task_description": self.task_descriptions,
            "_max_episode_steps": [self.settings.max_policy_steps] * self.num_envs,
        }
        if name not in per_slot:
            raise AttributeError(
                f"metaworld: slots have no {name!r}; there are render, {', '.join(per_slot)}"
            )
        return tuple(per_slot[name])

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        for group in self._groups:
            group.close()

    def _gather(self, method: str) -> list[Any]:
        for group in self._groups:
            group.send(method)
        return [item for group in self._groups for item in group.receive()]

    def _collect(self) -> NDArray[np.float64]:
        rewards = np.zeros(self.num_envs)
        for group, slots in zip(self._groups, self._slots, strict=True):
            answers: list[Transition | None] = group.receive()
            for slot, answer in zip(slots, answers, strict=True):
                if answer is None:
                    continue
                if answer.frame is not None:
                    self._frames[slot] = answer.frame
                self._agent_pos[slot] = answer.agent_pos
                self._success[slot], self._truncated[slot] = answer.success, answer.truncated
                rewards[slot] = answer.reward
        return rewards

    def _observation(self, render: bool) -> dict[str, Any]:
        observation: dict[str, Any] = {"pixels": {CAMERA: self._frames.copy()}} if render else {}
        observation["agent_pos"] = self._agent_pos.copy()
        return observation

    def _info(self) -> dict[str, Any]:
        return {"is_success": self._success.copy()}
