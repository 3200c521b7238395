"""Does success in the dream tell success on the table? Many policies of different quality, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.constants import TWIN_RATE_HZ
from embodiments.so101.twin.scenario import MAX_STEPS, Scenario
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.dream.vector_env import PRESENT, DreamVectorEnv
from hybridpolicy.dream.world import DreamWorld
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.files import write_json
from hybridpolicy.stats import spearman
from hybridpolicy.training.cache import FrameCache
from recipes.job import git_revision, machine
from recipes.twin import suites

NOISES = (4.0, 8.0, 12.0, 16.0, 20.0, 26.0, 34.0)
SCALES = (0.1, 0.2, 0.3, 0.4, 0.55, 0.75)
SHIFTS = (3.0, 6.0, 12.0)
FEWEST_POLICIES = 16
BATCH = 48


@dataclass
class Weakened(Actor):
    """A policy made worse on purpose.

    Attributes:
        noise: standard deviation added to every action, degrees and percent; drawn anew for each chunk.
        scale: of the way from where the arm is to where the chunk would have it.
        shift: degrees added to the pan joint, a miscalibrated zero.
    """

    name: str = "as trained"
    noise: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def chunk(
        self,
        pixels: dict[str, np.ndarray],
        state: np.ndarray,
        texts: list[str],
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(N, T, A) actions in physical units, spoilt."""
        chunk, now = super().chunk(pixels, state, texts, extra), state[:, None]
        chunk = now + self.scale * (chunk - now) + self._rng.normal(0.0, self.noise, chunk.shape)
        chunk[..., 0] += self.shift
        return chunk.astype(np.float32)


def weakened(folders: Sequence[Path]) -> list[Weakened]:
    """Every policy as trained, and the last one with noise, shortened motion and a shifted pan joint."""
    loaded = [Actor.load(folder) for folder in folders]

    def made(actor: Actor, **settings: Any) -> Weakened:
        return Weakened(actor.policy, actor.preprocessor, actor.postprocessor, **settings)

    last = loaded[-1]
    return [
        *(made(actor, name=f"as trained, {folder}") for actor, folder in zip(loaded, folders, strict=True)),
        *(made(last, name=f"noise {x:g}", noise=x) for x in NOISES),
        *(made(last, name=f"scale {x:g}", scale=x) for x in SCALES),
        *(made(last, name=f"pan shifted {x:g}", shift=x) for x in SHIFTS),
    ]


def imagined_success(actor: Actor, env: DreamVectorEnv, episodes: int) -> list[bool]:
    """Success of the first `episodes` start frames, as `env` imagines and judges it."""
    actor.policy.eval()
    outcomes: list[bool] = []
    for seed in range(0, episodes, env.num_envs):
        actor.reset()
        observation, info = env.reset(seed=seed)
        texts, done = list(env.call("task_description")), np.zeros(env.num_envs, bool)
        horizon = actor.policy.config.n_action_steps
        while not done.all():
            chunk = actor.chunk(observation["pixels"], observation["agent_pos"], texts)
            for ahead in range(horizon):
                observation, _, terminated, truncated, info = env.step(
                    chunk[:, ahead], render=ahead == horizon - 1
                )
                done = terminated | truncated
        outcomes += info["is_success"].tolist()
    return outcomes[:episodes]


def first_frames(scenarios: Sequence[Scenario], config: HybridConfig) -> FrameCache:
    """What the twin shows at the start of every scenario, as one recorded frame each."""
    env = SO101TwinVectorEnv(len(scenarios), image_size=config.image_size[0], workers=0)
    try:
        observation, info = env.reset(options={"scenarios": list(scenarios)})
    finally:
        env.close()
    rows, texts = np.arange(len(scenarios)), [scenario.instruction for scenario in scenarios]
    return FrameCache(
        path=Path(), source=Path("the twin's scenes"), fps=TWIN_RATE_HZ, tasks=texts,
        frames={key: observation["pixels"][name].transpose(0, 3, 1, 2)
                for name, key in config.cameras.items()},
        columns={"index": rows, "task_index": rows, "observation.state": observation["agent_pos"],
                 PRESENT: info["present"].astype(np.float32)},
        episode_from=rows, episode_to=rows + 1,
    )  # fmt: skip


def run_study(
    world: Path,
    policies: Sequence[Path],
    output: Path,
    *,
    episodes: int,
    judge: str,
    progress: Any,
    workers: int = 2,
) -> Path:
    """Measures every policy on the twin and in the dream of `world`; returns the path of dream_study.json.

    `workers`: processes that simulate; 0 for none but this one.

    Raises:
        ConfigurationError, QueryError, CheckpointError: what cannot be dreamt in; see `DreamVectorEnv`.
    """
    actors = weakened(policies)
    if len(actors) < FEWEST_POLICIES:
        raise ConfigurationError(f"dream study: {len(actors)} policies; needs {FEWEST_POLICIES} or more")
    scenarios = suites.draw_suites(episodes, 0, 0, 0, 0, Variation()).success
    dreamt = DreamWorld(world)
    starts = first_frames(scenarios, dreamt.actor.policy.config)
    env = DreamVectorEnv(min(BATCH, episodes), dreamt, starts, range(episodes), MAX_STEPS, judge)
    rows = []
    with progress("policies, on the twin and in the dream", len(actors), "policies") as bar:
        for actor in actors:
            true = [bool(p.success[0]) for p in suites.play(actor, scenarios, workers=workers)]
            actor.reset()
            imagined = imagined_success(actor, env, episodes)
            rows.append({"policy": actor.name, "true": suites.rate(true), "imagined": suites.rate(imagined)})
            bar.advance()
    study = {
        "title": "Does success in the dream tell success on the table?",
        "machine": machine(), "git": git_revision(), "world": str(world), "judge": env.judged_by,
        "episodes": episodes, "policies": rows, **agreement(rows),
    }  # fmt: skip
    path = output / "dream_study.json"
    write_json(path, study)
    return path


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rho over policies with its interval, the mean error, and the same in a sentence."""
    true, imagined = ([row[side]["rate"] for row in rows] for side in ("true", "imagined"))
    off = float(np.mean(np.abs(np.subtract(imagined, true))))
    bias = float(np.mean(np.subtract(imagined, true)))
    if np.ptp(true) == 0 or np.ptp(imagined) == 0:
        side = "on the twin" if np.ptp(true) == 0 else "in the dream"
        plain = f"All {len(rows)} policies succeed equally often {side}: there is no order to compare."
        return {"spearman": None, "mean_error": off, "bias": bias, "plainly": plain}
    rho = spearman(true, imagined)
    ranks = "ranks policies" if rho.low > 0 else "cannot be said to rank policies"
    plain = (
        f"The dream {ranks}: rho {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}] over {len(rows)} policies; "
        f"a success rate in it is off by {100 * off:.0f} points on average ({100 * bias:+.0f} of them bias)."
    )
    figure = {"value": rho.value, "low": rho.low, "high": rho.high}
    return {"spearman": figure, "mean_error": off, "bias": bias, "plainly": plain}
