"""How a planner chooses. Knows no torch: commands name the weights before anything is loaded."""

import math
from dataclasses import dataclass

from hybridpolicy.errors import ConfigurationError

WEIGHTS = ("consensus", "progress", "success", "risk")
"""Fields that say what a candidate is chosen by."""


@dataclass(frozen=True)
class PlannerSettings:
    """How a plan is chosen.

    Attributes:
        candidates: K. 1 imagines and scores its one candidate all the same.
        consensus: weight of agreeing with the other candidates on what is executed before the next plan
            (`planner.consensus`).
        progress, success, risk: weights of what the outcome heads say; risk counts against a candidate.
        warm_start: the first candidate goes on with the last plan. Steadier, and older than it need be: what
            is executed was begun before the last look.
        budget_ms: bound on one plan's time; K is lowered to what fits, never below 1. None: no bound.
    """

    candidates: int = 8
    consensus: float = 1.0
    progress: float = 0.0
    success: float = 1.0
    risk: float = 0.0
    warm_start: bool = False
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigurationError(f"planner: candidates = {self.candidates}; must be 1 or more")
        weights = {name: getattr(self, name) for name in WEIGHTS}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigurationError(f"planner: {name} = {weight}; must be 0 or more")
        if not any(weights.values()):
            raise ConfigurationError(
                f"planner: {', '.join(weights)} are all 0: nothing is left to choose by; give one a weight"
            )
        if self.budget_ms is not None and self.budget_ms <= 0:
            raise ConfigurationError(
                f"planner: budget_ms = {self.budget_ms}; must be above 0, or None for no bound"
            )
