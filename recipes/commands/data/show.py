"""Show what a dataset holds: episodes, rate, cameras, joints, tasks.

Reads the metadata only, so that any size of dataset answers at once.

Examples:
  hybridpolicy data show outputs/quickstart/demonstrations
  hybridpolicy data show path/to/dataset --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybridpolicy.errors import DatasetError

SUPPORTED_FORMAT = "v3."
TASKS_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data show`."""
    parser.add_argument("dataset", metavar="PATH", help="folder of the dataset (it has a folder meta)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the summary."""
    summary = summarise(Path(args.dataset))
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    for name, value in summary.items():
        if not isinstance(value, dict):
            print(f"{name:<10}  {value}")
            continue
        print(name)
        shown = list(value.items())[:TASKS_SHOWN]
        width = max((len(key) for key, _ in shown), default=0)
        for key, text in shown:
            print(f"  {key:<{width}}  {text}")
        if len(value) > TASKS_SHOWN:
            print(f"  and {len(value) - TASKS_SHOWN} more; --json lists all")
    return 0


def summarise(root: Path) -> dict[str, Any]:
    """The dataset in a few JSON values.

    Raises DatasetError where there is no readable LeRobotDataset v3.
    """
    file = root / "meta" / "info.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{root}: no LeRobotDataset here (meta/info.json is missing); give the folder that holds meta/, "
            "or record one with `hybridpolicy data record`"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not JSON ({error}); record or download the dataset again") from error
    version = str(info.get("codebase_version", "none"))
    if not version.startswith(SUPPORTED_FORMAT):
        raise DatasetError(
            f"{root}: dataset format {version}; allowed is v3. Convert it with "
            "`python -m lerobot.scripts.convert_dataset_v21_to_v30`"
        )
    features: dict[str, dict[str, Any]] = info["features"]
    return {
        "dataset": str(root),
        "robot": info.get("robot_type") or "not recorded",
        "length": f"{info['total_episodes']} episodes, {info['total_frames']} frames, {info['fps']} a second",
        "cameras": {
            key: _describe(one) for key, one in features.items() if one["dtype"] in ("video", "image")
        },
        "columns": {
            key: _describe(one) for key, one in features.items() if one["dtype"] not in ("video", "image")
        },
        "tasks": _tasks(root),
    }


def _describe(feature: dict[str, Any]) -> str:
    """`float32 (6,): shoulder_pan.pos, …` of one feature of info.json."""
    names = feature.get("names")
    listed = f": {', '.join(map(str, names))}" if isinstance(names, list) else ""
    return f"{feature['dtype']} ({', '.join(map(str, feature['shape']))}){listed}"


def _tasks(root: Path) -> dict[str, str]:
    """Task texts by task_index; pyarrow alone reads them, pandas and LeRobot would cost seconds."""
    import pyarrow.lib
    import pyarrow.parquet

    file = root / "meta" / "tasks.parquet"
    try:
        table = pyarrow.parquet.read_table(file)
    except FileNotFoundError:
        return {}
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise DatasetError(f"{file}: unreadable ({error}); record or download the dataset again") from error
    texts = next(name for name in table.column_names if name != "task_index")
    pairs = zip(table.column("task_index").to_pylist(), table.column(texts).to_pylist(), strict=True)
    return {str(index): text for index, text in sorted(pairs)}
