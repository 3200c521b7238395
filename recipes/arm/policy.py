"""The policy in a process of its own: an observation goes in, a chunk comes out, and never more than one.

The parent never waits for inference, and a policy that breaks, hangs or is killed takes nothing with it.
T actions, A joints.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodiments.control.limits import JointLimits
from hybridpolicy.errors import HybridPolicyError
from hybridpolicy.planner_settings import PlannerSettings
from recipes.arm.child import spawn
from recipes.arm.errors import CheckFailed, PolicyGone

LOAD_S = 180.0  # weights from a slow disk, and LeRobot's imports
END_S = 5.0


class PolicyFacts(NamedTuple):
    """What a policy needs and is.

    cameras: names of the pictures it looks at. state_names, action_names: LeRobot's joint names in order.
    action_mean, action_std: (A,) of its training data, in its own units. max_delay: the longest prefix, in
    actions, that it can be asked to keep (0: it was not trained for real-time chunking). identity: hashes.
    calibration: digest of the one its data was recorded with, where known. brought, absent: entries of its
    optional context that it brings itself, and those that nothing of a run on an arm brings.
    """

    fps: float
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    chunk_size: int
    n_action_steps: int
    max_delay: int
    imagine: str
    identity: dict[str, Any]
    calibration: str | None = None
    brought: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def period_us(self) -> int:
        """Between two actions."""
        return round(1e6 / self.fps)

    @property
    def replan_us(self) -> int:
        """Between two plans."""
        return self.period_us * self.n_action_steps


class Observation(NamedTuple):
    """What the arm and its cameras looked like at one moment.

    number: of the request. plan_us: plan time of that moment (see `embodiments.control.setpoints`); taken_us:
    CLOCK_MONOTONIC of it. delay: whole actions that will be consumed before the chunk arrives.
    """

    number: int
    plan_us: int
    taken_us: int
    state: tuple[float, ...]
    pixels: dict[str, NDArray[np.uint8]]
    task: str
    delay: int = 0


class Plan(NamedTuple):
    """A chunk (T, A) in joint units for the observation with the same number; seconds: what it took.

    held: no candidate of a planner passed its gate; the chunk is to stand.
    """

    number: int
    positions: NDArray[np.float32]
    seconds: float
    imagined: bool
    held: bool = False


@dataclass(frozen=True)
class Planning:
    """The best of several chunks instead of the policy's first: how, within which limits, if any, and towards
    the pictures in which folder (see `recipes.goal_pictures`), if any.
    """

    settings: PlannerSettings
    limits: tuple[JointLimits, ...] = ()
    goal: str | None = None

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Planning:
        """What `to_json` wrote."""
        from hybridpolicy.planner import PlannerSettings

        found = json.loads(text)
        limits = tuple(JointLimits(**one) for one in found["limits"])
        return cls(PlannerSettings(**found["settings"]), limits, found["goal"])


class PolicyProcess:
    """The parent's side. `load` waits; `ask` and `answer` do not."""

    def __init__(
        self, folder: str, imagine: str | None = None, threads: int = 1, planning: Planning | None = None
    ) -> None:
        """Starts loading at once. `threads`: of inference, leaving cores to the arm."""
        arguments = (folder, imagine or "", str(threads), planning.to_json() if planning else "")
        self._process, self._pipe = spawn("recipes.arm.policy", *arguments, threads=threads)
        self._folder = folder
        self._facts: PolicyFacts | None = None
        self.pending: Observation | None = None
        # Large pictures do not fit into the pipe at once: a stopped policy must not hold up whoever asks.
        self._sender = ThreadPoolExecutor(1, "ask-policy")
        self._sending: Future[None] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def load(self) -> PolicyFacts:
        """Waits for the policy; CheckFailed with its own message if it cannot be loaded."""
        if self._facts is not None:
            self.reset()
            return self._facts
        if not self._pipe.poll(LOAD_S):
            raise CheckFailed(f"{self._folder}: the policy has not loaded in {LOAD_S:g} s; look at its disk")
        kind, value = self._receive()
        if kind == "refused":
            raise CheckFailed(str(value))
        facts: PolicyFacts = value
        self._facts = facts
        return facts

    def reset(self) -> None:
        """Another episode begins. An answer that is still on its way is waited for and dropped."""
        if self.pending is not None:
            self.wait(LOAD_S)
        self._send(None)

    def ask(self, observation: Observation) -> None:
        """Plan from `observation`; one at a time."""
        assert self.pending is None, "one plan at a time"
        self.pending = observation
        self._sending = self._sender.submit(self._send, observation)

    def answer(self) -> tuple[Observation, Plan] | None:
        """The plan asked for, once it is there; PolicyGone if the process failed or ended."""
        if self.pending is None:
            if self._process.poll() is not None:
                raise self._gone()
            return None
        try:
            if not self._pipe.poll(0):
                if self._sending is not None and self._sending.done():
                    self._sending.result()
                return None
        except BrokenPipeError as error:
            raise self._gone() from error
        kind, value = self._receive()
        asked, self.pending = self.pending, None
        if kind == "refused":
            raise PolicyGone(f"{self._folder}: no chunk: {value}")
        return asked, value

    def wait(self, timeout_s: float) -> tuple[Observation, Plan]:
        """`answer`, waiting for it; PolicyGone if it does not come."""
        if not self._pipe.poll(timeout_s):
            raise PolicyGone(
                f"{self._folder}: no chunk within {timeout_s:g} s; the policy hangs, start again"
            )
        found = self.answer()
        assert found is not None
        return found

    def close(self) -> None:
        """Ends the process; a second call does nothing."""
        if self._sending is not None and not self._sending.done():
            self._process.kill()
        self._sender.shutdown()
        self._pipe.close()
        try:
            self._process.wait(END_S)
        except (
            subprocess.TimeoutExpired
        ):  # stopped, or deep in a long chunk: nothing of it is needed any more
            self._process.kill()
            self._process.wait()

    def _send(self, message: Observation | None) -> None:
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def _receive(self) -> tuple[str, Any]:
        try:
            answer: tuple[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        return answer

    def _gone(self) -> PolicyGone:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return PolicyGone(f"{self._folder}: the policy's process closed its pipe; start again")
        return PolicyGone(f"{self._folder}: the policy's process ended (code {code}); start again")


# -- the other side ----------------------------------------------------------------------------------------
class _Planner:
    """The policy and what it planned last, in pipeline units."""

    def __init__(self, folder: str, imagine: str | None, threads: int, planning: Planning | None) -> None:
        import torch

        from embodiments.so101.gate import SO101Gate
        from hybridpolicy.evaluation.acting import Actor
        from recipes.goal_pictures import read_goal

        torch.set_num_threads(threads)
        self.actor = Actor.load(folder, imagine)
        self.actor.policy.eval()
        self._plans = planning is not None
        if planning is not None:
            fps = float(self.actor.policy.config.fps or 0.0)
            gate = SO101Gate(fps, planning.limits) if planning.limits else None
            self.actor.set_planner(planning.settings, gate)
            if planning.goal is not None:
                self.actor.set_goal(read_goal(planning.goal, self.actor.policy.config.cameras))
        self._last: tuple[int, Any] | None = None

    def facts(self, folder: str) -> PolicyFacts:
        from hybridpolicy.optional_keys import PAST, QUALITY

        config, policy = self.actor.policy.config, self.actor.policy
        body = policy.embodiment
        own = {PAST} if config.quality is None else {PAST, QUALITY}  # remembered; what is asked for
        return PolicyFacts(
            fps=float(config.fps or 0.0),
            cameras=tuple(config.cameras),
            state_names=tuple(config.state_feature_names or ()),
            action_names=tuple(config.action_feature_names or ()),
            action_mean=tuple(body.action_mean.tolist()),
            action_std=tuple(body.action_std.tolist()),
            chunk_size=config.chunk_size,
            n_action_steps=config.n_action_steps,
            max_delay=config.rtc_max_delay if policy.supports_rtc() else 0,
            imagine=config.imagine,
            identity=_identity(policy, folder),
            calibration=config.calibration,
            brought=tuple(entry for entry in config.optional_context if entry in own),
            absent=tuple(entry for entry in config.optional_context if entry not in own),
        )

    def reset(self) -> None:
        self.actor.reset()
        self._last = None

    def plan(self, observation: Observation) -> Plan:
        import torch

        start = time.perf_counter()
        pixels = {name: picture[None] for name, picture in observation.pixels.items()}
        seen = pixels, np.asarray([observation.state]), [observation.task]
        elapsed, left = self._since_last(observation)
        delay = observation.delay if left is not None else 0
        held = False
        with torch.inference_mode():
            if self._plans:
                proposals, chunk = self.actor.choose(*seen, left_over=left, delay=delay, elapsed=elapsed)
                positions, held = proposals.best(seen[1])[0], bool(proposals.chosen[0] < 0)
            else:
                given = {"inference_delay": delay, "prev_chunk_left_over": left} if delay else {}
                batch = self.actor.batch(*seen)
                chunk = self.actor.policy.predict_action_chunk(batch, elapsed=elapsed, **given)
                positions = self.actor.postprocessor(chunk).float().cpu().numpy()[0]
        self._last = observation.plan_us, chunk
        imagined = bool(self.actor.imagined(1)[0])
        return Plan(observation.number, positions, time.perf_counter() - start, imagined, held)

    def _since_last(self, observation: Observation) -> tuple[int | None, Any]:
        """How many actions ago, in plan time, the last chunk began, and what of it (1, n, A) is left."""
        if self._last is None:
            return None, None
        begun_us, chunk = self._last
        period_us = 1e6 / float(self.actor.policy.config.fps or 1.0)
        done = round((observation.plan_us - begun_us) / period_us)
        left = None if chunk is None else chunk[:, done:]
        return done, left if left is not None and left.shape[1] else None


def _identity(policy: Any, folder: str) -> dict[str, Any]:
    from hybridpolicy.fingerprint import fingerprint

    state = policy.state_dict()
    adapter = {name: tensor for name, tensor in state.items() if "lora_" in name}
    statistics = {name: tensor for name, tensor in state.items() if name.endswith(("_mean", "_std"))}
    return {
        "path": folder,
        "base": policy.base_hash(),
        "adapter": fingerprint(adapter) if adapter else None,
        "weights": fingerprint(state),
        "statistics": fingerprint(statistics),
        "coupling": policy.config.coupling,
        "imagine": policy.config.imagine,
    }


def serve(handle: int, folder: str, imagine: str, threads: str, planning: str) -> None:
    """Entry point of the policy's process: answers until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; its closed pipe ends us
    pipe = Connection(handle)
    try:
        asked = Planning.from_json(planning) if planning else None
        planner = _Planner(folder, imagine or None, int(threads), asked)
        pipe.send(("facts", planner.facts(folder)))
    except (HybridPolicyError, OSError) as error:
        pipe.send(("refused", str(error)))
        return
    while True:
        try:
            request: Observation | None = pipe.recv()
        except (EOFError, OSError):
            return
        if request is None:
            planner.reset()
            continue
        try:
            answer: tuple[str, Any] = ("plan", planner.plan(request))
        except HybridPolicyError as error:
            answer = ("refused", str(error))
        try:
            pipe.send(answer)
        except OSError:
            return
