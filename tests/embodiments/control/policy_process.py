"""A policy's process for tests that kill one: `policy_process.py SPEC_FILE MODE`.

Arms, moves to a raised pose, prints RUNNING and the control process's id, and keeps moving there.
MODE `stream` sends single setpoints, `chunk` sends two seconds of motion at a time.
"""

import math
import sys
import time
from pathlib import Path

from embodiments.control.client import ControlledArm
from embodiments.control.spec import ControlSpec

UP = (0.0, -30.0, 40.0, 30.0, 0.0, 30.0)
PERIOD_S = 0.02


def pose(at_s):
    return (10.0 * math.sin(1.5 * at_s), *UP[1:])


def main(spec_file, mode):
    spec = ControlSpec.parse(Path(spec_file).read_text())
    print("STARTING", flush=True)
    with ControlledArm(spec) as arm:
        print(f"STARTED {arm.pid}", flush=True)
        arm.arm()
        began, told = time.monotonic(), False
        while True:
            arm.raise_if_stopped()
            now = time.monotonic() - began
            if mode == "chunk":
                actions = [pose(now + k * 0.1) for k in range(21)]
                arm.send_chunk(actions, 0.1)
                time.sleep(0.5)
            else:
                arm.send(pose(now), PERIOD_S)
                time.sleep(PERIOD_S)
            there = max(abs(a - b) for a, b in zip(arm.state.measured[1:], UP[1:], strict=True)) < 6.0
            if there and not told:
                told = True
                print("RUNNING", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
