"""Off-screen pictures of a scene: one GL context per process, shared by every environment in it."""

from __future__ import annotations

import functools

import numpy as np

from embodiments.so101.twin.gl import INSTALL_HINT, RenderingUnavailableError, mujoco
from embodiments.so101.twin.scene import new_model

MAX_SIZE = 640


class SceneRenderer:
    """Draws any model that shares the compiled twin's assets; no shadows, reflections or multisampling."""

    def __init__(self, model: mujoco.MjModel) -> None:
        if not hasattr(mujoco, "GLContext"):
            raise RenderingUnavailableError(
                f"so101 twin: rendering is switched off by MUJOCO_GL; {INSTALL_HINT}"
            )
        try:
            self._gl = mujoco.GLContext(MAX_SIZE, MAX_SIZE)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
            raise RenderingUnavailableError(f"so101 twin: no GL context ({error}); {INSTALL_HINT}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(
        self, model: mujoco.MjModel, data: mujoco.MjData, camera_ids: tuple[int, ...], size: int
    ) -> list[np.ndarray]:
        """One (size, size, 3) uint8 picture per camera id; the geometry is gathered once."""
        if size > MAX_SIZE:
            raise ValueError(f"so101 twin: image size {size} exceeds the renderer's {MAX_SIZE} pixels")
        self._gl.make_current()
        viewport = mujoco.MjrRect(0, 0, size, size)
        pictures = []
        for index, camera_id in enumerate(camera_ids):
            self._camera.fixedcamid = camera_id
            if index == 0:
                everything = mujoco.mjtCatBit.mjCAT_ALL
                mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
            else:
                mujoco.mjv_updateCamera(model, data, self._camera, self._scene)
            mujoco.mjr_render(viewport, self._scene, self._context)
            picture = np.empty((size, size, 3), dtype=np.uint8)
            mujoco.mjr_readPixels(picture, None, viewport, self._context)
            pictures.append(picture[::-1])
        return pictures


@functools.cache
def shared_renderer() -> SceneRenderer:
    """The process's renderer, made on first use."""
    return SceneRenderer(new_model())
