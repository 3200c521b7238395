"""One arm's adapter: LoRA on the action stream, projectors, pipeline and statistics, bound to one base.

On disk it is a folder in LeRobot's `pretrained_model` layout. It is refused on any base but its own: LoRA on
other weights loads without complaint and moves an arm at random.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from hybridpolicy.embodiment import Embodiment
from hybridpolicy.errors import AdapterError
from hybridpolicy.modeling_hybrid import HybridPolicy

WEIGHTS_FILE = "adapter_model.safetensors"
FACTS_FILE = "embodiment.json"


def _lora_names(policy: HybridPolicy, tag: str) -> list[str]:
    """Of one adapter; its tag stands behind lora_A or lora_B, before it a module may be called the same."""
    names = policy.network.state_dict()
    return [name for name in names if f".{tag}." in name.partition("lora_")[2]]


def _inject(policy: HybridPolicy, tag: str, rank: int) -> None:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=policy.network.streams.lora_targets)
    inject_adapter_in_model(config, policy.network, adapter_name=tag)


def add_adapter(policy: HybridPolicy, tag: str, rank: int | None = None) -> None:
    """Freezes the base and gives `policy` a fresh adapter and projectors named `tag`, which becomes the
    active one.

    Raises:
        AdapterError: the tag is taken, or is not a plain name.
    """
    if not tag.isidentifier():
        raise AdapterError(f"{tag!r}: an embodiment's tag is letters, digits and underscores, e.g. 'so101'")
    if tag in policy.embodiments:
        raise AdapterError(f"{tag}: this policy already has an embodiment of that name; choose another tag")
    policy.requires_grad_(False)
    _inject(policy, tag, rank or policy.config.lora_rank)
    fresh = Embodiment(policy.config)
    if policy.config.embodiment in policy.embodiments:
        fresh.load_state_dict(policy.embodiment.state_dict())
    policy.embodiments[tag] = fresh.to(policy.train_step.device).requires_grad_(True)
    policy.config.embodiment = tag


def save_adapter(policy: HybridPolicy, folder: Path, preprocessor: Any, postprocessor: Any) -> None:
    """Writes the active adapter, its projectors, statistics and pipeline, and the hash of its base.

    Raises:
        AdapterError: the policy has no adapter for its active embodiment.
    """
    tag = policy.config.embodiment
    names = _lora_names(policy, tag)
    if not names:
        raise AdapterError(f"{tag}: no adapter of that name in this policy; call add_adapter first")
    folder.mkdir(parents=True, exist_ok=True)
    state = policy.network.state_dict()
    weights = {f"network.{name}": state[name].detach().cpu().clone().contiguous() for name in names}
    for name, tensor in policy.embodiment.state_dict().items():
        weights[f"embodiment.{name}"] = tensor.detach().cpu().contiguous()
    save_file(weights, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    policy.config._save_pretrained(folder)
    preprocessor.save_pretrained(folder)
    postprocessor.save_pretrained(folder)
    rank = next(tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name)
    facts = {
        "tag": tag,
        "rank": rank,
        "base_sha256": policy.base_hash(),
        "joints": policy.config.action_feature_names,
        "fps": policy.config.fps,
        "action_convention": policy.config.action_convention,
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2))


def _check_body(policy: HybridPolicy, folder: Path, facts: dict[str, Any]) -> None:
    """Refuses an adapter whose joints, rate or action convention are not those the policy is set to."""
    config = policy.config
    own = {
        "joints": config.action_feature_names,
        "fps": config.fps,
        "action_convention": config.action_convention,
    }
    for name, value in own.items():
        if facts.get(name) != value:
            raise AdapterError(
                f"{folder}: made for {name} = {facts.get(name)}, this policy has {value}; load the base with "
                "the configuration the adapter was trained with"
            )


def load_adapter(policy: HybridPolicy, folder: Path) -> str:
    """Loads an adapter onto its own base, makes it active and returns its tag.

    Raises:
        AdapterError: the folder is no adapter, or belongs to another base.
    """
    try:
        facts = json.loads((folder / FACTS_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise AdapterError(
            f"{folder} is not an adapter folder ({error}); give one written by save_adapter"
        ) from error
    base = policy.base_hash()
    if facts["base_sha256"] != base:
        raise AdapterError(
            f"{folder}: made for base {facts['base_sha256'][:12]}…, this policy's base is {base[:12]}…; load "
            "the base it was trained on, or train a new adapter"
        )
    _check_body(policy, folder, facts)
    tag = facts["tag"]
    if not _lora_names(policy, tag):
        _inject(policy, tag, facts["rank"])
    weights = load_file(str(folder / WEIGHTS_FILE))
    network = {name.removeprefix("network."): t for name, t in weights.items() if name.startswith("network.")}
    own = policy.network.state_dict()
    if {n: t.shape for n, t in network.items()} != {n: own[n].shape for n in _lora_names(policy, tag)}:
        raise AdapterError(
            f"{folder}: its LoRA layers are not those of this architecture; check lora_rank and depth"
        )
    policy.network.load_state_dict(network, strict=False)
    for module in policy.network.modules():  # another adapter may have been the active one
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(tag)
    body = Embodiment(policy.config)
    body.load_state_dict(
        {n.removeprefix("embodiment."): t for n, t in weights.items() if n.startswith("embodiment.")}
    )
    policy.embodiments[tag] = body.to(policy.train_step.device)
    policy.config.embodiment = tag
    with torch.no_grad():
        policy.reset()
    return tag
