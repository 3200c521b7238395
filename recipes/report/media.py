"""Pictures and short videos, encoded so that one html file carries them offline.

T frames, H × W pixels, n future offsets. All pictures are uint8 RGB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]

# Chroma is stored at half size; doubled pixels keep the colour of a one-pixel block edge true.
VIDEO_PIXEL_SCALE = 2
CAMERA_GAP_PIXELS = 1


@dataclass(frozen=True)
class EpisodeClip:
    """One held-out episode as it was seen.

    cameras      name → (T, H, W, 3) uint8, shown side by side in this order; equal T and H
    fps          frames a second of real time
    steps        control steps taken, which may differ from T
    outcome      why it ended, when `success` alone does not say it ("time limit")
    """

    task: str
    instruction: str
    success: bool
    steps: int
    cameras: Mapping[str, Picture]
    fps: float
    outcome: str = ""


@dataclass(frozen=True)
class FutureStrip:
    """What was imagined from one frame, against what happened.

    now             (H, W, 3) uint8
    offsets         n offsets in frames, increasing
    real, imagined  (n, H, W, 3) uint8: the camera, and the decoded imagined latents
    decoded_real    (n, H, W, 3) uint8: decoded real latents, the best the decoder can show; may be absent
    """

    instruction: str
    now: Picture
    offsets: Sequence[int]
    real: Picture
    imagined: Picture
    fps: float
    camera: str = "front"
    decoded_real: Picture | None = None

    def __post_init__(self) -> None:
        rows = {"real": self.real, "imagined": self.imagined, "decoded_real": self.decoded_real}
        wanted = (len(self.offsets), *np.shape(self.now))
        for name, row in rows.items():
            if row is not None and np.shape(row) != wanted:
                raise ValueError(
                    f"strip {self.instruction!r}: {name} has shape {np.shape(row)}, needed is {wanted}: "
                    "one picture of the size of `now` for each offset"
                )


def side_by_side(clip: EpisodeClip) -> Picture:
    """Frames (T, H, sum of W and gaps, 3) uint8 of all cameras, a grey line between neighbours.

    Raises:
        ValueError: no camera, no frame, not uint8 RGB, or T or H differ between cameras.
    """
    shapes = {name: np.shape(frames) for name, frames in clip.cameras.items()}
    problem = f"episode {clip.instruction!r}: cameras have shapes {shapes}; needed is "
    if not shapes or any(len(shape) != 4 or shape[-1] != 3 or 0 in shape for shape in shapes.values()):
        raise ValueError(problem + "at least one camera of (T, H, W, 3) with T ≥ 1")
    if len({shape[:2] for shape in shapes.values()}) != 1:
        raise ValueError(problem + "the same number of frames and the same height for each")
    wrong = {name: str(frames.dtype) for name, frames in clip.cameras.items() if frames.dtype != np.uint8}
    if wrong:
        raise ValueError(
            f"episode {clip.instruction!r}: cameras have dtype {wrong}; needed is uint8 in 0 … 255"
        )
    parts: list[Picture] = []
    for frames in clip.cameras.values():
        if parts:
            parts.append(np.full((*frames.shape[:2], CAMERA_GAP_PIXELS, 3), 128, dtype=np.uint8))
        parts.append(frames)
    return np.concatenate(parts, axis=2)


def encode_mp4(frames: Picture, fps: float) -> bytes:
    """H.264 baseline, yuv420p: the video every browser plays. `frames` (T, H, W, 3) uint8, `fps` in Hz."""
    large = frames.repeat(VIDEO_PIXEL_SCALE, axis=1).repeat(VIDEO_PIXEL_SCALE, axis=2)
    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot hands the encoder's chatter to the terminal
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # One thread: the report is written beside other work, and its bytes must not depend on the machine.
        options = {"profile": "baseline", "preset": "veryfast", "crf": "22", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = large.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in large:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode(None))
    return file.getvalue()


def encode_picture(picture: Picture, *, lossless: bool = True) -> str:
    """A data URI of `picture` (H, W, 3) uint8: PNG, or JPEG where small matters more than exact."""
    file = io.BytesIO()
    if lossless:
        Image.fromarray(picture).save(file, "PNG", optimize=True)
    else:
        Image.fromarray(picture).save(file, "JPEG", quality=70)
    return data_uri("image/png" if lossless else "image/jpeg", file.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """`content` as a URI a page can carry."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class ClipView:
    """An encoded episode, ready for the page."""

    clip: EpisodeClip
    video: str
    poster: str
    width: int
    height: int

    @property
    def num_bytes(self) -> int:
        """Characters it adds to the page, captions aside."""
        return len(self.video) + len(self.poster)


def view_clip(clip: EpisodeClip) -> ClipView:
    """`clip` with its video and first frame as data URIs. Raises as `side_by_side`."""
    frames = side_by_side(clip)
    video = data_uri("video/mp4", encode_mp4(frames, clip.fps))
    height, width = frames.shape[1:3]
    return ClipView(clip, video, encode_picture(frames[0], lossless=False), width, height)


@dataclass(frozen=True)
class StripView:
    """An encoded strip: `rows` is a list of (name, what it is, one data URI per offset)."""

    strip: FutureStrip
    now: str
    rows: list[tuple[str, str, list[str]]]


def view_strip(strip: FutureStrip) -> StripView:
    """`strip` with its pictures as data URIs, without loss."""
    rows = [("Real", "what the camera saw", strip.real)]
    if strip.decoded_real is not None:
        rows.append(("Decoded", "from real latents", strip.decoded_real))
    rows.append(("Imagined", "from imagined latents", strip.imagined))
    encoded = [(name, meaning, [encode_picture(picture) for picture in row]) for name, meaning, row in rows]
    return StripView(strip, encode_picture(strip.now), encoded)


def evenly(count: int, keep: int) -> list[int]:
    """`keep` of the indices 0 … count − 1, first and last among them, evenly spaced."""
    if keep >= count:
        return list(range(count))
    return sorted({int(index) for index in np.linspace(0, count - 1, max(keep, 0)).round()})
