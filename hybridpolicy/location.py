"""Where a policy is: a folder on this machine, or an id on a hub. Standard library only."""

import re
from pathlib import Path

from hybridpolicy.errors import CheckpointError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_policy(source: str | Path) -> str:
    """`source` as it is given to LeRobot: a `pretrained_model` folder, or a hub id owner/name.

    A mistyped folder is found out here, before anything is loaded: LeRobot would ask the hub for it.

    Raises:
        CheckpointError: a folder without a policy, or neither a folder nor an id.
    """
    folder = Path(source)
    if (folder / "config.json").is_file():
        return str(source)
    if folder.is_dir():
        inside = sorted(folder.glob("**/checkpoints/last/pretrained_model/config.json"))
        hint = f"; did you mean {inside[0].parent}?" if inside else ""
        raise CheckpointError(
            f"{folder}: no policy here (no config.json); give the pretrained_model folder of a "
            f"checkpoint{hint}"
        )
    if _HUB_ID.fullmatch(str(source)) and not Path(str(source).partition("/")[0]).is_dir():
        return str(source)
    raise CheckpointError(
        f"{folder}: no policy here (no such folder); give the pretrained_model folder of a checkpoint, or a "
        "hub id owner/name"
    )
