"""Fit what a policy needs to be dreamt in; once per checkpoint.

Decoders from its latents to pictures, and, if the recordings say where objects are, a probe that reads it off
the latents, by which episodes are judged. Both go into the folder `dream` of the checkpoint.

Examples:
  hybridpolicy dream fit --policy path/to/pretrained_model --dataset outputs/quickstart/data/demonstrations
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `dream fit`."""
    parser.add_argument("--policy", required=True, metavar="DIR", help="a pretrained_model folder")
    parser.add_argument("--dataset", required=True, metavar="DIR", help="recordings of the same arm")
    parser.add_argument("--held-out", type=int, default=40, metavar="N", help="last episodes, not fitted on; "
                        "default: %(default)s")  # fmt: skip
    parser.add_argument("--steps", type=int, default=1500, help="of each decoder; default: %(default)s")
    parser.add_argument("--cache-dir", default="outputs/cache", metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Prints how well positions are read and episodes judged, as JSON."""
    from recipes.commands.progress import progress
    from recipes.twin.dream import fit_dream

    kit = fit_dream(
        Path(args.policy), Path(args.dataset), Path(args.cache_dir), args.held_out, args.steps, progress
    )
    probe = None if kit.probe is None else {"r2": kit.probe.r2, "judge": kit.probe.judge, **kit.probe.judged}
    print(json.dumps({"cameras": sorted(kit.decoders), "probe": probe}, indent=2))
    return 0
