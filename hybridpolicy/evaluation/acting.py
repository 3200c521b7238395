"""A trained policy as something that acts: observations in physical units to actions in physical units."""

import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors

from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import CheckpointError, ConfigurationError
from hybridpolicy.gate import Gate
from hybridpolicy.location import find_policy
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.planner import Planner
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors  # noqa: F401  (LeRobot looks it up by name)
from hybridpolicy.stats import p50_p95


@dataclass(frozen=True)
class Proposals:
    """What a planner chose among, for N observations.

    chunks: (N, K, T, A) candidates in physical units. scores: (N, K). chosen: (N,) index of the best, -1
    where a gate let none pass.
    """

    chunks: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray

    def best(self, now: np.ndarray) -> np.ndarray:
        """(N, T, A) the chosen chunks; where none passed, standing at the joints `now` (N, S).

        Raises:
            ConfigurationError: none passed, and the state is not that of the joints that are acted on.
        """
        best = self.chunks[np.arange(len(self.chosen)), self.chosen]
        refused = self.chosen < 0
        if refused.any():
            if now.shape[-1] != best.shape[-1]:
                raise ConfigurationError(
                    f"hybrid: no candidate passed the gate, and a state of {now.shape[-1]} numbers does not "
                    f"say where to stand with {best.shape[-1]} joints; handle Proposals.chosen = -1 yourself"
                )
            best[refused] = now[refused, None]
        return best


def _to_tensor(value: np.ndarray) -> torch.Tensor:
    """Pictures (N, H, W, 3) as (N, 3, H, W); numbers (N, …) as float32."""
    if value.ndim == 4:
        return torch.from_numpy(np.ascontiguousarray(value)).permute(0, 3, 1, 2)
    return torch.from_numpy(np.asarray(value, np.float32))


@dataclass
class Actor:
    """A policy with its pipeline, and a planner if one was set.

    Attributes:
        chunk_seconds: how long each chunk so far took, observation to physical actions.
        goal: (N, V·P, F) latents of pictures a planner plans towards, see `set_goal`.
        playing: (N,) bool, whose plans are counted, as whoever plays sets it; None: all.
        num_planned, num_held: plans of a planner counted so far, and those of which no candidate passed.
    """

    policy: HybridPolicy
    preprocessor: Any
    postprocessor: Any
    chunk_seconds: list[float] = field(default_factory=list)
    playing: np.ndarray | None = None
    num_planned: int = 0
    num_held: int = 0
    goal: torch.Tensor | None = None
    _planned: list[np.ndarray] = field(default_factory=list)
    _planner: Planner | None = None
    _commanded: np.ndarray | None = None  # (N, A) by a planner, last: where to stand, not where it sagged to
    _left_over: torch.Tensor | None = None  # of the planner's last choice, pipeline units

    @classmethod
    def load(cls, folder: str | Path, imagine: str | None = None) -> "Actor":
        """The actor saved in a `pretrained_model` folder (or under a hub id).

        Raises:
            CheckpointError: there is no such policy.
            ConfigurationError: the coupling does not offer `imagine`.
        """
        source = find_policy(folder)
        try:
            with redirect_stdout(sys.stderr):  # LeRobot prints; what our commands print is their answer
                policy = HybridPolicy.from_pretrained(source)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder}: no policy here ({error}); give the pretrained_model folder of a checkpoint"
            ) from error
        # The pipeline was saved with the device of training, which this machine need not have.
        device = {"device_processor": {"device": policy.config.device}}
        pre, post = make_pre_post_processors(
            policy.config, pretrained_path=source, preprocessor_overrides=device
        )
        actor = cls(policy, pre, post)
        if imagine is not None:
            actor.set_imagine(imagine)
        return actor

    def set_imagine(self, imagine: str) -> None:
        """Switches imagination at run time."""
        COUPLINGS[self.policy.config.coupling].check_imagine(imagine)
        self.policy.config.check_threshold(imagine)
        self.policy.config.imagine = imagine

    def set_planner(self, settings: PlannerSettings, gate: Gate | None = None) -> None:
        """From now on chunks are the best of K candidates that `gate` lets pass, one going on with the last.

        Raises:
            ConfigurationError: this policy cannot be planned with, see `check_planner`.
        """
        self._planner = Planner(self.policy.queries, settings, gate)
        self._left_over = self._commanded = None

    def check_rate(self, rate_hz: float) -> None:
        """Raises `ConfigurationError` for another rate than that of training: chunks count frames."""
        trained = self.policy.config.fps
        if trained is not None and abs(trained - rate_hz) > 0.02 * trained:
            raise ConfigurationError(
                f"hybrid: the policy was trained at {trained:g} Hz and is asked to run at {rate_hz:g} Hz; "
                f"its motions would be {rate_hz / trained:.1f} times as fast. Run it at {trained:g} Hz"
            )

    def batch(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Observation → the policy's batch.

        Args:
            pixels: {camera: (N, H, W, 3) uint8}. state: (N, S) physical units. texts: N instructions.
            extra: optional context by its key: observation.<name> (N, S) physical units, goal.<camera key>
                (N, H, W, 3) uint8 or latents (N, P, F).

        Raises:
            CheckpointError: a camera of the policy is not observed.
        """
        cameras = self.policy.config.cameras
        missing = sorted(set(cameras) - set(pixels))
        if missing:
            raise CheckpointError(
                f"hybrid: the policy looks through cameras {sorted(cameras)}, the environment has "
                f"{sorted(pixels)}; missing {missing}. Evaluate it where it was trained, or rename cameras"
            )
        raw: dict[str, Any] = {key: _to_tensor(pixels[name]) for name, key in cameras.items()}
        raw["observation.state"] = torch.from_numpy(np.asarray(state, np.float32))
        raw["task"] = list(texts)
        given = {key: _to_tensor(value) for key, value in (extra or {}).items()}
        raw |= {key: value for key, value in given.items() if key.startswith("observation.")}
        batch = self.preprocessor(raw)
        # LeRobot's pipelines pass on only the keys they know.
        rest = {key: value.to(self.policy.config.device) for key, value in given.items() if key not in raw}
        return {**batch, **rest}

    @torch.inference_mode()
    def chunk(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Returns (N, T, A) actions in physical units."""
        start = time.perf_counter()
        if self._planner is not None:
            proposals, chosen = self.choose(pixels, state, texts, extra, left_over=self._left_over)
            left = None if chosen is None else chosen[:, self.policy.config.n_action_steps :]
            self._left_over = None if left is None or not left.shape[1] else left
            known = self._commanded is not None and len(self._commanded) == len(state)
            result = proposals.best(self._commanded if known else state)
            self._commanded = result[:, self.policy.config.n_action_steps - 1]
            held = proposals.chosen < 0
            counted = np.ones_like(held) if self.playing is None else self.playing
            self.num_planned += int(counted.sum())
            self.num_held += int((held & counted).sum())
        else:
            result = self._physical(self.policy.predict_action_chunk(self.batch(pixels, state, texts, extra)))
        self.chunk_seconds.append(time.perf_counter() - start)
        return result

    def propose(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> Proposals:
        """The planner's candidates, a look that leaves no trace; arguments as of `batch`.

        Raises:
            ConfigurationError: no planner was set, or the goal is of another number of observations.
            QueryError: the policy has no outcome heads to score with, and there is no goal.
        """
        return self.choose(pixels, state, texts, extra, remember=False)[0]

    @torch.inference_mode()
    def choose(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
        *,
        left_over: torch.Tensor | None = None,
        delay: int = 0,
        elapsed: int | None = None,
        remember: bool = True,
    ) -> tuple[Proposals, torch.Tensor | None]:
        """The planner's candidates, and the chosen chunks (N, T, A) in pipeline units, NaN where none passed;
        None where none passed for any observation.

        Args:
            left_over: (N, n, A) pipeline units, what the last choice still holds, NaN where nothing: one
                candidate goes on with it. delay: actions of it that are executed before this choice arrives;
                all candidates keep them. elapsed: control ticks since the last choice; None: n_action_steps.

        Raises: as `propose`.
        """
        if self._planner is None:
            raise ConfigurationError("hybrid: no planner to propose with; call set_planner first")
        since = time.perf_counter()
        with self.policy.look(remember):
            return self._choose(self.batch(pixels, state, texts, extra), since, left_over, delay, elapsed)

    def _choose(
        self,
        batch: dict[str, Any],
        since: float,
        left_over: torch.Tensor | None,
        delay: int,
        elapsed: int | None,
    ) -> tuple[Proposals, torch.Tensor | None]:
        """As `choose`, of a batch; since: when its observation came, which a budget counts from."""
        assert self._planner is not None
        if self._planner.embodiment is not self.policy.embodiment:
            raise ConfigurationError(
                "hybrid: the planner was set for another arm than is active now; call set_planner again"
            )
        context = self.policy.observe(batch, elapsed)
        body, device, warm, committed = self.policy.embodiment, context.latents.device, None, None
        if left_over is not None and len(left_over) == context.size:
            warm = body.to_network(left_over, context.state)
            committed = self.policy.committed(left_over, delay, context) if delay else None
            if committed is not None and not bool(committed.isfinite().all()):
                raise ConfigurationError(
                    "hybrid: some of these arms go on with their last plan and some stand, so not all can "
                    f"keep the {committed.shape[1]} actions that are executed meanwhile; plan for each apart"
                )
        goal = self.goal
        if goal is not None:
            if len(goal) not in (1, context.size):
                raise ConfigurationError(
                    f"hybrid: goal pictures for {len(goal)} observations, and there are {context.size}; give "
                    "one for each, or one for all"
                )
            goal = goal.expand(context.size, -1, -1)
        plan = self._planner.plan(
            context, lambda count: self.policy.acting_noise(count, device),
            warm=warm, committed=committed, since=since, goal=goal,
        )  # fmt: skip
        count = plan.candidates.shape[1]
        now = None if context.state is None else context.state.repeat_interleave(count, dim=0)
        chunks = self._physical(body.to_pipeline(plan.candidates.flatten(0, 1), now))
        best = body.to_pipeline(plan.chunk, context.state)
        return Proposals(
            chunks.reshape(-1, count, *chunks.shape[1:]), plan.scores.cpu().numpy(), plan.chosen.cpu().numpy()
        ), None if bool((plan.chosen < 0).all()) else best

    def set_goal(self, pixels: dict[str, np.ndarray] | None) -> None:
        """From now on a planner prefers what is imagined to look like these pictures (N, H, W, 3), one for
        every observation, or one for all; None: what the outcome heads think of most.
        """
        self.goal = None
        if pixels is not None:
            count = len(next(iter(pixels.values())))
            state = self.policy.embodiment.state_mean.cpu().numpy()[None].repeat(count, axis=0)
            sample = present(self.batch(pixels, state, [""] * count), self.policy.config)
            with torch.no_grad():
                self.goal = self.policy.network.encode_context(sample, self.policy.embodiment).latents

    @property
    def planning(self) -> dict[str, float] | None:
        """Of the planner so far: {"plans", "held" (of them none passed), "mean_candidates"}; None without."""
        if self._planner is None or not self._planner.num_plans:
            return None
        mean = self._planner.num_candidates / self._planner.num_plans
        return {"plans": self.num_planned, "held": self.num_held, "mean_candidates": mean}

    def _physical(self, chunk: torch.Tensor) -> np.ndarray:
        physical: np.ndarray = self.postprocessor(chunk).float().cpu().numpy()
        return physical

    def imagined(self, count: int) -> np.ndarray:
        """(N,) bool: the last plan of each of `count` observations was made with an imagined future."""
        last = self.policy.last_imagined
        return np.ones(count, bool) if self._planner is not None else last.cpu().numpy()

    def reset(self) -> None:
        """Forgets planned actions: the next observation is of another episode."""
        self.policy.reset()
        self._planned.clear()
        self._left_over = self._commanded = self.playing = None

    @property
    def doubt(self) -> np.ndarray | None:
        """(N,) what decides whether the last plan was made with a future; None where nothing does."""
        return None if self.policy.last_doubt is None else self.policy.last_doubt.cpu().numpy()

    @property
    def queued(self) -> int:
        """Planned actions not yet taken."""
        return len(self._planned)

    def plan(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Plans a chunk and queues its first `n_action_steps` actions."""
        chunk = self.chunk(pixels, state, texts, extra)
        self._planned = [chunk[:, ahead] for ahead in range(self.policy.config.n_action_steps)]

    def next_action(self) -> np.ndarray:
        """The next queued action (N, A) in physical units."""
        return self._planned.pop(0)

    def measure_latency(
        self, pixels: dict[str, np.ndarray], state: np.ndarray, text: str, repeats: int = 60
    ) -> dict[str, float]:
        """Milliseconds from one observation to one physical chunk, {"p50", "p95"}, after five warm-ups."""
        self.policy.eval()
        kept = self.chunk_seconds
        self.chunk_seconds = []
        for _ in range(repeats + 5):
            self.chunk({name: frame[:1] for name, frame in pixels.items()}, state[:1], [text])
        figures = p50_p95([1e3 * seconds for seconds in self.chunk_seconds[5:]])
        self.chunk_seconds = kept
        return figures
