"""Run a policy on an arm, checked before and watched throughout.

First everything is checked: the policy's rate, joints, units and cameras against the arm's, its calibration,
limits, fresh pictures, and how long a chunk takes. Then the arm's torque is switched on, with your consent,
and the policy leads it: in a process of its own, through the arm's control process, which keeps limits and
deadlines whatever the policy does. At the end the arm is parked and let go.

Keys: SPACE emergency stop, s success, f failure, q end. A policy whose pictures are older than 200 ms is
paused, and goes on by itself. This is no certified safety function: have a switch for the servo supply.

--cameras takes what LeRobot's --robot.cameras takes, under the names the policy looks through:
"{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}".

Examples:
  hybridpolicy arm run --port /dev/ttyACM0 --id mine --policy path/to/policy --task "pick it up" --dry-run
  hybridpolicy arm run --port path/to/twin --policy path/to/policy --task "touch the red block" --arm auto
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from hybridpolicy.couplings import IMAGINE_MODES
from recipes.commands import planning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `arm run`."""
    parser.add_argument("--robot", choices=("so101", "so100"), default="so101", help="default: %(default)s")
    parser.add_argument("--port", required=True, metavar="PATH", help="serial port of the arm")
    parser.add_argument(
        "--policy", required=True, metavar="PATH_OR_ID", help="what training wrote, or a Hub id"
    )
    parser.add_argument("--task", required=True, metavar="TEXT", help="the instruction")
    parser.add_argument("--id", default="twin", help="LeRobot's id of the arm; default: %(default)s")
    parser.add_argument("--calibration", metavar="FILE", help="default: LeRobot's file of this id")
    parser.add_argument(
        "--cameras",
        metavar="YAML",
        help="as LeRobot's --robot.cameras, under the policy's names; default: those of a simulated arm",
    )
    parser.add_argument(
        "--rate", type=float, default=100.0, metavar="HZ", help="of control, 10 to 200; default: %(default)s"
    )
    parser.add_argument("--imagine", choices=IMAGINE_MODES, help="default: what the policy was saved with")
    planning.add_arguments(parser)
    parser.add_argument("--episodes", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--duration", type=float, default=30.0, metavar="S", help="of an episode; default: %(default)s"
    )
    parser.add_argument(
        "--start-pose",
        metavar="SIX",
        help="comma-separated joint values that every episode begins at; default: where the arm is "
        "(a simulated one: where its recordings begin)",
    )
    parser.add_argument("--first-run", action="store_true", help="a third of the speed, half the torque")
    parser.add_argument(
        "--record",
        metavar="DIR",
        default="outputs/runs",
        help="of every run a record is kept there: dataset, events, identity; default: %(default)s",
    )
    parser.add_argument("--no-record", action="store_true", help="keep none")
    parser.add_argument(
        "--estop-device",
        metavar="PATH",
        help="a button or pedal (character device or FIFO); any byte from it is an emergency stop",
    )
    parser.add_argument(
        "--keep", type=float, default=5.0, metavar="GB", help="of records in DIR; default: %(default)s"
    )
    parser.add_argument(
        "--arm",
        choices=("prompt", "auto"),
        default="prompt",
        help="who consents to torque: you at the terminal, or whoever starts this; default: %(default)s",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="of inference; default: %(default)s"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check, plan one chunk, move and energise nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Checks and runs; 0 when every episode ended as planned."""
    import lerobot_policy_hybrid

    lerobot_policy_hybrid.register(everything=True)
    from recipes.arm.launch import consent_at_terminal, run_policy, with_start
    from recipes.arm.view import view_for

    planning.check(args)

    settings = with_start(_settings(args))
    result = run_policy(
        settings,
        view_for(sys.stdout),
        consent=consent_at_terminal if args.arm == "prompt" else None,
        dry_run=args.dry_run,
    )
    if args.dry_run:
        _print_chunk(result)
        return 0
    for episode in result.episodes:
        print(
            f"episode {episode.number + 1}: {episode.reason}, {episode.seconds:.1f} s, {episode.plans} plans"
        )
    if result.folder is not None:
        print(f"record: {result.folder}")
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from recipes.arm.setup import RunSettings
    from recipes.commands.failures import CommandError

    try:
        pose = tuple(float(word) for word in args.start_pose.split(",")) if args.start_pose else None
    except ValueError as error:
        raise CommandError(
            f"--start-pose {args.start_pose!r}: {error}; give six numbers, 0,-48,30,82,0,3"
        ) from error
    return RunSettings(
        port=args.port,
        policy=args.policy,
        task=args.task,
        robot=args.robot,
        robot_id=args.id,
        calibration=Path(args.calibration) if args.calibration else None,
        cameras=_cameras(args.cameras),
        rate_hz=args.rate,
        imagine=args.imagine,
        planner=planning.settings(args),
        planner_goal=args.planner_goal,
        gate=args.gate,
        episodes=args.episodes,
        duration_s=args.duration,
        start_pose=pose,
        first_run=args.first_run,
        record=None if args.no_record else Path(args.record),
        estop_device=Path(args.estop_device) if args.estop_device else None,
        keep_gb=args.keep,
        threads=args.threads,
        command=shlex.join(["hybridpolicy", *sys.argv[1:]]),
    )


def _cameras(text: str | None) -> dict[str, dict[str, Any]]:
    import yaml

    from recipes.commands.failures import CommandError

    if not text:
        return {}
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CommandError(f"--cameras: {error}; write it as LeRobot's --robot.cameras") from error
    if not isinstance(found, dict) or not all(isinstance(camera, dict) for camera in found.values()):
        raise CommandError(f"--cameras {text!r}: write {{name: {{type: opencv, ...}}}}, as --robot.cameras")
    return found


def _print_chunk(result: Any) -> None:
    from embodiments.so101.constants import MOTORS

    assert result.latency is not None
    assert result.facts is not None
    period_ms = result.facts.period_us / 1e3
    print("\nit would send first, in degrees (gripper in percent); nothing was moved:\n")
    print("      ms  " + "".join(f"{name:>15}" for name in MOTORS))
    for row, action in enumerate(result.latency.plan.positions):
        print(f"{row * period_ms:8.0f}  " + "".join(f"{value:15.1f}" for value in action))
