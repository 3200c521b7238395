"""What drives the arm in `bench control`: our control process, and LeRobot's own rollout loop and engines.

The policy is the same in all: a forward pass of an ACT of 15 M parameters, whose answer is replaced by a slow
motion, so that the arm is where it should be whatever the weights. Run in forks of the server.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.bench.lerobot_line import Peer

CHUNK = 50  # actions of LeRobot's engines: half a second at 100 Hz
OUR_ACTION_S, OUR_ACTIONS = 0.1, 41  # of a chunk of ours, which the control process interpolates
FIFO = 20
LOADS = 2  # processes that do nothing but inference
UP = (0.0, -30.0, 40.0, 30.0, 0.0, 30.0)
START_S = 2.0


class Thinker:
    """One forward pass, and the slow motion that is its answer."""

    supports_rtc = staticmethod(lambda: True)
    config = SimpleNamespace(use_amp=False)

    def __init__(self, period_s: float) -> None:
        from recipes.bench.peers import act, observation

        self._network = act().eval()
        self._batch = observation()
        self._period_s = period_s
        self._queue: deque[Any] = deque()
        self.inferences = 0

    def think(self) -> None:
        """One forward pass."""
        import torch

        with torch.inference_mode():
            self._network.predict_action_chunk(dict(self._batch))
        self.inferences += 1

    def predict_action_chunk(self, batch: Mapping[str, Any], **rtc: Any) -> Any:
        """(1, CHUNK, 6) float32: from now on, one action a period."""
        import torch

        self.think()
        now = time.monotonic()
        return torch.tensor([[pose(now + k * self._period_s) for k in range(CHUNK)]])

    def select_action(self, batch: Mapping[str, Any]) -> Any:
        """(1, 6) float32: the next action of a chunk, as LeRobot's policies queue them."""
        if not self._queue:
            self._queue.extend(self.predict_action_chunk(batch)[0])
        return self._queue.popleft()[None]

    def reset(self) -> None:
        """Forget the chunk."""
        self._queue.clear()


class Unchanged:
    """A processor pipeline without steps."""

    steps: Sequence[Any] = ()

    def __call__(self, data: Any) -> Any:
        return data

    def reset(self) -> None:
        """Nothing to forget."""


def pose(now_s: float) -> tuple[float, ...]:
    """Where the arm should be: to and fro by 10 degrees."""
    return (10.0 * math.sin(0.5 * now_s), *UP[1:])


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """`processes` processes that infer all the time, on one thread each."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            import torch

            torch.set_num_threads(1)
            thinker = Thinker(0.01)
            while True:
                thinker.think()
        children.append(child)
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def run(
    runner: str, twin: dict[str, Any], rate_hz: float, seconds: float, busy: bool, realtime: bool
) -> dict[str, Any]:
    """Drive the arm for `seconds`: numbers of the first and last goal write that count, and inferences."""
    with load(LOADS if busy else 0):
        return RUNNERS[runner](twin, rate_hz, seconds, realtime)


def _ours(twin: dict[str, Any], rate_hz: float, seconds: float, realtime: bool) -> dict[str, Any]:
    from embodiments.control.client import ControlledArm
    from embodiments.so101.arm_spec import control_spec
    from embodiments.so101.serial_twin.client import TwinClient

    spec = control_spec(
        twin["port"],
        Path(twin["calibration_dir"]) / f"{twin['id']}.json",
        rate_hz=rate_hz,
        realtime_priority=FIFO if realtime else 0,
        approach_speed=80.0,
        park_speed=60.0,
        frame_timeout_us=1_000_000,  # this program infers, and holds its own heartbeat up
    )
    looking, thinker = TwinClient(Path(twin["control"])), Thinker(OUR_ACTION_S)
    thinker.think()
    said: list[str] = []
    with ControlledArm(spec, lambda severity, text: said.append(text)) as arm:
        arm.arm()
        _think_for(arm, thinker, START_S + 2.0)
        first = looking.ask("status")["arms"]["follower"]["goal_writes"]
        before, missed = thinker.inferences, arm.state.counters.missed
        _think_for(arm, thinker, seconds)
        last = looking.ask("status")["arms"]["follower"]["goal_writes"]
        missed = arm.state.counters.missed - missed
    attached = next(text for text in said if "attached" in text)
    return {
        "first": first,
        "last": last,
        "inferences": thinker.inferences - before,
        "missed_by_sender": missed,
        "scheduling": attached.split(", ")[1],
        "stale": sum("RUN -> STALE" in text for text in said),
    }


def _think_for(arm: Any, thinker: Thinker, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        start_us = arm.state.plan_us
        thinker.think()
        actions = [pose(now + k * OUR_ACTION_S) for k in range(OUR_ACTIONS)]
        arm.send_chunk(actions, OUR_ACTION_S, start_us=start_us)
        time.sleep(max(0.0, min(0.2, end - time.monotonic())))


def _lerobot(
    twin: dict[str, Any], rate_hz: float, seconds: float, realtime: bool, rtc: bool
) -> dict[str, Any]:
    from lerobot.rollout.configs import BaseStrategyConfig
    from lerobot.rollout.strategies.base import BaseStrategy

    peer = Peer(twin).raised()
    thinker, stop = Thinker(1.0 / rate_hz), threading.Event()
    thinker.think()
    context = _context(peer.robot, thinker, rate_hz, START_S + seconds, stop, rtc)
    if realtime:  # of the loop; engine and inference threads start without
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(FIFO))
    strategy = BaseStrategy(BaseStrategyConfig())
    strategy.setup(context)
    counted = {"first": 0}

    def look() -> None:
        time.sleep(START_S)
        counted["first"] = peer.twin.ask("status")["arms"]["follower"]["goal_writes"]
        counted["inferences"] = -thinker.inferences

    looking = threading.Thread(target=look)
    looking.start()
    strategy.run(context)
    looking.join()
    last = peer.twin.ask("status")["arms"]["follower"]["goal_writes"]
    scheduling = f"SCHED_FIFO {FIFO}" if os.sched_getscheduler(0) & os.SCHED_FIFO else "plain"
    strategy.teardown(context)
    inferences = counted["inferences"] + thinker.inferences
    return {"first": counted["first"], "last": last, "inferences": inferences, "scheduling": scheduling}


def _context(
    robot: Any, thinker: Thinker, rate_hz: float, duration_s: float, stop: threading.Event, rtc: bool
) -> Any:
    """A rollout context of LeRobot's around a robot that is connected and a policy that is loaded."""
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.processor import make_default_processors
    from lerobot.rollout.inference.rtc import RTCInferenceEngine
    from lerobot.rollout.inference.sync import SyncInferenceEngine
    from lerobot.rollout.robot_wrapper import ThreadSafeRobot
    from lerobot.utils.feature_utils import hw_to_dataset_features

    features = hw_to_dataset_features(robot.observation_features, "observation")
    features |= hw_to_dataset_features(robot.action_features, "action")
    keys = list(robot.action_features)
    wrapper = ThreadSafeRobot(robot)
    _, robot_action_processor, robot_observation_processor = make_default_processors()
    unchanged: Any = Unchanged()
    policy: Any = thinker
    engine: Any
    if rtc:
        engine = RTCInferenceEngine(
            policy, unchanged, unchanged, wrapper, RTCConfig(), features, "hold", rate_hz, "cpu",
            shutdown_event=stop,
        )  # fmt: skip
    else:
        engine = SyncInferenceEngine(
            policy, unchanged, unchanged, features, keys, "hold", "cpu", robot.robot_type
        )
    settings = SimpleNamespace(
        fps=rate_hz,
        duration=duration_s,
        interpolation_multiplier=1,
        use_torch_compile=False,
        display_data=False,
        return_to_initial_position=False,
    )
    return SimpleNamespace(
        runtime=SimpleNamespace(cfg=settings, shutdown_event=stop),
        hardware=SimpleNamespace(robot_wrapper=wrapper, initial_position=None, teleop=None),
        policy=SimpleNamespace(inference=engine),
        processors=SimpleNamespace(
            robot_observation_processor=robot_observation_processor,
            robot_action_processor=robot_action_processor,
        ),
        data=SimpleNamespace(dataset_features=features, ordered_action_keys=keys),
    )


RUNNERS = {
    "hybridpolicy": _ours,
    "lerobot-sync": lambda *given: _lerobot(*given, rtc=False),
    "lerobot-rtc": lambda *given: _lerobot(*given, rtc=True),
}
