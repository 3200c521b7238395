"""A study: variants of one recipe at equal samples, several seeds, the same held-out scenes, one table.

study.json is written after every cell (a variant with a seed) and holds all of them; run again, a study goes
on with those missing. A committed study.json, put into an empty output folder, is gone on with the same way.
Cells are trained side by side, a process and a thread for each core: small networks gain little from a second
thread. What a cell prints is in log.txt beside its checkpoints.
"""

import contextlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embodiments.so101.twin.scenario import Scenario
from embodiments.so101.twin.variation import Variation
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.calibration import calibrate_imagination
from hybridpolicy.files import write_json
from hybridpolicy.stats import mean_over_runs, paired_rates
from hybridpolicy.training.config import TrainConfig, encode_recipe
from recipes.job import git_revision, machine, train
from recipes.twin import suites
from recipes.twin.job import Budget, record, world_figures


@dataclass(frozen=True)
class Variant:
    """One way to train. `factors` says what it is; two variants that differ in one factor are compared."""

    factors: dict[str, str]
    config: TrainConfig

    @property
    def name(self) -> str:
        return "_".join(f"{factor}-{level}" for factor, level in self.factors.items())


def check_base(config: TrainConfig, recipe: TrainConfig, varied: Sequence[str]) -> None:
    """Raises ConfigurationError where `config` differs from its `recipe` in what the study varies itself.

    varied: fields of `policy`; stages are varied, too.
    """
    changed = [f"policy.{x}" for x in varied if getattr(config.policy, x) != getattr(recipe.policy, x)]
    if len(config.stages) != len(recipe.stages):
        changed.append("stages")
    if changed:
        raise ConfigurationError(
            f"study {recipe.name!r}: {' and '.join(changed)} set, which the study varies; leave it out, or "
            "train one with another recipe, such as so101_quickstart"
        )


def run_study(
    title: str,
    command: str,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    output: Path,
    budget: Budget,
    variation: Variation,
    progress: Any,
    workers: int | None = None,
) -> Path:
    """Trains and evaluates every cell that is not there yet; returns the path of study.json.

    Args:
        workers: cells at a time; default: as many as there are cores. A cell that fails ends the study once
            those beside it are done.

    Raises:
        ConfigurationError: the variants see different numbers of samples, or study.json is of another study.
    """
    totals = {variant.name: variant.config.total_samples for variant in variants}
    if len(set(totals.values())) != 1:
        raise ConfigurationError(f"study {title!r}: variants see {totals} samples; make them equal")
    path = output / "study.json"
    head = {"title": title, "command": command, "samples": next(iter(totals.values()))}
    jobs = {variant.name: _Job(variant, output, budget, variation) for variant in variants}
    cells = _read_cells(path, head, jobs)
    record(output / "data", budget, variation, 0, progress)
    missing = [(jobs[variant.name], seed) for seed in seeds for variant in variants
               if seed not in cells[variant.name]]  # fmt: skip
    with progress("cells", len(variants) * len(seeds), "cells", start=sum(map(len, cells.values()))) as bar:
        for name, seed, found in _measure(missing, workers or os.cpu_count() or 1, progress):
            cells[name][seed] = found
            _write(path, head, variants, cells)
            bar.advance(1, f"{name}, seed {seed}")
    if not missing:
        _write(path, head, variants, cells)  # what is said of the cells may be new
    return path


@dataclass(frozen=True)
class _Job:
    """A variant and what it is measured on. git: the revision of the code when the study began."""

    variant: Variant
    output: Path
    budget: Budget
    variation: Variation
    git: str = field(default_factory=git_revision)

    @cached_property
    def recipe(self) -> str:
        """SHA-256 of all of it but the folder: what differs in it is not the same cell."""
        told = [encode_recipe(self.variant.config), asdict(self.budget), asdict(self.variation)]
        return sha256(json.dumps(told).replace(str(self.output), "").encode()).hexdigest()


def _measure(
    missing: Sequence[tuple[_Job, int]], workers: int, progress: Any
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every missing cell as it is measured, `workers` at a time."""
    waiting = deque(missing)
    running: dict[Future[dict[str, Any]], tuple[str, int]] = {}
    failure: BaseException | None = None
    with ProcessPoolExecutor(
        max(1, min(workers, len(missing))), multiprocessing.get_context("spawn")
    ) as pool:
        while running or (waiting and failure is None):
            while waiting and failure is None and len(running) < workers:
                job, seed = waiting.popleft()
                running[pool.submit(_cell, job, seed, progress)] = job.variant.name, seed
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name, seed = running.pop(done)
                failure = done.exception() or failure
                if done.exception() is None:
                    yield name, seed, done.result()
    if failure is not None:
        raise failure


IMAGINE_RATE = 0.2  # of plans, asked for with on_uncertainty
CALIBRATION_SEED = 1_000_000  # its scenes are not those of evaluation
_Cells = dict[str, dict[int, dict[str, Any]]]  # variant's name → seed → what was measured


def _read_cells(path: Path, head: dict[str, Any], jobs: dict[str, _Job]) -> _Cells:
    """The cells of a study.json that is there already."""
    cells: _Cells = {name: {} for name in jobs}
    if not path.is_file():
        return cells
    study = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in head if study.get(name) != head[name]]
    if different or "cells" not in study:
        raise ConfigurationError(
            f"{path}: another study's ({', '.join(different) or 'it holds no cells'}); choose an empty folder"
        )
    for name, job in jobs.items():
        found = study["cells"].get(name, [])
        if any(cell["recipe"] != job.recipe for cell in found):
            raise ConfigurationError(
                f"{path}: {name} was measured with another recipe than it would be now; choose an empty "
                "folder"
            )
        cells[name] = {int(cell["seed"]): cell for cell in found}
    return cells


def _write(path: Path, head: dict[str, Any], variants: Sequence[Variant], cells: _Cells) -> None:
    """The table of what is there, whole or not at all."""
    begun = [variant for variant in variants if cells[variant.name]]
    pairs = [
        (first, second, factor)
        for first, second, factor in _pairs(begun)
        if cells[first.name].keys() & cells[second.name].keys()
    ]
    study = head | {
        "machine": machine(),
        "git": sorted({cell["git"] for found in cells.values() for cell in found.values()}),
        "seeds": sorted({seed for found in cells.values() for seed in found}),
        "missing": [variant.name for variant in variants if not cells[variant.name]],
        "variants": [_row(variant, _in_order(cells[variant.name])) for variant in begun],
        "effects": [_effect(*pair, cells) for pair in pairs],
        "cells": {variant.name: _in_order(cells[variant.name]) for variant in begun},
    }
    write_json(path, study)


def _in_order(found: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [found[seed] for seed in sorted(found)]


def _cell(job: _Job, seed: int, progress: Any) -> dict[str, Any]:
    """What one variant trained with one seed can do; in a process of its own, on one thread."""
    torch.set_num_threads(1)
    variant, budget, variation = job.variant, job.budget, job.variation
    folder = job.output / "cells" / variant.name / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        policy = replace(variant.config.policy, seed=seed)
        config = replace(variant.config, seed=seed, policy=policy, output_dir=str(folder / "train"))
        summary = train(config)
        actor = Actor.load(summary.policy_path)
        drawn = suites.draw_suites(budget.success, budget.swapped, 0, 0, 0, variation)
        normal, imagine = _play_modes(actor, summary.policy_path, drawn.success, progress)
        with progress("swapped", budget.swapped, "episodes") as bar:
            swapped = suites.play(actor, drawn.swapped, workers=0, progress=bar.update)
        world = world_figures(actor, config, budget) if _has_world(actor) else None
    return {
        "seed": seed,
        "network": variant.config.policy.network,
        "outcomes": [int(played.success[0]) for played in normal],
        "imagine": imagine,
        "families": [played.scenario.family for played in normal],
        "followed": float(np.mean([played.success[0] for played in swapped])),
        "swapped_success": float(np.mean([played.success[1] for played in swapped])),
        "world": world,
        "train_minutes": summary.seconds / 60.0,
        "recipe": job.recipe,
        "git": job.git,
    }


def _has_world(actor: Actor) -> bool:
    return COUPLINGS[actor.policy.config.coupling].generative


def _play_modes(
    actor: Actor, policy: Path, scenarios: Sequence[Scenario], progress: Any
) -> tuple[list[suites.Played], dict[str, dict[str, Any]]]:
    """Episodes at the configured `imagine`; outcomes and the share of plans with a future at every setting
    the coupling offers.

    on_uncertainty: its threshold is calibrated first, on other scenes of the same kinds of task: left to
    itself, the twin also asks for what is not there, where most of the doubt is.
    """
    configured = actor.policy.config.imagine
    played: dict[str, list[suites.Played]] = {}
    for mode in COUPLINGS[actor.policy.config.coupling].imagine:
        if mode == "on_uncertainty":
            calibrated = calibrate_imagination(
                policy, "so101_twin", IMAGINE_RATE, tasks=suites.FAMILIES, episodes=suites.TABLES,
                seed=CALIBRATION_SEED,
            )  # fmt: skip
            actor.policy.config.imagine_threshold = calibrated.threshold
        actor.set_imagine(mode)
        with progress(f"imagine = {mode}", len(scenarios), "episodes") as bar:
            played[mode] = suites.play(actor, scenarios, workers=0, progress=bar.update)
    actor.set_imagine(configured)
    return played[configured], {
        mode: {"outcomes": [int(p.success[0]) for p in each],
               "share": sum(p.imagined for p in each) / sum(p.plans for p in each)}
        for mode, each in played.items()
    }  # fmt: skip


def _row(variant: Variant, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One variant over all seeds."""
    outcomes = [bool(x) for cell in cells for x in cell["outcomes"]]
    families = [family for cell in cells for family in cell["families"]]
    by_family = {
        name: float(np.mean([x for x, family in zip(outcomes, families, strict=True) if family == name]))
        for name in dict.fromkeys(families)
    }
    by_seed = [float(np.mean(cell["outcomes"])) for cell in cells]
    return {
        **variant.factors,
        "network": cells[0]["network"],
        "success": {**suites.rate(outcomes), "by_seed": by_seed, "by_family": by_family},
        "language": {
            name: float(np.mean([cell[name] for cell in cells])) for name in ("followed", "swapped_success")
        },
        "imagine": {
            mode: suites.rate([bool(x) for cell in cells for x in cell["imagine"][mode]["outcomes"]])
            | {"share": float(np.mean([cell["imagine"][mode]["share"] for cell in cells]))}
            for mode in cells[0]["imagine"]
        },
        "always_minus_never": _imagining(cells),
        "world": None
        if cells[0]["world"] is None
        else {
            name: float(np.mean([cell["world"][name] for cell in cells]))
            for name in ("skill", "probe_r2", "probe_r2_imagined", "rank")
        },
        "train_minutes": [cell["train_minutes"] for cell in cells],
    }


def _imagining(cells: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Success with an imagined future minus without one, on the same scenes."""
    if not {"never", "always"} <= cells[0]["imagine"].keys():
        return None
    both = ([cell["imagine"][mode]["outcomes"] for cell in cells] for mode in ("always", "never"))
    return _difference(*both)


def _pairs(variants: Sequence[Variant]) -> Iterator[tuple[Variant, Variant, str]]:
    """Pairs that differ in one factor, and which."""
    for first, second in combinations(variants, 2):
        different = [name for name in first.factors if first.factors[name] != second.factors[name]]
        if len(different) == 1:
            yield first, second, different[0]


def _effect(first: Variant, second: Variant, factor: str, cells: _Cells) -> dict[str, Any]:
    """Success of `first` minus that of `second`, with the seeds both were trained with."""
    both = sorted(cells[first.name].keys() & cells[second.name].keys())
    left, right = ([cells[variant.name][seed]["outcomes"] for seed in both] for variant in (first, second))
    held = {name: level for name, level in first.factors.items() if name != factor}
    return {
        "factor": factor,
        "compared": f"{first.factors[factor]} − {second.factors[factor]}",
        "holding": held,
        "difference": _difference(left, right),
    }


def _difference(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Mean difference of outcomes, per seed those of the same scenes, and what its interval is over: several
    seeds say something of the recipe; the scenes of one, of that one policy alone.
    """
    by_seed = [float(np.mean(a) - np.mean(b)) for a, b in zip(first, second, strict=True)]
    alone = len(by_seed) == 1
    interval = paired_rates(first[0], second[0]) if alone else mean_over_runs(by_seed)
    figures = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {**figures, "over": "scenes of one seed" if alone else "seeds", "by_seed": by_seed}
