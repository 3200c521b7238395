"""`--set policy.coupling=…`: what else of a resolved configuration must follow the row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipes.commands.failures import CommandError

COUPLING, IMAGINE = "policy.coupling", "policy.imagine"


def complete(config: Any, assignments: list[str]) -> list[str]:
    """`assignments`, and `imagine` by the new row's default where it does not offer what `config` says."""
    from hybridpolicy.couplings import COUPLINGS

    given = dict(assignment.partition("=")[::2] for assignment in assignments)
    row = COUPLINGS.get(given.get(COUPLING, ""))
    if row is None or IMAGINE in given or config.policy.imagine in row.imagine:
        return assignments
    return [*assignments, f"{IMAGINE}=null"]


def leave_out_idle_stages(config: Any) -> tuple[Any, tuple[str, ...]]:
    """`config` without stages of action-free video alone if its row trains no world prior; and their names.

    Raises:
        CommandError: nothing would be left.
    """
    from hybridpolicy.couplings import COUPLINGS

    row = COUPLINGS.get(getattr(config.policy, "coupling", ""))
    if row is None or row.generative:
        return config, ()
    idle = [stage for stage in config.stages if all("action" in source.drop for source in stage.sources)]
    kept = [stage for stage in config.stages if stage not in idle]
    if not kept:
        raise CommandError(
            f"--set {COUPLING}={row.name}: it learns nothing from action-free video, and there is nothing "
            f"else; rows that do: {', '.join(name for name, other in COUPLINGS.items() if other.generative)}"
        )
    return replace(config, stages=kept), tuple(stage.name for stage in idle)
