"""The Meta-World recipe: what it learns from, and what it keeps to measure on."""

from embodiments.metaworld.tasks import MT8
from recipes.metaworld_mt8 import DEMONSTRATIONS, recipe


def test_the_last_demonstration_of_every_task_is_held_out():
    (source,) = recipe().stages[-1].sources
    held_out = sorted(set(range(DEMONSTRATIONS * len(MT8))) - set(source.episodes))
    assert held_out == [39, 79, 119, 159, 199, 239, 279, 319]
    assert recipe().validate_every_samples > 0
