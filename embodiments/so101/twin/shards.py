"""Worker side of recording: play episodes, encode their pictures, hand the small columns back.

A shard is a run of episodes that share one video file per camera. What a shard holds depends on its request
alone, so a dataset is the same for any number of workers. Imports no torch and no LeRobot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.episode_record import EpisodeColumns, EpisodeRecord
from embodiments.so101.twin.play import PlayController
from embodiments.so101.twin.scenario import Scenario, make_scenario, swap
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.workers import serve
from embodiments.video_shard import VideoShard

DEMONSTRATION_SEEDS = 1_000_000_000  # scene seeds of recordings start here; evaluation stays below
PLAY_SEEDS = 5_000_000_000
COLLECTION_SEEDS = 200_000_000  # up to DEMONSTRATION_SEEDS: scenes a policy is let loose on to learn from
SEEDS_PER_SHARD = 100_000
TAIL_TICKS = 3  # recorded after success: the expert goes on past the boundary of success
# Kept of a demonstration of holding still. All its frames show the rest pose, where other demonstrations
# spend one tick: kept whole, most of what is ever shown there is holding, and a policy learns to hold always.
HOLDING_TICKS = 5
# Before a share of the demonstrations the arm is already under way to another block when it is told the
# task. From the rest pose alone, where the arm is heading gives the named block away, and a policy learns to
# read the arm instead of the instruction.
INTERRUPTED_SHARE, INTERRUPTED_TICKS = 0.6, (2, 12)
PLAY_TASK = "play"


@dataclass(frozen=True)
class NoiseSettings:
    """Bursts of action noise that knock the arm off the expert's path; the expert's action stays the label.

    start_probability: per tick without contact. max_ticks: longest burst. The others are amplitudes.
    """

    start_probability: float = 0.06
    max_ticks: int = 3
    joint_deg: float = 6.0
    gripper_percent: float = 8.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_probability <= 1.0 or self.max_ticks < 1:
            raise ValueError(
                f"noise: start_probability {self.start_probability} must be 0 to 1, "
                f"max_ticks {self.max_ticks} at least 1"
            )


@dataclass(frozen=True)
class ShardRequest:
    """What to record into one video file per camera."""

    index: int
    seed: int
    kind: str  # "demonstration" or "play"
    families: tuple[str, ...]
    weights: tuple[float, ...]
    variation: Variation
    image_size: int
    noise: NoiseSettings
    play_ticks: int
    video_paths: tuple[str, ...]  # one per camera


class ShardRecorder:
    """Records the episodes of one shard, one `record` at a time."""

    def __init__(self, request: ShardRequest) -> None:
        self._request = request
        self._episode = Episode(request.image_size)
        self._videos = [VideoShard(path, request.image_size, c.TWIN_RATE_HZ) for path in request.video_paths]
        self._attempt = 0

    def record(self) -> EpisodeRecord:
        """Play one attempt. A failed one comes back with `success` False and leaves nothing in the video."""
        request = self._request
        first = PLAY_SEEDS if request.kind == "play" else DEMONSTRATION_SEEDS
        scene_seed = first + (request.seed * 10_000 + request.index) * SEEDS_PER_SHARD + self._attempt
        self._attempt += 1
        rng = np.random.default_rng([scene_seed, 505])
        family = "touch" if request.kind == "play" else str(rng.choice(request.families, p=request.weights))
        self._episode.start(make_scenario(scene_seed, family, request.variation))
        if request.kind == "play":
            record, pictures = self._play(scene_seed)
        else:
            record, pictures = self._demonstrate(self._episode.scenario, rng)
        if record.success:
            for video, camera_pictures in zip(self._videos, pictures, strict=True):
                video.append(camera_pictures)
        return record

    def close(self) -> None:
        """Finish the video files."""
        for video in self._videos:
            video.close()

    def _demonstrate(
        self, scenario: Scenario, rng: np.random.Generator
    ) -> tuple[EpisodeRecord, list[list[np.ndarray]]]:
        columns = EpisodeColumns()
        if scenario.family != "absent" and rng.random() < INTERRUPTED_SHARE:
            self._interrupt(scenario, rng)
        burst = _NoiseBurst(self._request.noise, rng)
        tail = TAIL_TICKS
        while tail >= 0 and not (self._episode.truncated and not self._episode.success):
            action = self._episode.expert_action()
            columns.add_now(self._episode, action)
            calm = scenario.family == "absent" or self._episode.success
            touching = bool(self._episode.simulation.table_state().touching.any())
            self._episode.advance(action if calm else action + burst.draw(allowed=not touching))
            tail -= int(self._episode.success)
        if scenario.family == "absent":
            columns.keep_first(HOLDING_TICKS)
        named, success = scenario.task.slot, self._episode.success
        return columns.finish(success, scenario.family, scenario.instruction, named, keep=success)

    def _interrupt(self, scenario: Scenario, rng: np.random.Generator) -> None:
        """Lets the expert go for another block for a moment, unrecorded, then gives it `scenario`."""
        other = swap(scenario, "colour").task
        for _ in range(int(rng.integers(*INTERRUPTED_TICKS))):
            self._episode.advance(self._episode.expert_action(other))
        self._episode.restart_task()

    def _play(self, seed: int) -> tuple[EpisodeRecord, list[list[np.ndarray]]]:
        columns = EpisodeColumns()
        controller = PlayController(seed)
        simulation = self._episode.simulation
        for _ in range(self._request.play_ticks):
            action = simulation.true_to_reported(controller.action(simulation.table_state())).astype(
                np.float32
            )
            columns.add_now(self._episode, action)
            simulation.tick(action)
        return columns.finish(True, PLAY_TASK, PLAY_TASK, named=None)


class _NoiseBurst:
    def __init__(self, settings: NoiseSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._left = 0
        self._offset = np.zeros(c.NUM_JOINTS)

    def draw(self, *, allowed: bool) -> np.ndarray:
        """Offset (6,) for this tick; a burst begins only where `allowed`."""
        settings = self._settings
        begins = self._rng.random() < settings.start_probability
        if self._left == 0 and begins and allowed:
            self._left = int(self._rng.integers(1, settings.max_ticks + 1))
            scale = np.append(np.full(c.NUM_JOINTS - 1, settings.joint_deg), settings.gripper_percent)
            self._offset = self._rng.uniform(-1, 1, c.NUM_JOINTS) * scale
        if self._left == 0:
            return np.zeros(c.NUM_JOINTS)
        self._left -= 1
        return self._offset


def shard_worker(handle: int) -> None:
    """Entry point of a worker process that records shards."""
    recorder: ShardRecorder | None = None

    def answer(name: str, *arguments: Any) -> EpisodeRecord | None:
        nonlocal recorder
        if name == "open":
            recorder = ShardRecorder(*arguments)
            return None
        assert recorder is not None
        if name == "record":
            return recorder.record()
        recorder.close()
        return None

    serve(handle, answer)
