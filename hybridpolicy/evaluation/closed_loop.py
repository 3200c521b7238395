"""Success of a policy in any LeRobot environment, batched in one process, with intervals.

N tables played together, A numbers of an action, S of a state.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridpolicy.errors import ConfigurationError, allowed
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.stats import wilson_interval

PLUGIN = "lerobot_policy_hybrid"  # importing it registers this project's environments
MOST_TABLES = 48


def environment_type(env: str) -> type:
    """LeRobot's configuration class of environment type `env`.

    Raises:
        ConfigurationError: no such environment type.
    """
    importlib.import_module(PLUGIN).register(everything=True)
    from lerobot.envs.configs import EnvConfig

    known = EnvConfig.get_known_choices()
    if env not in known:
        raise ConfigurationError(f"environment type {env!r}: {allowed(env, known)}")
    found: type = EnvConfig.get_choice_class(env)
    return found


def environment_config(env: str, tasks: tuple[str, ...] = (), **settings: Any) -> Any:
    """LeRobot's configuration of environment type `env`, with `tasks` joined by commas.

    Raises:
        ConfigurationError: no such environment type, or a value it does not take.
    """
    if tasks:
        settings["task"] = ",".join(tasks)
    try:
        return environment_type(env)(**settings)
    except ValueError as error:
        raise ConfigurationError(f"environment type {env!r}: {error}") from error


def create_tables(config: Any, count: int) -> dict[tuple[str, int], Any]:
    """{(suite, index of the task in it): vector environment of `count` tables}.

    Raises:
        ConfigurationError: the environment's own package is not installed.
    """
    try:
        suites = config.create_envs(count)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"environment type {config.type!r}: {error}") from error
    return {(suite, index): vector for suite, vectors in suites.items() for index, vector in vectors.items()}


@dataclass(frozen=True)
class Step:
    """One step of N tables, and what was seen before it.

    Attributes:
        pixels: {camera: (N, H, W, 3) uint8}. state: (N, S). extra: {key: (N, …)}; as of `Actor.batch`.
        tasks: N names. texts: N instructions.
        action: (N, A) what was sent. planned: the first one of a plan.
        imagined: (N,) the plan it is of was made with an imagined future.
        running: (N,) not finished before this step.
        succeeded, terminated, truncated: (N,) what the environment says of this step.
    """

    pixels: dict[str, np.ndarray]
    state: np.ndarray
    extra: dict[str, np.ndarray]
    tasks: list[str]
    texts: list[str]
    action: np.ndarray
    planned: bool
    imagined: np.ndarray
    running: np.ndarray
    succeeded: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def roll(
    actor: Actor,
    vector: Any,
    features_map: dict[str, str],
    seed: int,
    send: Callable[[np.ndarray, bool], np.ndarray] | None = None,
    count: int | None = None,
) -> Iterator[Step]:
    """Steps one episode on every table until all are finished, seeds counting up from `seed`.

    Args:
        count: only the first ones are played for; the others never run. None: all.
        features_map: names of the environment → LeRobot's, of its configuration.
        send: (action (N, A), whether it is the first one of a plan) → what is sent; None: the action.

    Raises:
        ConfigurationError: the environment shows no pictures or no state.
        CheckpointError: a camera of the policy is missing.
    """
    from lerobot.envs.utils import NEW_ROLLOUT_OPTION

    actor.policy.eval()
    actor.reset()
    tables = int(vector.num_envs)
    # Without that option LeRobot's tables that ended stay as they are, and say again how they ended.
    observation, _ = vector.reset(seed=list(range(seed, seed + tables)), options={NEW_ROLLOUT_OPTION: True})
    tasks = _called(vector, "task", "task")
    texts = _called(vector, "task_description", "")
    texts = [text or task for text, task in zip(texts, tasks, strict=True)]
    imagined = np.zeros(tables, bool)
    done = imagined if count is None else np.arange(tables) >= count
    for _ in range(int(vector.call("_max_episode_steps")[0])):
        pixels, state = _observed(observation, features_map)
        extra = _named_columns(observation, features_map, actor)
        planned = not actor.queued
        if planned:
            actor.playing = ~done
            actor.plan(pixels, state, texts, extra)
            imagined = actor.imagined(tables)
        action = actor.next_action()
        if send is not None:
            action = send(action, planned)
        observation, _, terminated, truncated, info = vector.step(action)
        yield Step(
            pixels, state, extra, tasks, texts, action, planned, imagined, ~done, _succeeded(info, tables),
            np.asarray(terminated, bool), np.asarray(truncated, bool),
        )  # fmt: skip
        done = done | terminated | truncated
        if done.all():
            break


def evaluate_policy(
    policy: str | Actor,
    env: str,
    *,
    tasks: tuple[str, ...] = (),
    episodes: int = 90,
    seed: int = 1000,
    imagine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[list[float]], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Returns {"success": {"rate", "low", "high", "episodes", "by_task"}, "imagined_share"} over `episodes`
    resets in all, as equally many of each task as they divide into; the latter of plans that were made with
    an imagined future.

    Named columns of the policy (`optional_context`) come from the environment's entries of those names.

    Args:
        policy: a `pretrained_model` folder, a hub id, or an actor.
        watch: told after every plan how doubtful it is, for each episode still running (`Actor.doubt`; 0
            where nothing says so, as at the first look of an episode).
        env: LeRobot environment type. settings: further fields of its configuration.
        seed: of the first reset of every task; the same seeds are the same scenes for every policy.

    Raises:
        ConfigurationError: unknown environment, or it runs at another rate than the policy was trained at.
        CheckpointError: no such policy, or a camera of the policy is missing.
    """
    config = environment_config(env, tasks, **settings)
    actor = policy if isinstance(policy, Actor) else Actor.load(policy, imagine)
    names = list(create_tables(config, 1))  # first: it says what a configuration still lacks
    actor.check_rate(float(config.fps))
    outcomes: dict[str, list[bool]] = {}
    imagined: list[bool] = []
    for each, name in zip(shares(episodes, len(names)), names, strict=True):
        if not each:
            continue
        vector = create_tables(config, min(each, MOST_TABLES))[name]
        results: list[tuple[str, bool]] = []
        while len(results) < each:
            count = min(each - len(results), vector.num_envs)
            results += _run_batch(actor, vector, config, seed + len(results), count, imagined, watch)
        vector.close()
        for task, success in results:
            outcomes.setdefault(task, []).append(success)
        if progress is not None:
            progress(sum(map(len, outcomes.values())), episodes)
    return {"success": _figures(outcomes), "imagined_share": float(np.mean(imagined))}


def shares(episodes: int, tasks: int) -> list[int]:
    """How many of them each task has; the first ones have one more where they do not divide."""
    return [episodes // tasks + (task < episodes % tasks) for task in range(tasks)]


def _run_batch(
    actor: Actor,
    vector: Any,
    config: Any,
    seed: int,
    count: int,
    imagined: list[bool],
    watch: Callable[[list[float]], None] | None,
) -> list[tuple[str, bool]]:
    """(task, success) of one episode on each of the first `count` tables, seeds counting up from `seed`; each
    plan of an episode still running adds to `imagined`.
    """
    success = np.zeros(vector.num_envs, bool)
    for step in roll(actor, vector, config.features_map, seed, count=count):
        if step.planned:
            imagined += step.imagined[step.running].tolist()
            if watch is not None:
                doubt = np.zeros(len(success)) if actor.doubt is None else actor.doubt
                watch(doubt[step.running].tolist())
        success |= step.running & step.succeeded
    return list(zip(step.tasks, success.tolist(), strict=True))[:count]


def _called(vector: Any, name: str, otherwise: str) -> list[str]:
    """What each table calls its task; `otherwise` where environments of its type say nothing."""
    try:
        return [str(value) for value in vector.call(name)]
    except AttributeError:
        return [otherwise] * int(vector.num_envs)


def check_shown(names: Iterable[str]) -> None:
    """Raises `ConfigurationError` where an observation of these entries is not enough to act on."""
    shown = sorted(names)
    if "pixels" not in shown or "agent_pos" not in shown:
        raise ConfigurationError(
            f"hybrid: the environment shows {shown}; a policy is given `pixels` and `agent_pos`. Choose an "
            "environment that shows both"
        )


def _observed(
    observation: dict[str, Any], features_map: dict[str, str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """LeRobot's raw observation → {camera: (N, H, W, 3)} by the policy's names, and state (N, S)."""
    check_shown(observation)
    pixels = observation["pixels"]
    views = pixels if isinstance(pixels, dict) else {"": pixels}
    named = {}
    for name, frames in views.items():
        key = features_map.get(f"pixels/{name}" if name else "pixels", name)
        named[key.split(".")[-1]] = frames
    return named, observation["agent_pos"]


def _named_columns(
    observation: dict[str, Any], features_map: dict[str, str], actor: Actor
) -> dict[str, np.ndarray]:
    """{key: (N, S)} what else the environment shows of what the policy may be given."""
    wanted = {vector.key for vector in actor.policy.config.vectors}
    keys = {features_map.get(name, f"observation.{name}"): name for name in observation}
    return {key: np.asarray(observation[name]) for key, name in keys.items() if key in wanted}


def _succeeded(info: dict[str, Any], count: int) -> np.ndarray:
    """(N,) by the info of a step. What is said of an ended episode counts before that of the next one, which
    an environment that begins again in the same step says beside it.
    """
    succeeded = np.zeros(count, bool)
    for said in (info, info.get("final_info")):
        if isinstance(said, dict) and "is_success" in said:
            known = np.asarray(said.get("_is_success", np.ones(count, bool)), bool)
            succeeded[known] = np.asarray(said["is_success"], bool)[known]
    return succeeded


def rate(results: Sequence[bool]) -> dict[str, Any]:
    """{"rate", "low", "high", "episodes"} with a 95 % Wilson interval."""
    interval = wilson_interval(sum(results), len(results))
    return {"rate": interval.value, "low": interval.low, "high": interval.high, "episodes": len(results)}


def _figures(outcomes: dict[str, list[bool]]) -> dict[str, Any]:
    by_task = {name: rate(results) for name, results in outcomes.items()}
    return {**rate([x for results in outcomes.values() for x in results]), "by_task": by_task}
