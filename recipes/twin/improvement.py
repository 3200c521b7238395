"""Self-improvement on the twin: collect → train heads → weigh → retrain → plan, round after round.

A round lets the last policy loose on scenes of its own and keeps failures; once its heads know failures, it
plans while it collects. Outcome heads are trained twice, on either half of the rollouts, and each half is
weighed by the heads that did not see it; demonstrations are weighed by the same formula. Then the policy goes
on, drawing frames by weight. A control goes on equally long beside it, with the same rollouts shown to its
world prior and heads, and imitates demonstrations alone: what the two differ in is what rollouts taught.
What is there already is not done again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodiments.so101.twin.scenario import Scenario, draw_scenarios
from embodiments.so101.twin.variation import Variation
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.files import write_json
from hybridpolicy.fingerprint import fingerprint
from hybridpolicy.planner import check_planner
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.stats import paired_rates
from hybridpolicy.training.advantage import advantage_weights, foresee
from hybridpolicy.training.config import DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import SourceReader, open_readers
from recipes.job import git_revision, machine, require_same, train
from recipes.twin import suites
from recipes.twin.collect import FACTS, CollectSettings, collect
from recipes.twin.job import Budget, record

HEADS_SHARE = 0.3  # of samples, from rollouts seen for their outcome alone
HALVES = (0, 1)  # rollouts of even and of odd number


@dataclass(frozen=True)
class Improvement:
    """How much of everything.

    rollouts: episodes collected a round. noise: of collecting. evaluate: held-out episodes after each round.
    candidates: K of the planner. head_samples, samples: of training the heads of either half, and of
    retraining. beta, limit: of the advantage weights.
    """

    rounds: int = 2
    rollouts: int = 576
    noise: float = 1.0
    evaluate: int = 192
    candidates: int = 8
    head_samples: int = 16_000
    samples: int = 48_000
    beta: float = 0.3
    limit: float = 10.0

    @property
    def planner(self) -> PlannerSettings:
        return PlannerSettings(candidates=self.candidates)


def run_improvement(
    config: TrainConfig,
    output: Path,
    budget: Budget,
    plan: Improvement,
    variation: Variation,
    *,
    seed: int = 0,
    progress: Any,
    workers: int = 2,
) -> Path:
    """Runs every round that is not there yet; returns the path of improvement.json.

    Args:
        config: of the first policy; its last stage's first source are demonstrations. budget: of its data.
        workers: processes that simulate; 0 for none but this one.

    Raises:
        ConfigurationError: the policy could not be planned with or has no outcome heads, or what is there
            already was made with other settings.
    """
    check_planner(config.policy, plan.planner)
    if not config.policy.outcome_weight > 0:
        raise ConfigurationError(
            "self-improvement: policy.outcome_weight = 0; heads judge the rollouts, give 0.3"
        )
    config = replace(config, seed=seed, policy=replace(config.policy, seed=seed))
    collections = [
        CollectSettings(plan.rollouts, plan.rounds * seed + number, noise=plan.noise)
        for number in range(plan.rounds)
    ]
    record(output / "data", budget, variation, seed, progress)
    policy = control = base = train(config).policy_path
    held_out = draw_scenarios(plan.evaluate, suites.SEED, suites.FAMILIES, variation)
    won = _evaluated(policy, None, held_out, plan, output / "round0", progress, workers)
    first, rounds = won["one"], [{"round": 0, **_figures(won, won["one"])}]
    rollouts: list[Path] = []
    for number, settings in enumerate(collections, start=1):
        folder = output / f"round{number}"
        rollouts.append(folder / "rollouts")
        planner = plan.planner if number > 1 else None  # the first policy's heads know successes only
        collected = _collected(policy, planner, rollouts[-1], settings, variation, progress, workers)
        (policy, control), judged = _improved(config, base, (policy, control), rollouts, plan, folder)
        won = _evaluated(policy, control, held_out, plan, folder, progress, workers)
        rounds.append({"round": number, "collected": collected, **judged, **_figures(won, first)})
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


# -- what a round learns from
def _improved(
    config: TrainConfig,
    base: Path,
    last: tuple[Path, Path],
    rollouts: Sequence[Path],
    plan: Improvement,
    folder: Path,
) -> tuple[tuple[Path, Path], dict[str, Any]]:
    """The policy and the control after one round more than `last`, and what was learned from."""
    shown = [_shown(config, root, range(plan.rollouts), len(rollouts)) for root in rollouts]
    weighed, judged = _weighed(config, base, rollouts, plan, folder)
    taught = replace(_demonstrations(config, ""), weight=1.0 - HEADS_SHARE)
    runs = [
        train(_continued(config, policy, name, plan.samples, [*imitated, *shown], folder)).policy_path
        for policy, name, imitated in zip(last, ("policy", "control"), (weighed, [taught]), strict=True)
    ]
    return (runs[0], runs[1]), judged


def _demonstrations(config: TrainConfig, outcomes: str) -> DatasetSource:
    return replace(config.stages[-1].sources[0], outcomes=outcomes)


def _shown(config: TrainConfig, root: Path, episodes: Sequence[int], roots: int) -> DatasetSource:
    """Rollouts for world prior and heads, one of `roots` folders of them."""
    return DatasetSource(
        str(root), weight=HEADS_SHARE / roots, imitate=False, outcomes="recorded", episodes=tuple(episodes),
        embodiment=_demonstrations(config, "").embodiment,
    )  # fmt: skip


def _weighed(
    config: TrainConfig, base: Path, rollouts: Sequence[Path], plan: Improvement, folder: Path
) -> tuple[list[DatasetSource], dict[str, Any]]:
    """Demonstrations and rollouts to be imitated by weight, and how well the heads foresaw how they ended.

    base: the first policy, whose heads have seen no rollout yet.
    """
    # A demonstration says nothing of how the policy's own tries end.
    taught = replace(_demonstrations(config, ""), weight=1.0 - HEADS_SHARE)
    judges = []
    for half in HALVES:
        other = range(1 - half, plan.rollouts, 2)
        shown = [_shown(config, root, other, len(rollouts)) for root in rollouts]
        run = _continued(config, base, f"heads{half}", plan.head_samples, [taught, *shown], folder)
        judges.append(Actor.load(train(run).policy_path))
    onset = taught.onset_share
    recorded = [
        replace(_shown(config, root, range(plan.rollouts), 1), imitate=True, onset_share=onset)
        for root in rollouts
    ]
    sources = [_demonstrations(config, "demonstrations"), *recorded]
    size = config.policy.image_size
    readers = open_readers(
        sources, policy_window(config.policy), Path(config.cache_dir),
        cameras=list(judges[0].policy.config.image_features), image_size=(size[0], size[1]),
    )  # fmt: skip
    foreseen = [_foreseen(judges, reader, folder / f"foreseen{i}.npy") for i, reader in enumerate(readers)]
    weights, sums = [], []
    for number, (reader, (expected, ended)) in enumerate(zip(readers, foreseen, strict=True)):
        weights.append(advantage_weights(expected, ended, plan.beta, plan.limit))
        file = folder / f"weights{number}-beta{plan.beta:g}-limit{plan.limit:g}.npy"
        np.save(file, weights[-1])
        sums.append(float(weights[-1][reader.rows].sum()))
        sources[number] = replace(sources[number], outcomes="", frame_weights=str(file))
    # A frame is drawn as often as it weighs.
    shares = [(1.0 - HEADS_SHARE) * total / sum(sums) for total in sums]
    imitated = [replace(source, weight=share) for source, share in zip(sources, shares, strict=True)]
    expected, ended = (np.concatenate([found[i] for found in foreseen[1:]]) for i in range(2))
    return imitated, {
        "heads": _heads(expected, ended),
        "weights": _weights(weights[0][readers[0].rows], np.concatenate(weights[1:]), ended, sum(shares[1:])),
    }


def _foreseen(
    judges: Sequence[Actor], reader: SourceReader, file: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `foresee`, each half of the episodes by the judge that was not shown them.

    Kept in `file`: another machine would find the last digits different, and so another run.
    """
    if not file.is_file():
        cache = reader.cache
        odd = np.repeat(np.arange(cache.num_episodes) % 2 == 1, cache.episode_to - cache.episode_from)
        (even_expected, ended), (odd_expected, _) = (
            foresee(judge.policy, judge.preprocessor, reader) for judge in judges
        )
        part = file.with_suffix(".part.npy")
        np.save(part, np.stack([np.where(odd, odd_expected, even_expected), ended]))
        part.replace(file)
    expected, ended = np.load(file)
    return expected, ended


def _heads(expected: NDArray[np.float32], ended: NDArray[np.float32]) -> dict[str, float]:
    """The success head on rollouts it was not shown, frame by frame, and always saying their mean instead."""
    return {
        "brier": float(np.square(expected - ended).mean()),
        "brier_constant": float(ended.var()),
        "bias": float(expected.mean() - ended.mean()),
    }


def _weights(
    demonstrations: NDArray[np.float32],
    rollouts: NDArray[np.float32],
    ended: NDArray[np.float32],
    share: float,
) -> dict[str, float | None]:
    """Mean weights of frames, and shares of what is imitated: of all rollouts, and of those that failed."""
    won, lost = rollouts[ended > 0.5], rollouts[ended <= 0.5]
    return {
        "demonstrations": float(demonstrations.mean()),
        "successes": float(won.mean()) if len(won) else None,
        "failures": float(lost.mean()) if len(lost) else None,
        "share_of_rollouts": share / (1.0 - HEADS_SHARE),
        "share_of_failures": float(lost.sum() / (demonstrations.sum() + rollouts.sum())),
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


# -- what is played
def _collected(
    policy: Path,
    planner: PlannerSettings | None,
    root: Path,
    settings: CollectSettings,
    variation: Variation,
    progress: Any,
    workers: int,
) -> dict[str, Any]:
    """Success and failures of the rollouts in `root`, played now if they are not there."""
    actor = Actor.load(policy)
    made = _made_by(actor, planner, settings=asdict(settings), variation=asdict(variation))
    if not root.exists():
        if planner is not None:
            actor.set_planner(planner)
        root.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"collecting {root.parent.name}", settings.episodes, "episodes") as bar:
            collect(actor, root, settings, variation=variation, facts={"made": made}, workers=workers,
                    progress=bar.update)  # fmt: skip
    found = json.loads((root / FACTS).read_text())
    require_same(root / FACTS, found.get("made"), made)
    return {name: found[name] for name in ("success", "by_family", "eventful_episodes", "planning")}


def _evaluated(
    policy: Path,
    control: Path | None,
    scenarios: Sequence[Scenario],
    plan: Improvement,
    folder: Path,
    progress: Any,
    workers: int,
) -> dict[str, list[int]]:
    """Outcomes on held-out scenes, with one candidate, with the planner's K, and of the control with one."""
    players = {"one": (policy, None), "planner": (policy, plan.planner)}
    if control is not None:
        players["control"] = (control, None)
    won = {}
    for name, (path, planner) in players.items():
        actor, file = Actor.load(path), folder / f"played_{name}.json"
        made = _made_by(actor, planner, scenes=[scenario.seed for scenario in scenarios])
        if not file.is_file():
            if planner is not None:
                actor.set_planner(planner)
            with progress(f"{folder.name}, {name}", len(scenarios), "episodes") as bar:
                played = suites.play(actor, scenarios, workers=workers, progress=bar.update)
            write_json(file, {"made": made, "outcomes": [int(p.success[0]) for p in played]})
        found = json.loads(file.read_text())
        require_same(file, found["made"], made)
        won[name] = found["outcomes"]
    return won


def _made_by(actor: Actor, planner: PlannerSettings | None, **settings: Any) -> dict[str, Any]:
    """What a figure depends on, as JSON has it."""
    settings["weights"] = fingerprint(actor.policy.state_dict())
    settings["planner"] = None if planner is None else asdict(planner)
    made: dict[str, Any] = json.loads(json.dumps(settings))
    return made


def _figures(won: dict[str, list[int]], first: list[int]) -> dict[str, Any]:
    """Success and failures of every player, and differences on the same scenes; `first`: of round 0."""
    gains = {"planner_gain": ("planner", won["one"]), "gain_over_round0": ("one", first)}
    if "control" in won:
        gains["gain_over_control"] = ("one", won["control"])
    figures: dict[str, Any] = {
        name: {**suites.rate([bool(x) for x in each]), "failures": len(each) - sum(each), "outcomes": each}
        for name, each in won.items()
    }
    for name, (player, other) in gains.items():
        gain = paired_rates(won[player], other)
        figures[name] = {"value": gain.value, "low": gain.low, "high": gain.high, "over": "scenes of one run"}
    return figures
