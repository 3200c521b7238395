"""Where a running twin's port, control channel, frames and calibration are: all beside the port."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

CAMERAS = ("front", "wrist")


def default_link() -> Path:
    """The port's usual name: per user, short enough for a socket's name beside it."""
    return Path(tempfile.gettempdir()) / f"hybridpolicy-{os.getuid()}" / "so101"


class TwinPaths(NamedTuple):
    """Every path of the twin whose port is `link`."""

    link: Path

    @property
    def leader(self) -> Path:
        """The leader arm's port."""
        return self.link.with_name(f"{self.link.name}-leader")

    @property
    def control(self) -> Path:
        """The control channel."""
        return self.link.with_name(f"{self.link.name}.control")

    @property
    def state(self) -> Path:
        """The physics state the camera process draws."""
        return self.link.with_name(f"{self.link.name}.state")

    def frames(self, camera: str) -> Path:
        """What camera `camera` publishes."""
        return self.link.with_name(f"{self.link.name}.{camera}.frames")

    @property
    def calibration(self) -> Path:
        """Folder for calibration files, where none is given."""
        return self.link.with_name(f"{self.link.name}-calibration")
