"""Decode a dataset's frames once, for training that never waits.

Training does this by itself when it starts. Doing it before lets several runs share the frames: give them
`--set cache_dir=outputs/cache`, and here the size and cameras that `train --dry-run` shows.

Examples:
  hybridpolicy data cache path/to/dataset --size 96 96
  hybridpolicy data cache someone/so101_pick_cube --cameras front wrist --cache-dir outputs/cache
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data cache`."""
    parser.add_argument("dataset", metavar="PATH_OR_ID", help="folder of the dataset, or its Hub id")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: as recorded)")
    parser.add_argument(
        "--cameras", nargs="+", default=[], metavar="NAME", help="cameras to decode (default: all)"
    )
    parser.add_argument("--cache-dir", default="outputs/cache", metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Builds the cache, or finds it built."""
    from hybridpolicy.training.cache import open_cache
    from hybridpolicy.training.decode import resolve_root
    from recipes.commands.data.location import locate
    from recipes.commands.progress import progress

    root = resolve_root(*locate(args.dataset))
    cameras = [name if "." in name else f"observation.images.{name}" for name in args.cameras]
    size = tuple(args.size) if args.size else None
    with progress("decoding", total=1, unit="frames") as bar:
        cache = open_cache(root, Path(args.cache_dir), cameras=cameras, image_size=size, progress=bar.update)
    print(f"{cache.path}: {cache.num_frames} frames of {', '.join(cache.frames)}")
    return 0
