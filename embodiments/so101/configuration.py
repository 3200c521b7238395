"""The guarded SO-101 and SO-100 as LeRobot's command line sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lerobot.robots import RobotConfig
from lerobot.robots.so_follower import SOFollowerRobotConfig

ARM_CHOICES = ("prompt", "auto")
REARM_CHOICES = ("auto", "human")


@RobotConfig.register_subclass("guarded_so101")
@dataclass
class GuardedSO101Config(SOFollowerRobotConfig):
    """LeRobot's SO follower, driven by a control process of its own.

    control_rate_hz: 10 to 200, whatever the rate of the loop above. arm: who consents to torque at connect,
    `prompt` (a person at the terminal) or `auto` (starting the command was the consent). stale_rearm: after a
    pause of the loop above of more than a second, `auto` follows it again, `human` stops it. first_run: a
    third of the speed, half the torque. park_pose: where the arm is brought before it is let go, degrees and
    gripper percent. setpoint_ttl_ms: how long the last action counts, 20 to 255. client_timeout_s: how long
    this process may be silent; inference in the same process holds it up for seconds. log_dir: event logs of
    every connection. estop_device: a button or pedal (a character device or FIFO); any byte read from it is
    an emergency stop.
    """

    control_rate_hz: float = 100.0
    arm: str = "prompt"
    stale_rearm: str = "auto"
    first_run: bool = False
    park_pose: list[float] | None = None
    setpoint_ttl_ms: int = 250
    client_timeout_s: float = 2.0
    log_dir: Path | None = None
    estop_device: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, allowed in (
            ("arm", self.arm, ARM_CHOICES),
            ("stale_rearm", self.stale_rearm, REARM_CHOICES),
        ):
            if value not in allowed:
                raise ValueError(f"{self.type}: {name} is {value!r}; allowed is one of {allowed}")
        if not self.use_degrees:
            raise ValueError(
                f"{self.type}: use_degrees is false; limits are in degrees, so a guarded arm speaks degrees"
            )
        if self.max_relative_target is not None:
            raise ValueError(
                f"{self.type}: max_relative_target is {self.max_relative_target}; a guarded arm is "
                "limited in position, velocity and acceleration instead, so leave it out "
                "(first_run=true is slower)"
            )
        if not self.disable_torque_on_disconnect:
            raise ValueError(
                f"{self.type}: disable_torque_on_disconnect is false; nobody would watch the motors, so a "
                "guarded arm always parks and lets go: leave it out"
            )


@RobotConfig.register_subclass("guarded_so100")
@dataclass
class GuardedSO100Config(GuardedSO101Config):
    """The SO-100: the same motors and the same guard."""
