"""Study: every coupling and tied streams at the quickstart's budget, three seeds, same scenes, one table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.training.config import TrainConfig
from recipes.so101_quickstart import BUDGET, imitated
from recipes.so101_quickstart import recipe as quickstart
from recipes.twin.study import Variant, check_base, run_study

SEEDS = (0, 1, 2)
COMMAND = "hybridpolicy train --recipe couplings_study"


def recipe(root: str = "outputs/couplings_study") -> TrainConfig:
    """The quickstart; the study's variants differ from it in the coupling alone."""
    return replace(quickstart(root), name="couplings_study")


def variants(config: TrainConfig) -> list[Variant]:
    """The quickstart itself, one for each row of the table, and one whose world and action tokens share their
    weights.

    A row without a world prior can have no stage 1, so none has but the quickstart: all others see equally
    many samples of the same demonstrations.

    Raises:
        ConfigurationError: `config` sets a coupling, streams or other stages.
    """
    check_base(config, recipe(), ("coupling", "streams"))
    rows = [("joint", "two", "with"), *((row, "two", "without") for row in COUPLINGS)]
    found = []
    for name, streams, stage1 in [*rows, ("joint", "tied", "without")]:
        stages = config.stages
        if stage1 == "without":
            stages = [replace(imitated(stages[-1]), samples=sum(stage.samples for stage in stages))]
        policy = replace(config.policy, coupling=name, streams=streams, imagine=None)
        factors = {"coupling": name, "streams": streams, "stage1": stage1}
        found.append(Variant(factors, replace(config, stages=stages, policy=policy)))
    return found


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Trains and evaluates all cells, `SEEDS` counted from `seed`; returns the path of study.json."""
    return run_study(
        "Every coupling at one budget",
        COMMAND,
        variants(config or recipe(str(output))),
        [seed + each for each in SEEDS],
        output,
        BUDGET,
        Variation(),
        progress,
    )
