"""MuJoCo, imported with a GL backend that works without a screen; one clear error when there is none.

Every module of the twin that needs mujoco takes it from here: the backend is chosen when mujoco is imported.
"""

from __future__ import annotations

import os
import sys

INSTALL_HINT = (
    "install a software GL driver (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri) "
    "and set MUJOCO_GL=egl before Python starts"
)


class RenderingUnavailableError(RuntimeError):
    """No GL context could be made; the message says what to install."""


if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
try:
    import mujoco
except (ImportError, AttributeError, OSError, RuntimeError) as error:
    backend = os.environ.get("MUJOCO_GL")
    raise RenderingUnavailableError(
        f"so101 twin: mujoco cannot load with MUJOCO_GL={backend!r} ({error}); {INSTALL_HINT}"
    ) from error

__all__ = ["INSTALL_HINT", "RenderingUnavailableError", "mujoco"]
