"""A program that drives an arm, to be interrupted: `python -m recipes.bench.arm_program SPEC_FILE RUN_S`.

Connects, arms, moves to and fro around a raised pose for RUN_S seconds, parks, disconnects. On standard
output it says what it is about to do, one word a line, and the process id of its control process.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from embodiments.control.client import ControlledArm
from embodiments.control.spec import ControlSpec

UP = (0.0, -30.0, 40.0, 30.0, 0.0, 30.0)
PERIOD_S = 0.02


def say(*words: object) -> None:
    """One line for whoever watches."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """The program."""
    spec = ControlSpec.parse(Path(arguments[0]).read_text())
    run_s = float(arguments[1])
    say("CONNECT")
    with ControlledArm(spec) as arm:
        say("CONTROL", arm.pid)
        arm.arm()
        say("RUN")
        began = time.monotonic()
        up = False
        while (now := time.monotonic() - began) < run_s:
            arm.raise_if_stopped()
            arm.send((10.0 * math.sin(1.5 * now), *UP[1:]), PERIOD_S)
            time.sleep(PERIOD_S)
            if not up and max(abs(a - b) for a, b in zip(arm.state.measured[1:], UP[1:], strict=True)) < 6.0:
                up = True
                say("UP")
        say("PARK")
        arm.park()
        say("DISCONNECT")
    say("END")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
