"""How it shall look: one picture per camera of a policy, in a folder, for `Actor.set_goal`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybridpolicy.errors import ConfigurationError


def read_goal(folder: str | Path, cameras: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
    """{camera: (1, H, W, 3) uint8 RGB} from `<camera>.png`, of any size: the policy resizes all it looks at.

    cameras: names the policy looks through. Further files are not looked at.

    Raises:
        ConfigurationError: a camera's picture is missing, or is none.
    """
    found = {name: Path(folder) / f"{name}.png" for name in cameras}
    missing = [path.name for path in found.values() if not path.is_file()]
    if missing:
        there = sorted(path.name for path in Path(folder).glob("*.png"))
        raise ConfigurationError(
            f"goal {folder}: {', '.join(missing)} missing, there is {', '.join(there) or 'no .png'}; the "
            f"policy looks through {', '.join(found)}: give one picture of each, named <camera>.png"
        )
    return {name: _read(path)[None] for name, path in found.items()}


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # SyntaxError: PIL, of a broken PNG
        raise ConfigurationError(
            f"goal {path}: not a picture ({error}); save what the camera shows as PNG"
        ) from error
