"""One whole job on the twin: record, train, evaluate, report. Quickstart and longer recipe both run it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.recording import record_demonstrations, record_play
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.world import measure_world
from hybridpolicy.files import write_json
from hybridpolicy.training.bench import measure_loader
from hybridpolicy.training.config import DatasetSource, TrainConfig
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import SourceReader, open_readers
from hybridpolicy.training.trainer import TrainSummary
from recipes.arm.deploy import deploy_on_twin
from recipes.job import Phases, describe_run, require_same, train
from recipes.report.bars import QUICKSTART_BARS, Bar, judge_bars
from recipes.report.html import write_report_html
from recipes.report.media import EpisodeClip
from recipes.report.metrics import read_metrics
from recipes.report.schema import write_report_json
from recipes.twin import suites
from recipes.twin.pictures import fit_decoder, future_strips

CAMERA = "front"  # the view whose futures are drawn


@dataclass(frozen=True)
class Budget:
    """How much of everything one job does; counts are episodes."""

    demonstrations: int
    play: int
    held_out: int
    success: int
    swapped: int
    paraphrase: int
    absent: int
    two_stage: int
    serial: int = 0  # over the simulated arm's serial port, after everything else
    decoder_steps: int = 500
    loader_s: float = 3.0  # of measuring each of the two loaders
    clips: int = 48
    strips: int = 6


def run_job(
    config: TrainConfig,
    output: Path,
    budget: Budget,
    variation: Variation,
    *,
    seed: int = 0,
    progress: Any,
    bars: tuple[Bar, ...] = QUICKSTART_BARS,
    command: str = "hybridpolicy quickstart",
) -> Path:
    """Runs everything and returns the path of report.html.

    Args:
        config: recipe whose sources lie under `output`/data.
        progress: factory of progress bars, as `recipes.commands.progress.progress`.
    """
    check_coupling(config)
    config = replace(config, seed=seed, policy=replace(config.policy, seed=seed))
    phases = Phases(output / "phases.json")
    with phases.phase("record", continues=True):
        record(output / "data", budget, variation, seed, progress)
    with phases.phase("train", continues=True):
        summary = train(config)
    phases.at_least("train", summary.seconds)
    actor = Actor.load(summary.policy_path)
    with phases.phase("evaluate"):
        figures, clips = evaluate(actor, budget, variation, progress)
    with phases.phase("world and speed"):
        world, strips = measure(actor, config, budget, progress)
    report = {
        **figures,
        **world,
        **describe_run(config, summary),
        "title": "A simulated SO-101 that does what it is told",
        "stage1": describe_stage1(config, summary),
        "command": command,
        "seed": seed,
        "next_steps": next_steps(summary),
    }

    def write() -> Path:
        report.update(wall_s=phases.wall_s, phases=phases.seconds)
        report["bars"] = judge_bars(report, bars)
        write_report_json(output / "report.json", report)
        return write_report_html(output / "report.html", report, clips, strips, read_metrics(summary.metrics))

    page = write()
    if not budget.serial:
        return page
    del actor  # the policy acts in a process of its own now, beside the arm's: two cores
    with phases.phase("serial port"):
        report["serial"], driven = drive_serial(summary.policy_path, budget.serial, variation, progress)
    clips = driven + clips
    return write()


def check_coupling(config: TrainConfig) -> None:
    """Raises ConfigurationError, before anything is recorded, for a row that the report cannot be made of."""
    able = [
        name for name, row in COUPLINGS.items()
        if {"never", "always"} <= set(row.imagine) and "imagine" in row.queries
    ]  # fmt: skip
    if config.policy.coupling not in able:
        raise ConfigurationError(
            f"recipe {config.name!r}: coupling = {config.policy.coupling}; its report compares acting with "
            f"and without an imagined future, which {' and '.join(able)} can. Every coupling is trained by "
            "`hybridpolicy train --recipe couplings_study`, and on a dataset by `train --dataset`"
        )


def record(folder: Path, budget: Budget, variation: Variation, seed: int, progress: Any) -> None:
    """Records what is not there yet.

    Raises:
        ConfigurationError: what is there was recorded with another seed, or more or fewer episodes.
    """
    made = {"seed": seed, "demonstrations": budget.demonstrations, "play": budget.play}
    note = folder / "recorded.json"
    if note.is_file():
        require_same(note, json.loads(note.read_text(encoding="utf-8")), made)
    elif not folder.exists():  # not of recordings from before this was noted
        write_json(note, made)
    jobs = (("demonstrations", record_demonstrations, budget.demonstrations, 0),
            ("play", record_play, budget.play, 10_000_000))  # fmt: skip
    for name, recorder, episodes, offset in jobs:
        root = folder / name
        if (root / "meta" / "info.json").is_file():
            continue
        with progress(f"recording {name}", episodes, "episodes") as bar:
            recorder(root, episodes, seed=seed * 1_000_000 + offset, variation=variation,
                                      progress=bar.update)  # fmt: skip


def evaluate(
    actor: Actor, budget: Budget, variation: Variation, progress: Any
) -> tuple[dict[str, Any], list[EpisodeClip]]:
    """The closed-loop figures of the report, and clips of the first held-out episodes."""
    drawn = suites.draw_suites(
        budget.success, budget.swapped, budget.paraphrase, budget.absent, budget.two_stage, variation
    )
    played = {}
    for name in ("success", "swapped", "paraphrase", "absent", "two_stage"):
        scenarios = getattr(drawn, name)
        keep = budget.clips if name == "success" else 0
        with progress(f"evaluating {name}", len(scenarios), "episodes") as bar:
            played[name] = suites.play(actor, scenarios, keep_frames=keep, progress=bar.update)
    figures: dict[str, Any] = {
        "success": suites.success_figures(played["success"]),
        "language": suites.language_figures(
            played["swapped"], played["paraphrase"], played["absent"], played["success"]
        ),
        "two_stage": suites.rate([p.success[0] for p in played["two_stage"]]),
        "details": {"absent_success": suites.rate([p.success[0] for p in played["absent"]])},
    }
    if "always" in COUPLINGS[actor.policy.config.coupling].imagine:
        configured = actor.policy.config.imagine
        actor.set_imagine("always")
        with progress("evaluating imagine = always", len(drawn.success), "episodes") as bar:
            imagining = suites.play(actor, drawn.success, progress=bar.update)
        actor.set_imagine(configured)
        figures["imagining"] = suites.rate([p.success[0] for p in imagining])
    return figures, [clip(p, actor.policy.config.n_action_steps) for p in played["success"] if p.frames]


def drive_serial(
    policy: Path, episodes: int, variation: Variation, progress: Any
) -> tuple[dict[str, Any], list[EpisodeClip]]:
    """Deploys the policy over the serial port of a simulated arm: the report's `serial`, and the clips."""
    with progress("driving over the serial port", episodes, "episodes") as bar:
        deployed = deploy_on_twin(policy, episodes, variation=variation)
        bar.update(episodes, episodes)
    figures = deployed.figures
    serial = {
        **figures["success"],
        "within_budget": figures["success_within_budget"]["rate"],
        **{key: figures[key] for key in ("rate_hz", "cycles", "missed", "late_p99_ms")},
    }
    if figures["latency_ms"] is not None:
        serial["latency_ms"] = figures["latency_ms"]
    return serial, deployed.clips(SO101TwinVectorEnv.metadata["render_fps"])


def clip(played: suites.Played, ticks_per_picture: int) -> EpisodeClip:
    """An episode as the report shows it; pictures were kept whenever the policy looked."""
    rate = SO101TwinVectorEnv.metadata["render_fps"] / ticks_per_picture
    frames = {camera: np.stack(pictures) for camera, pictures in played.frames.items()}
    outcome = "success" if played.success[0] else "time limit"
    label = suites.task_label(played.scenario.task)
    return EpisodeClip(
        label, played.scenario.instruction, played.success[0], played.steps, frames, rate, outcome
    )


def measure(
    actor: Actor, config: TrainConfig, budget: Budget, progress: Any
) -> tuple[dict[str, Any], list[Any]]:
    """World figures, latency, loader speed, and strips of imagined futures."""
    policy = actor.policy
    fitting, held_out = _readers(config, budget)
    with progress("world, latency, loader", 4, "steps") as bar:
        world = world_figures(actor, config, budget)
        bar.advance()
        decoder = fit_decoder(policy, actor.preprocessor, fitting, CAMERA, 4000, budget.decoder_steps)
        strips = future_strips(policy, actor.preprocessor, held_out, decoder, CAMERA, budget.strips)
        bar.advance()
        latency = measure_latency(actor, held_out)
        bar.advance()
        source = config.stages[-1].sources[0]
        size = policy.config.image_size
        loader = measure_loader(source, policy_window(policy.config), Path(config.cache_dir),
                                budget_s=budget.loader_s, image_size=(size[0], size[1]),
                                augmentation=config.augmentation)  # fmt: skip
        bar.advance()
    figures = {
        "world": world,
        "latency_ms": latency,
        "loader": {
            "samples_per_s": loader.samples_per_s,
            "lerobot_samples_per_s": loader.lerobot_samples_per_s,
        },
    }
    return figures, strips


def world_figures(actor: Actor, config: TrainConfig, budget: Budget) -> dict[str, Any]:
    """The report's `world`: how well the world stream imagines held-out demonstrations."""
    world = measure_world(actor.policy, actor.preprocessor, *_readers(config, budget))
    return {
        "skill": world.skill,
        "skill_by_offset": {str(k): v for k, v in world.skill_by_offset.items()},
        "probe_r2": world.probe_r2,
        "probe_r2_imagined": world.probe_r2_imagined,
        "rank": world.rank,
        "width": world.width,
        "fps": actor.policy.config.fps,
    }


def _readers(config: TrainConfig, budget: Budget) -> tuple[SourceReader, SourceReader]:
    """Demonstrations the probe and decoder are fitted on, and those held out."""
    source = config.stages[-1].sources[0]
    policy = config.policy
    window, size = policy_window(policy), policy.image_size
    total = budget.demonstrations
    held = DatasetSource(source.root, embodiment=source.embodiment,
                         episodes=tuple(range(total - budget.held_out, total)))  # fmt: skip
    fitting, held_out = open_readers(
        [source, held], window, Path(config.cache_dir), image_size=(size[0], size[1])
    )
    return fitting, held_out


def measure_latency(actor: Actor, reader: SourceReader) -> dict[str, dict[str, float]]:
    """Milliseconds of one chunk, batch 1, for each `imagine` the coupling offers."""
    raw = reader.gather(reader.cache.episode_from[:1], world=False)
    pixels = {n: raw[key][:, 0].permute(0, 2, 3, 1).numpy() for n, key in actor.policy.config.cameras.items()}
    policy = actor.policy
    configured, figures = policy.config.imagine, {}
    for imagine in (mode for mode in COUPLINGS[policy.config.coupling].imagine if mode != "on_uncertainty"):
        actor.set_imagine(imagine)
        figures[imagine] = actor.measure_latency(
            pixels, raw["observation.state"][:, 0].numpy(), raw["task"][0]
        )
    actor.set_imagine(configured)
    return figures


def describe_stage1(config: TrainConfig, summary: TrainSummary) -> dict[str, Any]:
    """How much of the world prior's data is not demonstrations."""
    first, demonstrations = config.stages[0], config.stages[-1].sources[0].root
    total = sum(source.weight for source in first.sources)
    other = sum(source.weight for source in first.sources if source.root != demonstrations)
    stage = summary.stages[0]
    return {"share_not_demonstrations": other / total, "samples": stage.samples, "seconds": stage.seconds}


def next_steps(summary: TrainSummary) -> list[dict[str, str]]:
    """Commands that go on from here."""
    policy = summary.policy_path
    return [
        {"title": "Measure it again, imagining first",
         "command": f"hybridpolicy eval --policy {policy} --env so101_twin --imagine always"},
        {"title": "The same through LeRobot's own command",
         "command": f"lerobot-eval --policy.path={policy} --env.type=so101_twin --eval.batch_size=8"},
        {"title": "Train on your own recordings", "command": "hybridpolicy train --dataset path/to/dataset"},
    ]  # fmt: skip
