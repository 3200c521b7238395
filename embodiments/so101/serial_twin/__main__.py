"""The twin for programs: settings as one JSON object, the announcement as one JSON line on standard output.

`python -m embodiments.so101.serial_twin '{"link": "/tmp/arm/so101", "seed": 3}'` runs until its input
is closed: a program that dies takes its twin with it. For people: `hybridpolicy arm twin so101`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from embodiments.so101.serial_twin.process import TwinSettings, run_twin
from embodiments.so101.serial_twin.scene import SceneSpec


def main(arguments: Sequence[str]) -> int:
    """Runs the twin of the given settings."""
    given = json.loads(arguments[0]) if arguments else {}
    for name in ("link", "calibration_dir"):
        if given.get(name) is not None:
            given[name] = Path(given[name])
    if "scene" in given:
        given["scene"] = SceneSpec.from_json(given["scene"])
    settings = TwinSettings(**given)
    run_twin(
        settings,
        lambda found: print(json.dumps(found), flush=True),  # noqa: T201 - the announcement is for a program
        stop_fds=(sys.stdin.fileno(),),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
