"""Couplings: the field's architectures as rows of one table.

A row says who sees whom beyond the context C, how the future W is shown to the chunk A, and which `imagine`
settings exist at run time. Which queries a policy can answer is derived from its row.
"""

from dataclasses import dataclass

from hybridpolicy.errors import ConfigurationError, QueryError

IMAGINE_MODES = ("never", "always")


@dataclass(frozen=True)
class Coupling:
    """One row of the table.

    Attributes:
        world: the row has a future W at all.
        world_sees_action: share of training samples on which W sees A.
        action_sees_world: A sees W.
        world_shown: how A is shown the future: `row`, the keys and values of one W row computed before any
            action exists; `clean`, imagined latents embedded as clean tokens.
        imagine: settings of `imagine` the row offers.
        like: systems in whose spirit the row is.
    """

    name: str
    world: bool
    world_sees_action: float
    action_sees_world: bool
    world_shown: str
    imagine: tuple[str, ...]
    like: str

    def check_imagine(self, imagine: str) -> None:
        """Raises `ConfigurationError` if this row does not offer the setting."""
        if imagine not in self.imagine:
            raise ConfigurationError(
                f"hybrid: coupling = {self.name} offers imagine = {' | '.join(self.imagine)}, not "
                f"{imagine!r}; rows that do: "
                f"{', '.join(row.name for row in COUPLINGS.values() if imagine in row.imagine)}"
            )

    @property
    def queries(self) -> frozenset[str]:
        """Queries a checkpoint of this row answers."""
        answers = {"act"}
        if self.world:
            answers.add("imagine")
        if self.world_sees_action:
            answers.add("imagine_actions")
        if self.action_sees_world:
            answers.add("infer_actions")
        return frozenset(answers)

    def require(self, query: str) -> None:
        """Raises `QueryError`, naming the rows that answer, if this one cannot."""
        if query not in self.queries:
            able = ", ".join(row.name for row in COUPLINGS.values() if query in row.queries)
            raise QueryError(f"hybrid: coupling {self.name!r} cannot answer {query!r}; rows that can: {able}")


COUPLINGS: dict[str, Coupling] = {
    row.name: row
    for row in (
        Coupling("vla", False, 0.0, False, "none", ("never",), "SmolVLA, pi0, GR00T"),
        Coupling("representation", True, 0.0, False, "none", ("never",), "Fast-WAM, VLA-JEPA"),
        Coupling("joint", True, 0.5, True, "row", ("never", "always"), "UWM, PAD, DreamZero, Cosmos Policy"),
        Coupling("cascaded", True, 0.0, True, "clean", ("never", "always"), "UniPi, Vidar, LingBot-VA"),
    )
}
