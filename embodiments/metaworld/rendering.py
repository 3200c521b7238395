"""The corner2 picture of a Meta-World scene at any size.

Stock Meta-World draws 4096-pixel shadow maps, reflections and four samples a pixel at 480x480: about 120 ms
in software OpenGL. Without them, drawn at twice the size and averaged 2x2 (cheaper than multisampling, and it
keeps the few pixels that a gripper pad or a goal marker covers): about 5 ms at 96x96.
"""

import os
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from embodiments.metaworld.simulation import MetaworldSimulation

QUALITIES: tuple[str, ...] = ("fast", "stock")
# View -> (left, top, side) of the square shown, as fractions of LeRobot's full picture.
# "workspace" holds hand, objects and goals of the experts on all mt8 tasks, 1.8 times larger.
VIEWS: dict[str, tuple[float, float, float]] = {"full": (0.0, 0.0, 1.0), "workspace": (0.29, 0.20, 0.56)}
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 1024

_SUPERSAMPLING = 2  # `frame` averages 2x2
_MAX_CONTEXTS = 12  # one holds about 25 MB of textures and meshes; the oldest is freed
_OFF_WHEN_FAST = ("SHADOW", "REFLECTION", "HAZE", "FOG", "SKYBOX")

_thread = threading.local()  # an OpenGL context is current in one thread only


@dataclass(frozen=True)
class RenderSettings:
    """Size in pixels (square), quality and view of the policy's picture."""

    image_size: int = 96
    quality: str = "fast"
    view: str = "full"

    def __post_init__(self) -> None:
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(
                f"metaworld: image_size={self.image_size} pixels; allowed {MIN_IMAGE_SIZE}..{MAX_IMAGE_SIZE}"
            )
        if self.quality not in QUALITIES:
            raise ValueError(f"metaworld: quality={self.quality!r}; allowed {', '.join(QUALITIES)}")
        if self.view not in VIEWS:
            raise ValueError(f"metaworld: view={self.view!r}; allowed {', '.join(VIEWS)}")


class _Canvas:
    """Textures, meshes and framebuffer of one scene file, shared by all its environments."""

    def __init__(self, model: mujoco.MjModel, pixels: int, quality: str) -> None:
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        self.option = mujoco.MjvOption()
        self.camera = mujoco.MjvCamera()
        self.camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.rect = mujoco.MjrRect(0, 0, pixels, pixels)
        self.buffer = np.empty((pixels, pixels, 3), dtype=np.uint8)
        visual, size = model.vis.quality, model.vis.global_
        kept = visual.shadowsize, visual.offsamples, size.offwidth, size.offheight
        size.offwidth = size.offheight = pixels
        if quality == "fast":
            visual.shadowsize = visual.offsamples = 0
            for name in _OFF_WHEN_FAST:
                self.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name}")] = False
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        visual.shadowsize, visual.offsamples, size.offwidth, size.offheight = kept

    def draw(self, simulation: MetaworldSimulation, view: str) -> NDArray[np.uint8]:
        """(pixels, pixels, 3) uint8, upright; a view into a buffer that the next call overwrites."""
        self.camera.fixedcamid = simulation.camera_id
        mujoco.mjv_updateScene(
            simulation.model,
            simulation.data,
            self.option,
            None,
            self.camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self.scene,
        )
        _narrow(self.scene, *VIEWS[view])
        # Each time: canvases share one OpenGL context, and mjr_render draws into the buffer bound last.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self.context)
        mujoco.mjr_render(self.rect, self.scene, self.context)
        mujoco.mjr_readPixels(self.buffer, None, self.rect, self.context)
        # OpenGL rows run upwards and corner2 is mounted upside down: rows are right, columns are mirrored.
        return self.buffer[:, ::-1]


class FrameRenderer:
    """Draws any simulation with one set of settings; cheap to make, contexts are shared within a thread."""

    def __init__(self, settings: RenderSettings) -> None:
        self.settings = settings

    def frame(self, simulation: MetaworldSimulation) -> NDArray[np.uint8]:
        """(image_size, image_size, 3) uint8 RGB, oriented as LeRobot's Meta-World pictures."""
        settings = self.settings
        scale = _SUPERSAMPLING if settings.quality == "fast" else 1
        canvas = _canvas(simulation, settings.image_size * scale, settings.quality)
        drawn = canvas.draw(simulation, settings.view)
        if scale == 1:
            return np.ascontiguousarray(drawn)
        rows = drawn[0::2].astype(np.uint16) + drawn[1::2]
        return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)  # mean of 2x2, rounded


def _narrow(scene: mujoco.MjvScene, left: float, top: float, side: float) -> None:
    """Narrows the camera's frustum to a square part of the picture: a crop, at full resolution."""
    if side == 1.0:
        return
    for camera in scene.camera:
        half = camera.frustum_top  # symmetric and square before
        # The final picture is turned by 180 degrees: its left is the camera's right, its top the bottom.
        camera.frustum_center = half * (1.0 - 2.0 * left - side)
        camera.frustum_width = half * side
        camera.frustum_bottom = half * (2.0 * top - 1.0)
        camera.frustum_top = half * (2.0 * (top + side) - 1.0)


def _canvas(simulation: MetaworldSimulation, pixels: int, quality: str) -> _Canvas:
    if not hasattr(_thread, "canvases"):
        _thread.gl = _make_gl_context()
        _thread.canvases = OrderedDict()
    _thread.gl.make_current()
    canvases: OrderedDict[tuple[str, int, str], _Canvas] = _thread.canvases
    key = (simulation.scene_file, pixels, quality)
    if key not in canvases:
        if len(canvases) >= _MAX_CONTEXTS:
            canvases.popitem(last=False)[1].context.free()
        canvases[key] = _Canvas(simulation.model, pixels, quality)
    canvases.move_to_end(key)
    return canvases[key]


def _make_gl_context() -> Any:
    """MuJoCo's OpenGL context of MUJOCO_GL; EGL where that is unset and no display exists."""
    if "MUJOCO_GL" not in os.environ and sys.platform == "linux" and "DISPLAY" not in os.environ:
        from mujoco.egl import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext(64, 64)  # every canvas has its own framebuffer
