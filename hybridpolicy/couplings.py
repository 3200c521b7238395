"""Couplings: the field's architectures as rows of one table.

A row says who sees whom beyond the context C, how the future W is shown to the chunk A, and which `imagine`
settings exist at run time. Which queries a policy can answer is derived from its row.
"""

from dataclasses import dataclass

from hybridpolicy.errors import ConfigurationError, QueryError

IMAGINE_MODES = ("never", "on_uncertainty", "always")


@dataclass(frozen=True)
class Coupling:
    """One row of the table.

    Attributes:
        world: training looks at the future at all.
        world_sees_action: share of training samples on which W sees A.
        action_sees_world: A sees W.
        world_shown: how A is shown the future. `row`: keys and values of one W row computed before any action
            exists; `clean`: imagined latents embedded as clean tokens; `blocks`: future and actions block
            after block, each seeing the clean ones before (`blocks`); `plan`: only learned plan tokens, which
            in training were once allowed to see the future (`latent_plan`).
        fixed_time: W is only ever run from τ = 0 and never integrated.
        inverse: A is also trained on true futures, so the row can say which actions lead to a given one.
        imagine: settings of `imagine` the row offers; the first is the default.
        like: systems in whose spirit the row is.
    """

    name: str
    world: bool = True
    world_sees_action: float = 0.0
    action_sees_world: bool = False
    world_shown: str = "none"
    fixed_time: bool = False
    inverse: bool = False
    imagine: tuple[str, ...] = ("never",)
    like: str = ""

    def check_imagine(self, imagine: str) -> None:
        """Raises `ConfigurationError` if this row does not offer the setting."""
        if imagine not in self.imagine:
            raise ConfigurationError(
                f"hybrid: coupling = {self.name} offers imagine = {' | '.join(self.imagine)}, not "
                f"{imagine!r}; rows that do: "
                f"{', '.join(row.name for row in COUPLINGS.values() if imagine in row.imagine)}"
            )

    @property
    def generative(self) -> bool:
        """W is trained to predict the future, so action-free video trains the row's world prior."""
        return self.world and self.world_shown != "plan"

    @property
    def acts_without_world(self) -> bool:
        """`never` is offered: training hides W from A now and then."""
        return "never" in self.imagine

    @property
    def queries(self) -> frozenset[str]:
        """Queries a checkpoint of this row answers."""
        answers = {"act"}
        if self.generative:
            answers.add("imagine")
        if self.world_sees_action:
            answers.add("imagine_actions")
        if self.inverse:
            answers.add("infer_actions")
        return frozenset(answers)

    def require(self, query: str) -> None:
        """Raises `QueryError`, naming the rows that answer, if this one cannot."""
        if query not in self.queries:
            able = ", ".join(row.name for row in COUPLINGS.values() if query in row.queries)
            raise QueryError(f"hybrid: coupling {self.name!r} cannot answer {query!r}; rows that can: {able}")


_ROWS = (
    Coupling("vla", world=False, like="SmolVLA, pi0, GR00T"),
    Coupling("representation", like="Fast-WAM, VLA-JEPA"),
    Coupling(
        "joint",
        world_sees_action=0.5,
        action_sees_world=True,
        world_shown="row",
        inverse=True,
        imagine=IMAGINE_MODES,
        like="UWM, PAD, DreamZero, Cosmos Policy",
    ),
    Coupling(
        "cascaded",
        action_sees_world=True,
        world_shown="clean",
        inverse=True,
        imagine=IMAGINE_MODES,
        like="UniPi, Vidar, LingBot-VA",
    ),
    Coupling(
        "features",
        action_sees_world=True,
        world_shown="row",
        fixed_time=True,
        imagine=("always",),
        like="VPP",
    ),
    Coupling("latent_plan", world_shown="plan", like="Being-H0.7"),
    Coupling(
        "autoregressive",
        world_sees_action=1.0,
        action_sees_world=True,
        world_shown="blocks",
        inverse=True,
        imagine=("always",),
        like="GR-1, GR-2, WorldVLA",
    ),
)
COUPLINGS: dict[str, Coupling] = {row.name: row for row in _ROWS}
