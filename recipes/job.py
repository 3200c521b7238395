"""What every complete job shares: phases, training under a bar, and the facts of a run for its report."""

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from hybridpolicy.errors import ConfigurationError
from hybridpolicy.files import write_json
from hybridpolicy.training.config import TrainConfig
from hybridpolicy.training.run import train_recipe
from hybridpolicy.training.trainer import TrainSummary
from recipes.commands.progress import follow_training


class Phases:
    """Where the minutes of a job went, kept in `path`: run again, a job counts what earlier runs did.

    Without that, a second run, which finds everything recorded and trained, would report one minute.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
        self._spent: dict[str, float] = {"start": time.time() - psutil.Process().create_time()}

    @contextmanager
    def phase(self, name: str, continues: bool = False) -> Iterator[None]:
        """Times the block; `continues` adds to what the same phase took in earlier runs of the job."""
        start = time.perf_counter()
        before = self._earlier.get(name, 0.0) if continues else 0.0
        try:
            yield
        finally:  # what was interrupted took its time, too
            self._spent[name] = before + time.perf_counter() - start
            self._write()

    def at_least(self, name: str, seconds: float) -> None:
        """What `name` is known to have taken over all runs: one that was killed could not say so."""
        self._spent[name] = max(self._spent[name], seconds)
        self._write()

    def _write(self) -> None:
        write_json(self._path, self._earlier | self._spent)

    @property
    def seconds(self) -> list[dict[str, Any]]:
        """The report's `phases`."""
        return [{"name": name, "seconds": spent} for name, spent in self._spent.items()]

    @property
    def wall_s(self) -> float:
        """All phases together, the start of the process included."""
        return sum(self._spent.values())


def train(config: TrainConfig) -> TrainSummary:
    """Trains under a bar for each stage, going on from a checkpoint that is already there."""
    with follow_training() as show:
        return train_recipe(config, show)


def describe_run(config: TrainConfig, summary: TrainSummary) -> dict[str, Any]:
    """The report's facts of a training run: what ran, on what, how fast."""
    last = summary.stages[-1]
    options = [f"coupling {config.policy.coupling}", f"actions by {config.policy.action_law}"]
    if config.policy.objects_weight > 0:
        options.append(
            "a privileged loss on simulated positions of objects, the named one among them (simulation only)"
        )
    return {
        "recipe": config.name,
        "machine": machine(),
        "git": git_revision(),
        "options": options,
        "params": summary.num_parameters,
        "peak_memory_mib": peak_memory_mib(),
        "train": {"samples_per_s": last.samples / last.seconds},
        "train_minutes": summary.seconds / 60.0,
        "train_core_minutes": summary.cpu_seconds / 60.0,
        "stage2": {"samples": last.samples, "seconds": last.seconds},
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
    }


def peak_memory_mib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # rusage begins, in a child, with what its parent held
        held = dict(line.split(":", 1) for line in status.read_text().splitlines())["VmHWM"]
        return float(held.removesuffix("kB")) / 1024.0
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def machine() -> str:
    """Processor, threads, system and Python in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = names[0] if names else name
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' if count > 1 else ''}"
    return f"{name}, {threads}, {platform.system()}, Python {sys.version.split()[0]}"


def git_revision() -> str:
    """Short revision of the code, with a plus where it was changed, or `unknown` outside a checkout."""
    here = Path(__file__).parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True
    )
    return run.stdout.strip() if run.returncode == 0 else "unknown"


def require_same(path: Path, found: Any, made: dict[str, Any]) -> None:
    """Raises `ConfigurationError` if what `path` holds, `found`, was made otherwise than it would be now."""
    different = [name for name, value in made.items() if (found or {}).get(name) != value]
    if different:
        raise ConfigurationError(
            f"{path}: made with other {', '.join(different)}; choose an empty folder, or the settings it was "
            "made with"
        )
