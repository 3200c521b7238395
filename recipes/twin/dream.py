"""Fitting what a world policy needs to be dreamt in, and saying how good its judge is on real episodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.twin.foretold import Foretold
from embodiments.so101.twin.language import COLOURS, parse
from hybridpolicy.dream.checks import check_world
from hybridpolicy.dream.kit import DreamKit, Probe
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.world import fit_probe, latents_of, probe_r2
from hybridpolicy.outcome_schema import SUCCESS
from hybridpolicy.training.config import RECIPE_FILE, DatasetSource, load_recipe
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import SourceReader, open_readers
from recipes.twin.pictures import fit_decoder

FRAMES = 4000  # that decoders and probe are fitted on
JUDGE = f"{Foretold.__module__}:{Foretold.__qualname__}"
TWIN_COLUMNS = ("privileged.objects", "privileged.present")


def fit_dream(
    policy: Path, dataset: Path, cache_dir: Path, held_out: int, steps: int, progress: Any
) -> DreamKit:
    """Fits decoders and probe on `dataset` but for its last `held_out` episodes, and saves them.

    Raises:
        QueryError: the coupling cannot imagine under actions. ConfigurationError: no episodes left to fit on,
            or the policy was trained on some of those held out.
    """
    actor = Actor.load(policy)
    check_world(actor.policy.config)
    fitting, held = _readers(actor, policy, dataset, cache_dir, held_out)
    cameras = list(actor.policy.config.cameras)
    decoders = {}
    with progress("fitting decoders", len(cameras), "cameras") as bar:
        for camera in cameras:
            decoders[camera] = fit_decoder(actor.policy, actor.preprocessor, fitting, camera, FRAMES, steps)
            bar.advance()
    has_objects = all(name in fitting.cache.columns for name in TWIN_COLUMNS)
    kit = DreamKit(decoders, _fit_judge(actor, fitting, held) if has_objects else None)
    kit.save(policy)
    return kit


def _readers(
    actor: Actor, policy: Path, dataset: Path, cache_dir: Path, held_out: int
) -> tuple[SourceReader, SourceReader]:
    config = actor.policy.config
    size = (config.image_size[0], config.image_size[1])
    (every,) = open_readers(
        [DatasetSource(str(dataset))], policy_window(config), cache_dir,
        cameras=list(config.cameras.values()), image_size=size,
    )  # fmt: skip
    total = every.cache.num_episodes
    if not 0 < held_out < total:
        raise ConfigurationError(
            f"dream fit: {held_out} of {total} episodes held out; allowed 1 … {total - 1}"
        )
    trained_on = _trained_on(policy, dataset, total)
    unseen = [episode for episode in range(total) if episode not in trained_on]
    if len(unseen) < held_out:
        raise ConfigurationError(
            f"dream fit: the policy was trained on {len(trained_on)} of {total} episodes of {dataset}, and "
            f"{held_out} it has not seen are to be held out; "
            + (f"hold out {len(unseen)} or fewer" if unseen else "give recordings it has not seen")
        )
    held = set(unseen[-held_out:])
    fitting = DatasetSource(str(dataset), episodes=tuple(e for e in range(total) if e not in held))
    reader = SourceReader(fitting, every.cache, policy_window(config))
    rest = reader.left_out()
    assert rest is not None
    return reader, rest


def _trained_on(policy: Path, dataset: Path, total: int) -> set[int]:
    """Episodes of `dataset` the checkpoint `policy` says it was trained on."""
    if not (policy / RECIPE_FILE).is_file():
        return set()
    sources = (source for stage in load_recipe(policy).stages for source in stage.sources)
    known = [source for source in sources if source.root and Path(source.root).resolve() == dataset.resolve()]
    return {episode for source in known for episode in source.episodes or range(total)}


def _truth(reader: SourceReader, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    objects, there = (reader.cache.columns[name][rows] for name in TWIN_COLUMNS)
    return objects.reshape(len(rows), -1, 2), there > 0.5


def _fit_judge(actor: Actor, fitting: SourceReader, held: SourceReader) -> Probe:
    rng = np.random.default_rng(0)
    rows = fitting.draw_rows(rng, FRAMES)
    weights = fit_probe(
        latents_of(actor.policy, actor.preprocessor, fitting, rows).flatten(1).numpy(), *_truth(fitting, rows)
    )
    checked = held.draw_rows(rng, FRAMES // 4)
    r2 = probe_r2(
        weights,
        latents_of(actor.policy, actor.preprocessor, held, checked).flatten(1).numpy(),
        *_truth(held, checked),
    )
    probe = Probe(weights, JUDGE, r2, {})
    return Probe(weights, JUDGE, r2, judge_real_episodes(actor, held, probe))


def judge_real_episodes(actor: Actor, reader: SourceReader, probe: Probe) -> dict[str, float]:
    """How often the judge calls a held-out success one, and how often where another task had been asked.

    {"hits", "false_alarms", "episodes"}: both are shares; the second counts tasks of the same scene. Episodes
    that failed, or that ask for a block that is not there, or for nothing the twin knows, are left out; where
    no scene has another task, so are the false alarms.

    Raises:
        ConfigurationError: no episode is left.
    """
    cache, hits, alarms = reader.cache, [], []
    texts = sorted(set(cache.tasks))
    for number, episode in enumerate(reader.source.episodes):
        rows = np.arange(cache.episode_from[episode], cache.episode_to[episode])
        text = cache.tasks[cache.columns["task_index"][rows[0]]]
        _, there = _truth(reader, rows)
        ended = cache.columns.get(SUCCESS)  # of rollouts; demonstrations do not say, and all succeed
        failed = ended is not None and not ended[rows].any()
        if failed or not _can_be_done(text, there[0]):
            continue
        objects = probe.read(latents_of(actor.policy, actor.preprocessor, reader, rows))
        state = cache.columns["observation.state"][rows]
        hits.append(_succeeds(text, objects, there, state))
        others = [t for t in texts if _can_be_done(t, there[0]) and parse(t) != parse(text)]
        if others:
            alarms.append(_succeeds(others[number % len(others)], objects, there, state))
    if not hits:
        raise ConfigurationError(
            "dream fit: no held-out episode that succeeded asks for something that is there, so the judge "
            "cannot be judged; hold out more episodes"
        )
    found = {"hits": float(np.mean(hits)), "episodes": float(len(hits))}
    return found | ({"false_alarms": float(np.mean(alarms))} if alarms else {})


def _can_be_done(text: str, there: np.ndarray) -> bool:
    """`text` is a task of the twin, with a block that is there."""
    try:
        task = parse(text)
    except ValueError:
        return False
    return bool(there[COLOURS.index(task.colour)])


def _succeeds(text: str, objects: np.ndarray, there: np.ndarray, state: np.ndarray) -> bool:
    judge = Foretold([text], objects[:1], there[:1], state[:1])
    results: Sequence[bool] = [
        bool(judge.update(objects[i : i + 1], state[i : i + 1])[0]) for i in range(1, len(objects))
    ]
    return results[-1]
