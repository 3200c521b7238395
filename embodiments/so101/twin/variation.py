"""What may differ between scenes, and one scene's draw of it.

A layout depends on the seed and the variation alone, never on the task: the same scene can be given any
instruction, which is what the swapped-instruction test needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embodiments.so101.twin.language import COLOURS

NUM_DISTRACTORS = 2
BLOCK_HALF_M = 0.015
ZONE_HALF_M = (0.05, 0.036)  # half extents along x and y
BIN_HALF_M = 0.045  # inner half width
BIN_WALL_M = 0.03  # wall height
ZONES_XY_M = ((0.195, 0.150), (0.195, -0.150))  # left and right, before each scene moves them …
ZONE_SPREAD_M = (0.015, 0.01)  # … by up to this much
BIN_XY_M = ((0.331, 0.337), (-0.05, 0.05))  # where the bin's middle may be
BLOCK_X_M = (0.155, 0.232)
BLOCK_Y_M = (-0.085, 0.085)
BLOCK_GAP_M = 0.075  # least distance between block centres: open jaws fit between
REST_DEG = np.array([0.0, -48.0, 30.0, 82.0, 0.0, 3.0])  # true joints of the rest pose, gripper in percent


@dataclass(frozen=True)
class Variation:
    """Switches of the scene generator; the default is the plain table.

    num_colours: the palette is the first 2..4 of red, green, blue, yellow. num_blocks: (least, most) present.
    joint_offset_deg: each joint's zero is off by up to this much. gripper_scale: the reported gripper is
    scaled by up to this fraction. camera_jitter: 1 moves the cameras by up to 1 cm and 2 degrees.
    light_strength: 0 is one fixed white light, 1 changes colour and brightness strongly. distractors: objects
    that no task names, 0..2.
    """

    num_colours: int = 3
    num_blocks: tuple[int, int] = (2, 2)
    camera_jitter: float = 0.0
    joint_offset_deg: float = 0.0
    gripper_scale: float = 0.0
    distractors: int = 0
    light_strength: float = 0.3

    def __post_init__(self) -> None:
        if not 2 <= self.num_colours <= len(COLOURS):
            raise ValueError(f"variation: num_colours is {self.num_colours}; allowed is 2 to {len(COLOURS)}")
        least, most = self.num_blocks
        if not 2 <= least <= most <= self.num_colours:
            raise ValueError(
                f"variation: num_blocks is {self.num_blocks} with {self.num_colours} colours; allowed is "
                f"2 <= least <= most <= num_colours, so that the scene alone never tells which block is meant"
            )
        if not 0 <= self.distractors <= NUM_DISTRACTORS:
            raise ValueError(
                f"variation: distractors is {self.distractors}; allowed is 0 to {NUM_DISTRACTORS}"
            )
        for name, most_allowed in (
            ("camera_jitter", 2.0),
            ("joint_offset_deg", 10.0),
            ("gripper_scale", 0.3),
            ("light_strength", 1.0),
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= most_allowed:
                raise ValueError(f"variation: {name} is {value}; allowed is 0 to {most_allowed}")

    @property
    def palette(self) -> tuple[str, ...]:
        """Colours that may occur."""
        return COLOURS[: self.num_colours]

    @classmethod
    def randomised(cls) -> Variation:
        """Everything moves: what a policy meant for a real table should see."""
        return cls(4, (2, 3), 1.0, 3.0, 0.1, 2, 0.8)


@dataclass(frozen=True)
class Layout:
    """One drawn scene. Slots follow COLOURS; absent slots have present False and position 0."""

    present: np.ndarray  # (4,) bool
    block_xy: np.ndarray  # (4, 2) m
    block_yaw: np.ndarray  # (4,) rad
    zone_xy: np.ndarray  # (2, 2) m, left then right
    bin_xy: np.ndarray  # (2,) m
    distractor_present: np.ndarray  # (2,) bool
    distractor_xy: np.ndarray  # (2, 2) m
    rest_deg: np.ndarray  # (6,) true joints at the start
    joint_offset: np.ndarray  # (5,) deg added to what the arm reports
    gripper_scale: float
    camera_shift: np.ndarray  # (2, 6) metres and radians, front then wrist
    light_rgb: np.ndarray  # (3,)
    light_direction: np.ndarray  # (3,)
    table_rgb: np.ndarray  # (3,)
    expert_speed: float  # 0.85..1.0, drawn here so that an episode is a function of its seed


def draw_layout(seed: int, variation: Variation) -> Layout:
    """The scene of `seed` under `variation`; equal arguments give equal scenes."""
    rng = np.random.default_rng([seed, 101])
    slots = len(COLOURS)
    count = int(rng.integers(variation.num_blocks[0], variation.num_blocks[1] + 1))
    chosen = rng.permutation(variation.num_colours)[:count]
    present = np.zeros(slots, dtype=bool)
    present[chosen] = True
    distractor_present = np.arange(NUM_DISTRACTORS) < variation.distractors
    points = _spread(rng, count + variation.distractors)
    block_xy = np.zeros((slots, 2))
    block_xy[chosen] = points[:count]
    distractor_xy = np.zeros((NUM_DISTRACTORS, 2))
    distractor_xy[distractor_present] = points[count:]
    azimuth = np.arctan2(block_xy[:, 1], block_xy[:, 0] - 0.0388)
    light = variation.light_strength
    camera_scale = np.array([0.01, 0.01, 0.01, 0.035, 0.035, 0.035]) * variation.camera_jitter
    camera_scale = np.stack([camera_scale, camera_scale * 0.5])
    return Layout(
        present=present,
        block_xy=block_xy,
        block_yaw=azimuth + rng.uniform(-0.2, 0.2, slots),
        zone_xy=np.stack([_near(rng, centre) for centre in ZONES_XY_M]),
        bin_xy=np.array([rng.uniform(*BIN_XY_M[0]), rng.uniform(*BIN_XY_M[1])]),
        distractor_present=distractor_present,
        distractor_xy=distractor_xy,
        rest_deg=REST_DEG + rng.uniform(-1, 1, 6) * np.array([8.0, 3.0, 3.0, 3.0, 6.0, 3.0]),
        joint_offset=rng.uniform(-1, 1, 5) * variation.joint_offset_deg,
        gripper_scale=1.0 + float(rng.uniform(-1, 1)) * variation.gripper_scale,
        camera_shift=rng.uniform(-1, 1, (2, 6)) * camera_scale,
        light_rgb=0.6 * (1.0 + light * rng.uniform(-0.5, 0.4)) * (1.0 + light * rng.uniform(-0.25, 0.25, 3)),
        light_direction=np.array([0.0, 0.0, -1.0]) + light * rng.uniform(-0.6, 0.6, 3) * np.array([1, 1, 0]),
        table_rgb=np.array([0.50, 0.47, 0.44]) * (1.0 + light * rng.uniform(-0.3, 0.3)),
        expert_speed=float(rng.uniform(0.85, 1.0)),
    )


def _near(rng: np.random.Generator, centre: tuple[float, float]) -> np.ndarray:
    return np.array(centre) + rng.uniform(-1, 1, 2) * np.array(ZONE_SPREAD_M)


def _spread(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) points of the block area, pairwise at least BLOCK_GAP_M apart while that fits."""
    points: list[np.ndarray] = []
    gap = BLOCK_GAP_M
    for tried in range(1, 100_000):
        point = rng.uniform((BLOCK_X_M[0], BLOCK_Y_M[0]), (BLOCK_X_M[1], BLOCK_Y_M[1]))
        if all(np.linalg.norm(point - other) >= gap for other in points):
            points.append(point)
        if len(points) == count:
            return np.array(points)
        if tried % 50 == 0:  # a bad start can leave no room: begin again, a little closer
            points, gap = [], gap * 0.97
    raise AssertionError(f"layout: {count} objects found no room at {gap:.4f} m")
