"""Recorded pictures as growing video files, one a camera and shard. Imports no torch and no LeRobot."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

VIDEO_OPTIONS = {"preset": "veryfast", "crf": "16", "g": "2", "bf": "0", "threads": "1"}
VIDEO_CODEC = "h264"
# Full chroma: what a policy must find is a few pixels wide and known by its colour; 4:2:0 costs 6 dB here.
VIDEO_PIXELS = "yuv444p"


class VideoShard:
    """One growing video file of square pictures; frame i is shown at i / fps."""

    def __init__(self, path: str | Path, size: int, fps: int) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream: Any = self._container.add_stream(VIDEO_CODEC, fps, options=VIDEO_OPTIONS)
        self._stream.pix_fmt = VIDEO_PIXELS
        self._stream.width = self._stream.height = size
        self._fps = fps
        self.num_frames = 0

    def append(self, pictures: Sequence[np.ndarray]) -> None:
        """Encode pictures (S, S, 3) uint8."""
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.num_frames
            frame.time_base = Fraction(1, self._fps)
            self.num_frames += 1
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush and finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def count_values(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(3, 256) int64: how often each byte value occurs in each channel of pictures (S, S, 3) uint8."""
    stacked = np.stack(pictures)
    return np.stack([np.bincount(stacked[..., channel].ravel(), minlength=256) for channel in range(3)])
