"""Batches per second: this loader against LeRobot's own.

Both read the same dataset, windows and batch size in one process, without workers. The first run also
decodes the frames, which is timed apart.

Examples:
  hybridpolicy bench loader outputs/quickstart/demonstrations
  hybridpolicy bench loader someone/so101_pick_cube --size 96 96 --batch-size 32 --chunk 50
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench loader`."""
    parser.add_argument("dataset", metavar="PATH_OR_ID", help="folder of the dataset, or its Hub id")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="default: %(default)s")
    parser.add_argument(
        "--chunk", type=int, default=8, metavar="T", help="actions a sample; default: %(default)s"
    )
    parser.add_argument(
        "--future",
        type=int,
        nargs="*",
        default=[4, 8],
        metavar="K",
        help="future frames a sample; default: 4 8",
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: as recorded)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured a loader; default: %(default)s")
    parser.add_argument("--cache-dir", default="outputs/cache", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints both rates."""
    from hybridpolicy.training.bench import measure_loader
    from hybridpolicy.training.config import DatasetSource
    from hybridpolicy.training.loader import Window
    from recipes.commands.data.location import locate
    from recipes.commands.failures import CommandError

    if args.seconds <= 0:
        raise CommandError(f"--seconds {args.seconds:g}; measure for more than 0 s")
    root, repo_id = locate(args.dataset)
    measured = measure_loader(
        DatasetSource(root, repo_id),
        Window((0, *args.future), tuple(range(args.chunk))),
        Path(args.cache_dir),
        batch_size=args.batch_size,
        budget_s=args.seconds,
        image_size=tuple(args.size) if args.size else None,
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(measured), indent=2))
        return 0
    print(
        f"this loader     {measured.samples_per_s:10.1f} samples/s (frames ready in {measured.build_s:.1f} s)"
    )
    print(f"LeRobot's own   {measured.lerobot_samples_per_s:10.1f} samples/s")
    print(f"ratio           {measured.ratio:10.1f}")
    return 0
