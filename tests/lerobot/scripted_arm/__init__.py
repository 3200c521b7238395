"""A robot type for LeRobot's commands that is all software: six joints that go where they are sent.

It stands where a stranger's robot would: LeRobot finds it by `--plugins.discover_packages_path`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.robots import Robot, RobotConfig

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@RobotConfig.register_subclass("scripted_arm")
@dataclass
class ScriptedArmConfig(RobotConfig):
    """log: file the commands received are written to. joints: their order, as this arm publishes them."""

    log: str = ""
    joints: str = ",".join(JOINTS)


class ScriptedArm(Robot):
    """The arm."""

    config_class = ScriptedArmConfig
    name = "scripted_arm"

    def __init__(self, config: ScriptedArmConfig) -> None:
        super().__init__(config)
        self.config = config
        self._keys = [f"{joint}.pos" for joint in config.joints.split(",")]
        self._pose = dict.fromkeys(self._keys, 10.0)
        self._sent: list[dict[str, float]] = []
        self._connected = False
        self._random = np.random.default_rng(0)

    @property
    def observation_features(self) -> dict:
        return dict.fromkeys(self._keys, float) | {"front": (48, 48, 3), "wrist": (48, 48, 3)}

    @property
    def action_features(self) -> dict:
        return dict.fromkeys(self._keys, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        """Nothing to calibrate."""

    def configure(self) -> None:
        """Nothing to configure."""

    def get_observation(self) -> dict:
        pictures = {
            name: self._random.integers(0, 255, (48, 48, 3), dtype=np.uint8) for name in ("front", "wrist")
        }
        return {**self._pose, **pictures}

    def send_action(self, action: dict) -> dict:
        self._pose = {key: float(action[key]) for key in self._keys}
        self._sent.append(dict(self._pose))
        return action

    def disconnect(self) -> None:
        self._connected = False
        Path(self.config.log).write_text(json.dumps(self._sent))
