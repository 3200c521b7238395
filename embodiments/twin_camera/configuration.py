"""The `twin` camera's configuration, as LeRobot's commands take it.

`--robot.cameras="{front: {type: twin, path: /tmp/…/so101.front.frames}}"`; size and rate are read from the
file unless given, and the size must fit it if given. So the simulated arm must run first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lerobot.cameras.configs import CameraConfig, ColorMode

from embodiments.twin_camera.frames import FrameReader


@CameraConfig.register_subclass("twin")
@dataclass(kw_only=True)
class TwinCameraConfig(CameraConfig):
    """path: the file the simulated arm publishes into. color_mode: order of the channels handed out.

    warmup_s: how long connecting waits for a first fresh frame. FrameFileError (an OSError) without the file.
    """

    path: str
    color_mode: ColorMode = ColorMode.RGB
    warmup_s: float = 5.0

    def __post_init__(self) -> None:
        self.color_mode = ColorMode(self.color_mode)
        if not self.path:
            raise ValueError("twin camera: path is empty; give the file that `hybridpolicy arm twin` prints")
        if None in (self.width, self.height, self.fps):  # a robot's configuration must have all three
            reader = FrameReader(Path(self.path))
            self.width, self.height = self.width or reader.width, self.height or reader.height
            self.fps = self.fps or round(reader.fps)
            reader.close()
        if self.warmup_s <= 0:
            raise ValueError(f"twin camera: warmup_s is {self.warmup_s}; it must be above 0")
