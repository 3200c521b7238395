"""Self-improvement on the twin: collect → train heads → weigh → retrain → plan, round after round.

A round lets the last policy loose on scenes of its own and keeps failures. First outcome heads and world
prior learn from all rollouts so far, unweighted, without imitating them. Then each of their frames gets its
advantage weight (`hybridpolicy.training.advantage`), once, and the policy learns from demonstrations, whose
frames weigh 1, and from rollouts by weight. What is there already is not done again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.twin.scenario import Scenario, draw_scenarios
from embodiments.so101.twin.variation import Variation
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.files import write_json
from hybridpolicy.planner import PlannerSettings
from hybridpolicy.stats import paired_bootstrap
from hybridpolicy.training.advantage import advantage_weights
from hybridpolicy.training.config import DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import open_readers
from recipes.job import git_revision, machine, train
from recipes.twin import suites
from recipes.twin.collect import FACTS, CollectSettings, collect
from recipes.twin.job import Budget, record

HEADS_SHARE = 0.3  # of samples, from rollouts seen for their outcome alone
HELD_OUT = 8  # one rollout in so many is kept to measure the heads on


@dataclass(frozen=True)
class Improvement:
    """How much of everything.

    rollouts: episodes collected a round. noise: of collecting. evaluate: held-out episodes after each round.
    candidates: K of the planner that is evaluated. head_samples, samples: of training the heads, and of
    retraining. beta, limit: of the advantage weights.
    """

    rounds: int = 2
    rollouts: int = 96
    noise: float = 1.0
    evaluate: int = 48
    candidates: int = 8
    head_samples: int = 8_000
    samples: int = 24_000
    beta: float = 0.3
    limit: float = 10.0


def run_improvement(
    config: TrainConfig,
    output: Path,
    budget: Budget,
    plan: Improvement,
    variation: Variation,
    *,
    seed: int = 0,
    progress: Any,
) -> Path:
    """Runs every round that is not there yet; returns the path of improvement.json.

    Args:
        config: of the first policy, with outcome heads and a law that can be planned with; its last stage's
            first source are demonstrations. budget: of its data.
    """
    config = replace(config, seed=seed, policy=replace(config.policy, seed=seed))
    collections = [
        CollectSettings(plan.rollouts, plan.rounds * seed + number, noise=plan.noise)
        for number in range(plan.rounds)
    ]
    record(output / "data", budget, variation, seed, progress)
    policy = train(config).policy_path
    held_out = draw_scenarios(plan.evaluate, suites.SEED, suites.FAMILIES, variation)
    rounds = [{"round": 0, **_evaluated(policy, held_out, plan, output / "round0", progress)}]
    rollouts: list[Path] = []
    for number, settings in enumerate(collections, start=1):
        folder = output / f"round{number}"
        rollouts.append(folder / "rollouts")
        collected = _collected(policy, rollouts[-1], settings, variation, progress)
        policy, weights = _improved(config, policy, rollouts, plan, folder)
        evaluated = _evaluated(policy, held_out, plan, folder, progress)
        rounds.append({"round": number, "collected": collected, "weights": weights, **evaluated})
    path = output / "improvement.json"
    found = {
        "rounds": rounds,
        "plan": asdict(plan),
        "seed": seed,
        "machine": machine(),
        "git": git_revision(),
    }
    write_json(path, found)
    return path


def _collected(
    policy: Path, root: Path, settings: CollectSettings, variation: Variation, progress: Any
) -> dict[str, Any]:
    """Success and failures of the rollouts in `root`, played now if they are not there."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"collecting {root.parent.name}", settings.episodes, "episodes") as bar:
            collect(Actor.load(policy), root, settings, variation=variation, facts={"policy": str(policy)},
                    progress=bar.update)  # fmt: skip
    found = json.loads((root / FACTS).read_text())
    return {name: found[name] for name in ("success", "by_family", "eventful_episodes")}


def _improved(
    config: TrainConfig, policy: Path, rollouts: Sequence[Path], plan: Improvement, folder: Path
) -> tuple[Path, dict[str, float]]:
    """The policy after one round, and its weights in numbers."""
    # A demonstration says nothing of how the policy's own tries end.
    demonstrations = replace(config.stages[-1].sources[0], weight=1.0 - HEADS_SHARE, outcomes="")
    shown = [
        DatasetSource(str(root), weight=HEADS_SHARE / len(rollouts), imitate=False,
                      embodiment=demonstrations.embodiment, outcomes="recorded",
                      episodes=tuple(range(plan.rollouts - plan.rollouts // HELD_OUT)))
        for root in rollouts
    ]  # fmt: skip
    heads = train(_continued(config, policy, "heads", plan.head_samples, [demonstrations, *shown], folder))
    actor = Actor.load(heads.policy_path)
    recorded = [replace(source, imitate=True) for source in shown]
    size = config.policy.image_size
    demonstrated, *readers = open_readers(
        [demonstrations, *recorded], policy_window(config.policy), Path(config.cache_dir),
        cameras=list(actor.policy.config.image_features), image_size=(size[0], size[1]),
    )  # fmt: skip
    files, sums, every = [], [], []
    for number, reader in enumerate(readers, start=1):
        file = folder / f"weights{number}-beta{plan.beta:g}-limit{plan.limit:g}.npy"
        if not file.is_file():  # another machine would find the last digits different, and so another run
            part = file.with_suffix(".part.npy")
            np.save(part, advantage_weights(actor.policy, actor.preprocessor, reader, plan.beta, plan.limit))
            part.replace(file)
        weights = np.load(file)
        files.append(str(file))
        every.append(weights[reader.rows])
        sums.append(float(every[-1].sum()))
    # A frame is drawn as often as it weighs, and a demonstration's weighs 1.
    whole = len(demonstrated.rows) + sum(sums)
    acted = [
        replace(source, outcomes="", frame_weights=file, weight=(1.0 - HEADS_SHARE) * total / whole)
        for source, file, total in zip(recorded, files, sums, strict=True)
    ]
    demonstrations = replace(demonstrations, weight=(1.0 - HEADS_SHARE) * (1.0 - sum(sums) / whole))
    sources = [demonstrations, *acted, *shown]
    done = train(_continued(config, heads.policy_path, "policy", plan.samples, sources, folder))
    together = np.concatenate(every)
    return done.policy_path, {
        "mean": float(together.mean()),
        "least": float(together.min()),
        "most": float(together.max()),
        "share_of_samples": sum(source.weight for source in acted),
    }


def _continued(
    config: TrainConfig, policy: Path, name: str, samples: int, sources: list[DatasetSource], folder: Path
) -> TrainConfig:
    """A run of one stage that goes on from `policy`."""
    last = config.stages[-1]
    stage: StageConfig = replace(last, name=name, samples=samples, lr=last.lr / 3, sources=sources)
    return replace(
        config,
        name=f"{config.name}_{name}",
        policy=replace(config.policy, pretrained_path=policy),
        stages=[stage],
        output_dir=str(folder / name),
    )


def _evaluated(
    policy: Path, scenarios: Sequence[Scenario], plan: Improvement, folder: Path, progress: Any
) -> dict[str, Any]:
    """Success and failures on held-out scenes, with one candidate and with the planner's K."""
    path = folder / "evaluation.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    won: dict[str, list[bool]] = {}
    for name in ("one", "planner"):
        actor = Actor.load(policy)
        if name == "planner":
            actor.set_planner(PlannerSettings(candidates=plan.candidates))
        with progress(f"{folder.name}, {name}", len(scenarios), "episodes") as bar:
            won[name] = [p.success[0] for p in suites.play(actor, scenarios, progress=bar.update)]
    gain = paired_bootstrap([float(x) for x in won["planner"]], [float(x) for x in won["one"]])
    found = {
        **{name: {**suites.rate(each), "failures": len(each) - sum(each)} for name, each in won.items()},
        "planner_gain": {"value": gain.value, "low": gain.low, "high": gain.high},
    }
    write_json(path, found)
    return found
