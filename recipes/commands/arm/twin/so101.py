"""Start a simulated SO-101 on a serial port.

The port is a pseudo-terminal with six simulated STS3215 servos behind it, accurate to the byte: LeRobot's own
driver, lerobot-calibrate, -teleoperate, -record, -replay and -rollout run on it as on the arm. It has weight,
and falls without torque. Its owner's calibration errors follow from --seed; LeRobot's calibration file is
written to match. The cameras are LeRobot cameras of type `twin`. Runs until Ctrl-C.

Examples:
  hybridpolicy arm twin so101
  hybridpolicy arm twin so101 --seed 3 --leader
  hybridpolicy arm twin so101 --scene-seed 7 --task push --clock sim --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `arm twin so101`."""
    parser.add_argument(
        "--link", metavar="PATH", help="name of the port (default: under your own folder in /tmp)"
    )
    parser.add_argument("--seed", type=int, default=0, help="whose arm: mounting and calibration errors")
    parser.add_argument(
        "--calibration-dir",
        metavar="DIR",
        help="where LeRobot's calibration file goes (default: by the port)",
    )
    parser.add_argument("--id", default="twin", help="LeRobot's id of the arm; default: %(default)s")
    parser.add_argument(
        "--error-deg", type=float, default=3.0, metavar="DEG", help="calibration error; default: %(default)s"
    )
    parser.add_argument("--leader", action="store_true", help="a leader arm, too, on a port of its own")
    parser.add_argument("--scene-seed", type=int, default=0, metavar="N", help="what lies on the table")
    parser.add_argument("--task", metavar="FAMILY", help="judge a task: touch, push, bin, absent, two_stage")
    parser.add_argument("--no-cameras", action="store_true", help="without pictures; needs no GL driver")
    parser.add_argument(
        "--size", type=int, default=96, help="pixels of a picture's side; default: %(default)s"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="pictures a second; default: %(default)s")
    parser.add_argument(
        "--clock", choices=("wall", "sim"), default="wall", help="sim: time passes on command only"
    )
    parser.add_argument(
        "--torque-on",
        choices=("hold", "old_goal"),
        default="hold",
        help="when torque comes on: hold, or go to the goal it remembers (not known of real servos)",
    )
    parser.add_argument("--no-realtime", action="store_true", help="do not ask for real-time priority")
    parser.add_argument("--json", action="store_true", help="print what to connect to as JSON")


def run(args: argparse.Namespace) -> int:
    """Serves the arm until Ctrl-C."""
    from embodiments.so101.serial_twin.paths import default_link
    from embodiments.so101.serial_twin.process import TwinSettings, run_twin
    from embodiments.so101.serial_twin.scene import SceneSpec

    settings = TwinSettings(
        link=Path(args.link).absolute() if args.link else default_link(),
        seed=args.seed,
        calibration_dir=Path(args.calibration_dir).absolute() if args.calibration_dir else None,
        calibration_id=args.id,
        error_deg=args.error_deg,
        leader=args.leader,
        cameras=not args.no_cameras,
        size=args.size,
        fps=args.fps,
        clock=args.clock,
        torque_on=args.torque_on,
        realtime=not args.no_realtime,
        scene=SceneSpec(args.scene_seed, args.task),
    )
    run_twin(settings, _print_json if args.json else _print_text)
    return 0


def _print_json(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def _print_text(found: Mapping[str, Any]) -> None:
    print(f"port         {found['port']}")
    if "leader" in found:
        print(f"leader port  {found['leader']['port']}")
    for name, path in found["cameras"].items():
        print(f"camera       {name}: {path}")
    print(f"control      {found['control']}")
    print(f"runs with    {found['scheduling']} scheduling")
    print("\nLeRobot's own tools connect with:\n")
    print(
        f"  --robot.type=so101_follower --robot.port={found['port']} --robot.id={found['id']} \\\n"
        f"  --robot.calibration_dir={found['calibration_dir']}",
        end="",
    )
    if found["cameras"]:
        cameras = ", ".join(
            f"{name}: {{type: twin, path: {path}}}" for name, path in found["cameras"].items()
        )
        print(f' \\\n  --robot.cameras="{{{cameras}}}"', end="")
    if "leader" in found:
        print(
            f" \\\n  --teleop.type=so101_leader --teleop.port={found['leader']['port']} "
            f"--teleop.id={found['id']} \\\n  --teleop.calibration_dir={found['leader']['calibration_dir']}",
            end="",
        )
    print("\n\nCtrl-C ends it.", flush=True)
