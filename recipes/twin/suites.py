"""Closed-loop suites on the twin: success, swapped instructions, paraphrases, absent targets, two stages.

N tables, T ticks of an episode, M monitored tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embodiments.so101.twin.language import Task
from embodiments.so101.twin.scenario import Scenario, draw_scenarios, swap
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.stats import wilson_interval
from recipes.twin.rollout import Observation, roll

FAMILIES = ("touch", "push", "bin")
TABLES = 48  # played together
SEED = 50_000_000  # held-out resets start here; recordings use scene seeds from 1e9 up


@dataclass
class Played:
    """One episode as it went.

    success: of each monitored task, the given one first. excursion_deg: largest departure of a body joint
    from the start. plans, imagined: how many were made, and of them with an imagined future.
    frames: {camera: T pictures} where they were kept.
    """

    scenario: Scenario
    success: tuple[bool, ...]
    steps: int
    excursion_deg: float
    plans: int
    imagined: int
    frames: dict[str, list[np.ndarray]] = field(default_factory=dict)


def play(
    actor: Actor,
    scenarios: Sequence[Scenario],
    *,
    workers: int = 2,
    keep_frames: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Played]:
    """Plays every scenario once, `TABLES` at a time; pictures are kept of the first `keep_frames`."""
    actor.check_rate(SO101TwinVectorEnv.metadata["render_fps"])
    actor.policy.eval()
    played: list[Played] = []
    size = actor.policy.config.image_size[0]
    env = SO101TwinVectorEnv(min(TABLES, len(scenarios)), image_size=size, workers=workers)
    try:
        for start in range(0, len(scenarios), env.num_envs):
            chosen = list(scenarios[start : start + env.num_envs])
            filled = chosen + [chosen[-1]] * (env.num_envs - len(chosen))
            keep = max(0, min(keep_frames - start, len(chosen)))
            played += _play_together(actor, env, filled, keep, len(chosen))
            if progress is not None:
                progress(len(played), len(scenarios))
    finally:
        env.close()
    return played


def _play_together(
    actor: Actor, env: SO101TwinVectorEnv, scenarios: list[Scenario], keep: int, count: int
) -> list[Played]:
    """The first `count` of them; the others fill the tables."""
    actor.reset()
    observation, info = env.reset(options={"scenarios": scenarios})
    texts = [scenario.instruction for scenario in scenarios]
    start = observation["agent_pos"].copy()
    excursion = np.zeros(len(scenarios))
    frames: list[dict[str, list[np.ndarray]]] = [
        {c: [p[i]] for c, p in observation["pixels"].items()} for i in range(keep)
    ]

    asked = np.arange(len(scenarios)) < count
    running = asked
    plans, imagined = (np.zeros(len(scenarios), int) for _ in range(2))

    def plan(seen: Observation) -> np.ndarray:
        nonlocal plans, imagined
        actor.playing = running
        chunk = actor.chunk(seen["pixels"], seen["agent_pos"], texts)
        plans, imagined = plans + running, imagined + (running & actor.imagined(len(running)))
        return chunk

    for tick in roll(env, plan, observation, actor.policy.config.n_action_steps):
        turned = np.abs(tick.after["agent_pos"] - start)[:, :5].max(axis=1)
        excursion = np.where(tick.running, np.maximum(excursion, turned), excursion)
        info, running = tick.info, ~tick.done & asked
        for table, kept in enumerate(frames):
            if tick.looks and tick.running[table]:
                for camera, pictures in kept.items():
                    pictures.append(tick.after["pixels"][camera][table].copy())
    return [
        Played(scenario, tuple(bool(x) for x in info["monitored"][i][: 1 + len(scenario.monitor)]),
               int(info["steps"][i]), float(excursion[i]), int(plans[i]), int(imagined[i]),
               frames[i] if i < keep else {})
        for i, scenario in enumerate(scenarios[:count])
    ]  # fmt: skip


def task_label(task: Task) -> str:
    """What people read: `push red → left`."""
    own = " ".join(part for part in (task.verb, task.colour) if part) + (
        f" → {task.zone}" if task.zone else ""
    )
    return f"{own}, then {task_label(task.second)}" if task.second else own


def rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    """{"rate", "low", "high", "episodes"} with a 95 % Wilson interval."""
    interval = wilson_interval(sum(outcomes), len(outcomes))
    return {"rate": interval.value, "low": interval.low, "high": interval.high, "episodes": len(outcomes)}


def success_figures(played: Sequence[Played]) -> dict[str, Any]:
    """The report's `success`: over all episodes, and by task."""
    tasks = sorted({p.scenario.task.name for p in played})
    by_task = {}
    for name in tasks:
        mine = [p for p in played if p.scenario.task.name == name]
        by_task[name] = {**rate([p.success[0] for p in mine]), "label": task_label(mine[0].scenario.task)}
    return {**rate([p.success[0] for p in played]), "by_task": by_task}


@dataclass(frozen=True)
class Suites:
    """Scenarios of one evaluation, on held-out scenes; `swapped` are those of `success` asked otherwise."""

    success: list[Scenario]
    swapped: list[Scenario]
    paraphrase: list[Scenario]
    absent: list[Scenario]
    two_stage: list[Scenario]


def draw_suites(
    success: int,
    swapped: int,
    paraphrase: int,
    absent: int,
    two_stage: int,
    variation: Variation,
    seed: int = SEED,
) -> Suites:
    """Counts of episodes → scenarios. A swap changes colour, verb or, for push, the zone, in turn."""
    asked = draw_scenarios(success, seed, FAMILIES, variation)
    again = [asked[i % success] for i in range(swapped)]
    swaps = [swap(s, _swap_kind(i, s)) for i, s in enumerate(again)]
    return Suites(
        success=asked,
        swapped=swaps,
        paraphrase=draw_scenarios(paraphrase, seed + 10_000, FAMILIES, variation, held_out_phrasing=True),
        absent=draw_scenarios(absent, seed + 20_000, ("absent",), variation),
        two_stage=draw_scenarios(two_stage, seed + 30_000, ("two_stage",), variation),
    )


def _swap_kind(index: int, scenario: Scenario) -> str:
    kinds = ("colour", "verb", "zone") if scenario.task.verb == "push" else ("colour", "verb")
    return kinds[(index // len(FAMILIES)) % len(kinds)]


def language_figures(swapped: Sequence[Played], paraphrase: Sequence[Played], absent: Sequence[Played],
                     normal: Sequence[Played]) -> dict[str, Any]:  # fmt: skip
    """The report's `language`."""
    followed = wilson_interval(sum(p.success[0] for p in swapped), len(swapped))
    original = wilson_interval(sum(p.success[1] for p in swapped), len(swapped))
    said = wilson_interval(sum(p.success[0] for p in paraphrase), len(paraphrase))
    return {
        "followed": followed.value,
        "followed_low": followed.low,
        "followed_high": followed.high,
        "swapped_success": original.value,
        "swapped_low": original.low,
        "swapped_high": original.high,
        "swapped_episodes": len(swapped),
        "paraphrase_success": said.value,
        "paraphrase_low": said.low,
        "paraphrase_high": said.high,
        "paraphrase_episodes": len(paraphrase),
        "absent_motion": float(np.mean([p.excursion_deg for p in absent])),
        "present_motion": float(np.mean([p.excursion_deg for p in normal])),
        "absent_motion_unit": "degrees, largest joint excursion",
        "absent_episodes": len(absent),
    }
