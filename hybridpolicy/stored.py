"""What of a policy lies in its checkpoint: saved so, and loaded strictly."""

from collections.abc import Iterable
from copy import copy
from pathlib import Path

from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridpolicy.configuration_hybrid import EMBEDDED, HybridConfig
from hybridpolicy.errors import CheckpointError
from hybridpolicy.fingerprint import fingerprint
from hybridpolicy.network import HybridNetwork

LANGUAGE_MODEL = "network.goal.model."
GOAL_HASH = "goal_sha256"


class StoredPolicy(PreTrainedPolicy):
    """The part of `HybridPolicy` that LeRobot's `save_pretrained` and `from_pretrained` go through."""

    config_class = HybridConfig
    name = "hybrid"
    config: HybridConfig
    network: HybridNetwork
    base_embodiment: str

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        config = copy(self.config)
        config.embodiment = self.base_embodiment
        config._save_pretrained(save_directory)
        state = self.state_dict() if state_dict is None else state_dict
        keep = {  # LoRA renames q.weight to q.base_layer.weight; the base is stored as if there were none
            name.replace(".base_layer", ""): tensor.detach().cpu().contiguous().clone()
            for name, tensor in state.items()
            if self._is_stored(name)
        }
        facts = {"format": "pt"}
        if self._goal_is_frozen:
            facts[GOAL_HASH] = fingerprint(self.network.goal.model.state_dict())
        save_file(keep, str(save_directory / "model.safetensors"), metadata=facts)
        self.network.goal.save_tokenizer(save_directory)

    @property
    def _goal_is_frozen(self) -> bool:
        return self.config.goal_model != EMBEDDED and self.config.goal_train == "insulated"

    def _is_stored(self, name: str) -> bool:
        """Frozen pretrained parts are named by id, revision and hash; adapters have their own folders."""
        of_adapter = "lora_" in name or (
            name.startswith("embodiments.") and not name.startswith(f"embodiments.{self.base_embodiment}.")
        )
        return not of_adapter and not (self._goal_is_frozen and name.startswith(LANGUAGE_MODEL))

    @classmethod
    def _load_as_safetensor(
        cls, model: "StoredPolicy", model_file: str, map_location: str, strict: bool
    ) -> "StoredPolicy":
        """Loads strictly, whatever LeRobot asks for: a policy with missing weights is no policy."""
        given = load_file(model_file, device="cpu")
        own = model.state_dict()
        expected = {name for name in own if model._is_stored(name)}
        missing, surplus = sorted(expected - given.keys()), sorted(given.keys() - expected)
        wrong = sorted(n for n in expected & given.keys() if given[n].shape != own[n].shape)
        if missing or surplus or wrong:
            raise CheckpointError(
                f"hybrid: {model_file} does not fit this configuration: {_some('missing', missing)}, "
                f"{_some('surplus', surplus)}, {_some('of another shape', wrong)}. Load it with the "
                "config.json saved beside it"
            )
        model._check_goal(model_file)
        model.load_state_dict(given, strict=False)
        return model

    def _check_goal(self, model_file: str) -> None:
        """Refuses a frozen goal model other than the one this checkpoint was trained with."""
        with safe_open(model_file, framework="pt") as file:
            saved = (file.metadata() or {}).get(GOAL_HASH)
        if saved and self._goal_is_frozen and saved != fingerprint(self.network.goal.model.state_dict()):
            raise CheckpointError(
                f"hybrid: {model_file} was trained with another {self.config.goal_model} (revision "
                f"{self.config.goal_revision}): its weights have changed since. Give goal_model the "
                "original, or set goal_revision to the commit it was"
            )

    def base_hash(self) -> str:
        """SHA-256 of the shared weights (no projectors, no LoRA): what an adapter is bound to."""
        state = self.network.state_dict().items()
        return fingerprint({name.replace(".base_layer", ""): t for name, t in state if "lora_" not in name})


def _some(what: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])}…)" if names else "")
