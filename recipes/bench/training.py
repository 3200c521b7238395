"""Samples a second and memory of one training step, of every coupling and of LeRobot's policies at one size.

Each row runs in a process of its own, whose largest memory is then the row's; rows take turns over rounds,
so that what else the machine does falls on all of them.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.training.allocator import keep_freed_memory
from recipes.bench.latency import LARGE, small_policy
from recipes.bench.peers import CAMERAS, CHUNK, JOINTS, SIZE, TEXT, TEXT_TOKENS, peers
from recipes.bench.work import count_flops
from recipes.commands.failures import CommandError
from recipes.job import peak_memory_mib
from recipes.so101_quickstart import recipe as quickstart

BATCH = 32
WARM_UP = 2  # steps that are not counted
OFFSETS = 3  # now and two futures
COUNTED, COUNTED_BATCH = 64, 2  # steps whose operations are counted, and samples of one
DRAWN = 4000  # steps over which the share of those with a future is taken
LEAST_RATIO = 2.0  # of samples a second to the best peer's, at its size
PEERS = ("lerobot act", "lerobot diffusion", "lerobot smolvla")


def row_names() -> list[str]:
    """A hybrid of every coupling at the peers' size, the peers, and the quickstart's policy."""
    return [*(f"hybrid {name}, 15 M" for name in COUPLINGS), *PEERS, "hybrid joint"]


def _batch(times: int, size: int, frames: torch.dtype) -> dict[str, Any]:
    """A normalised micro-batch of two cameras, six joints and `times` moments; 0: without such an axis.

    frames: as the row's loader gives pictures: ours as bytes, LeRobot's as numbers from 0 to 1.
    """
    rng = torch.Generator().manual_seed(0)
    axis = (times,) if times else ()
    white = 255 if frames == torch.uint8 else 1
    drawn = {name: torch.rand(size, *axis, 3, SIZE, SIZE, generator=rng) for name in CAMERAS}
    images = {f"observation.images.{name}": (white * x).to(frames) for name, x in drawn.items()}
    return images | {
        "observation.state": torch.randn(size, *axis, JOINTS, generator=rng),
        "action": torch.randn(size, CHUNK, JOINTS, generator=rng),
        "action_is_pad": torch.zeros(size, CHUNK, dtype=torch.bool),
        "task": [TEXT] * size,
        "index": torch.arange(size),
        "waypoints": torch.randn(size, len(quickstart().policy.waypoint_offsets), JOINTS, generator=rng),
        "observation.language.tokens": torch.arange(3, 3 + TEXT_TOKENS).expand(size, -1),
        "observation.language.attention_mask": torch.ones(size, TEXT_TOKENS, dtype=torch.bool),
    }


@dataclass(frozen=True)
class Trained:
    """What a row trains.

    needs_future: number of a step → whether its micro-batch holds a future. update: what follows a step.
    times: moments of a micro-batch without a future, and with one. frames: type of its pictures.
    """

    policy: nn.Module
    needs_future: Callable[[int], bool]
    update: Callable[[], None]
    times: tuple[int, int]
    frames: torch.dtype

    def batches(self, size: int = BATCH) -> Callable[[int], dict[str, Any]]:
        """Number of a step → its micro-batch, one of two."""
        kinds = [_batch(times, size, self.frames) for times in self.times]
        return lambda step: kinds[self.needs_future(step)]


def build(name: str) -> Trained:
    """What the row of that name trains, with random weights."""
    if name in PEERS:
        policy = peers(Path(tempfile.mkdtemp()))[name]().train()
        times = 1 if name == "lerobot diffusion" else 0
        return Trained(policy, lambda step: False, lambda: None, (times, times), torch.float32)
    coupling = name.removeprefix("hybrid ").removesuffix(", 15 M")
    recipe = quickstart().policy  # what its users train, but for the loss that only a simulator has
    sizes = LARGE if name.endswith("15 M") else {}
    hybrid = small_policy(coupling=coupling, waypoint_weight=recipe.waypoint_weight, **sizes).train()
    return Trained(hybrid, hybrid.needs_future, hybrid.update, (1, OFFSETS), torch.uint8)


def measure_work(name: str) -> dict[str, float]:
    """What a sample of a row takes, whatever the machine.

    Returns:
        future_share: of its micro-batches, those that hold a future. mflops_per_sample: millions of
        operations, forward and backward, counted in float32; with and without a future in that proportion.
    """
    row = build(name)
    batch = row.batches(COUNTED_BATCH)

    def train(step: int) -> None:
        row.policy.forward(batch(step))[0].backward()

    found: dict[bool, list[int]] = {False: [], True: []}
    for step in range(1 if name in PEERS else COUNTED):  # a peer's steps are all alike
        found[row.needs_future(step)].append(count_flops(partial(train, step), trained=True))
        row.update()
    share = float(np.mean([row.needs_future(step) for step in range(DRAWN)]))
    taken = sum(part * np.mean(found[kind]) for kind, part in ((True, share), (False, 1 - share)) if part)
    return {"future_share": share, "mflops_per_sample": 1e-6 * float(taken) / COUNTED_BATCH}


def measure(name: str, seconds: float, precision: str) -> dict[str, float]:
    """Samples a second of forward, backward, clipping and AdamW on one micro-batch in memory; peak MiB."""
    keep_freed_memory()  # as our trainer does; the peers gain from it too
    row = build(name)
    policy, batch = row.policy, row.batches()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    done, started = 0, time.perf_counter()
    while done < WARM_UP + 3 or time.perf_counter() - started < seconds:
        if done == WARM_UP:
            started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss: Tensor = policy.forward(batch(done))[0]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        row.update()
        done += 1
    rate = (done - WARM_UP) * BATCH / (time.perf_counter() - started)
    return {
        "samples_per_s": rate,
        "peak_memory_mib": peak_memory_mib(),
        "params": sum(p.numel() for p in policy.parameters()),
    }


def measure_apart(name: str, seconds: float, precision: str) -> dict[str, float]:
    """`measure` in a process of its own.

    Raises:
        CommandError: the process failed; its last words are in the message.
    """
    command = [sys.executable, "-m", "recipes.bench.training", name, str(seconds), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"bench train: row {name!r} ended with {done.returncode}: {done.stderr[-800:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def training_table(
    names: Sequence[str],
    seconds: float,
    rounds: int,
    loaders: Mapping[str, float],
    progress: Callable[[], None],
) -> list[dict[str, Any]]:
    """The rows as they are printed; their keys are explained in docs/bench.md.

    Args:
        loaders: samples a second of "hybrid"'s loader, of "hybrid, future"'s where every sample brings its
            future along, and of "lerobot"'s; what is missing leaves `loader_share` None.
    """
    work = {name: measure_work(name) for name in names}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in names:
            for precision in ("bf16", "fp32"):
                found.setdefault((name, precision), []).append(measure_apart(name, seconds, precision))
                progress()
    table = []
    for (name, precision), runs in found.items():
        rate = float(np.median([run["samples_per_s"] for run in runs]))
        loader = _loader_rate(name, work[name]["future_share"], loaders)
        table.append({
            "policy": name, "precision": precision, "params": int(runs[0]["params"]), "batch": BATCH,
            **work[name], "samples_per_s": rate,
            "peak_memory_mib": max(run["peak_memory_mib"] for run in runs),
            "loader_samples_per_s": loader,
            "loader_share": None if loader is None else rate / (rate + loader),  # at most: it loads ahead
        })  # fmt: skip
    peers_best = max((row["samples_per_s"] for row in table if row["policy"] in PEERS), default=None)
    for row in table:
        matched = row["policy"].endswith("15 M") or row["policy"] in PEERS
        ratio = row["samples_per_s"] / peers_best if peers_best and matched else None
        row["ratio_to_best_peer"] = ratio
        if ratio is not None and row["policy"] not in PEERS and row["precision"] == "bf16":
            row["bars"], row["pass"] = {"ratio_to_best_peer": LEAST_RATIO}, ratio >= LEAST_RATIO
    return table


def _loader_rate(name: str, future_share: float, loaders: Mapping[str, float]) -> float | None:
    """Samples a second of what feeds a row: some micro-batches bring futures along, the others do not."""
    if name in PEERS:
        return loaders.get("lerobot")
    if not {"hybrid", "hybrid, future"} <= loaders.keys():
        return None
    return 1.0 / (future_share / loaders["hybrid, future"] + (1.0 - future_share) / loaders["hybrid"])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], float(sys.argv[2]), sys.argv[3])) + "\n")
