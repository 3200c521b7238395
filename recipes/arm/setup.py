"""What is run: the arm on its port with its calibration and cameras, the policy, the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodiments.control.spec import MAX_RATE_HZ, MIN_RATE_HZ, ControlSpec
from embodiments.feetech.calibration import Calibration
from embodiments.so101.arm_spec import control_spec
from embodiments.so101.constants import MOTORS
from embodiments.so101.serial_twin.paths import CAMERAS, TwinPaths
from hybridpolicy.planner_settings import PlannerSettings
from recipes.arm.errors import CheckFailed
from recipes.arm.policy import Planning

ROBOTS = ("so101", "so100")
FRAME_TIMEOUT_US = 1_000_000  # this process draws and records; it does not infer
SETPOINT_TTL_US = 150_000


@dataclass(frozen=True)
class RunSettings:
    """One run.

    calibration: LeRobot's file; None finds it (see `find_calibration`). cameras: name → LeRobot's camera
    settings; empty takes those of the simulated arm on the port, if it is one. start_pose: where every
    episode begins, in joint units; None begins where the arm is. record: folder of all runs, None for none;
    keep_gb: how much of it may stay. estop_device: a button or pedal, any byte of which is an emergency stop.
    threads: of inference. planner: choose among several chunks, towards the pictures in the folder
    `planner_goal` if it is given, and with `gate` only among those within this arm's limits; where none is,
    the arm stands.
    """

    port: str
    policy: str
    task: str = ""
    robot: str = "so101"
    robot_id: str = "twin"
    calibration: Path | None = None
    cameras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rate_hz: float = 100.0
    imagine: str | None = None
    planner: PlannerSettings | None = None
    planner_goal: str | None = None
    gate: bool = False
    episodes: int = 1
    duration_s: float = 30.0
    start_pose: tuple[float, ...] | None = None
    first_run: bool = False
    record: Path | None = None
    estop_device: Path | None = None
    keep_gb: float = 5.0
    threads: int = 1
    command: str = ""

    def __post_init__(self) -> None:
        if self.robot not in ROBOTS:
            raise CheckFailed(f"robot is {self.robot!r}; allowed is one of {ROBOTS}")
        for name, value, least, most in (
            ("rate", self.rate_hz, MIN_RATE_HZ, MAX_RATE_HZ),
            ("episodes", self.episodes, 1, 10_000),
            ("duration", self.duration_s, 0.5, 3600.0),
            ("keep", self.keep_gb, 0.01, 10_000.0),
            ("threads", self.threads, 1, 256),
        ):
            if not least <= value <= most:
                raise CheckFailed(f"{self.port}: {name} is {value:g}; allowed is {least:g} to {most:g}")
        if self.start_pose is not None and len(self.start_pose) != len(MOTORS):
            raise CheckFailed(
                f"{self.port}: the start pose has {len(self.start_pose)} numbers; give {len(MOTORS)}, for "
                f"{list(MOTORS)}"
            )

    @property
    def twin(self) -> TwinPaths | None:
        """The simulated arm behind the port, if that is what it is."""
        paths = TwinPaths(Path(self.port))
        return paths if paths.control.exists() else None

    def find_calibration(self) -> Path:
        """The given file, else that of the simulated arm, else where LeRobot keeps the one of this id."""
        if self.calibration is not None:
            return self.calibration
        places = [] if self.twin is None else [self.twin.calibration / f"{self.robot_id}.json"]
        if self.twin is None:
            from lerobot.utils.constants import HF_LEROBOT_CALIBRATION, ROBOTS

            places.append(HF_LEROBOT_CALIBRATION / ROBOTS / "so_follower" / f"{self.robot_id}.json")
        for place in places:
            if place.is_file():
                return place
        if not Path(self.port).exists():
            raise CheckFailed(
                f"{self.port}: no such port; plug the arm in and see what `lerobot-find-port` names, or "
                "start a simulated arm with `hybridpolicy arm twin so101`"
            )
        raise CheckFailed(
            f"{self.port}: no calibration of {self.robot_id!r} in {', '.join(map(str, places))}; give --id "
            "as at lerobot-calibrate, or --calibration FILE"
        )

    def find_cameras(self) -> Mapping[str, Mapping[str, Any]]:
        """The given cameras, else those of the simulated arm."""
        if self.cameras or self.twin is None:
            return self.cameras
        frames = {name: self.twin.frames(name) for name in CAMERAS}
        return {n: {"type": "twin", "path": str(path)} for n, path in frames.items() if path.exists()}

    def control_spec(self, journal: Path | None) -> ControlSpec:
        """What the control process is told. CalibrationError for a file that is none."""
        return control_spec(
            self.port,
            Calibration.load(self.find_calibration(), MOTORS),
            first_run=self.first_run,
            rate_hz=self.rate_hz,
            frame_timeout_us=FRAME_TIMEOUT_US,
            setpoint_ttl_us=SETPOINT_TTL_US,
            journal=None if journal is None else str(journal),
        )

    def planning(self) -> Planning | None:
        """What the policy's process is told of planning. CalibrationError as `control_spec`."""
        if self.planner is None:
            return None
        if not self.gate:
            return Planning(self.planner, goal=self.planner_goal)
        # A first run is slowed by the control process; the chunks are what they are.
        spec = dataclasses.replace(self, first_run=False).control_spec(None)
        return Planning(self.planner, spec.limits, self.planner_goal)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
