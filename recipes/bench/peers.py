"""LeRobot's own policies from scratch, at the size of a hybrid they are compared with, on the same inputs.

Their ResNet-18 alone has 11 M parameters, so "matched" is about 15 M. Nothing is downloaded: SmolVLA's
language and vision model is a small one of the same class, saved to a folder first.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from torch import Tensor, nn

from hybridpolicy.goal import build_tokenizer

CAMERAS = ("front", "wrist")
JOINTS, CHUNK, STEPS, SIZE = 6, 8, 2, 96
TEXT = "push the red block into the left zone"
TEXT_TOKENS = 9


def features() -> dict[str, dict[str, PolicyFeature]]:
    """Inputs and outputs of the simulated SO-101: two cameras of 96 pixels, six joints."""
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)) for name in CAMERAS
    }
    joints = PolicyFeature(FeatureType.STATE, (JOINTS,))
    return {
        "input_features": images | {"observation.state": joints},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))},
    }


def observation() -> dict[str, Any]:
    """One normalised observation of such an arm, as every policy's pipeline would hand it over."""
    rng = torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {
        f"observation.images.{name}": torch.rand(1, 3, SIZE, SIZE, generator=rng) for name in CAMERAS
    }
    batch["observation.state"] = torch.randn(1, JOINTS, generator=rng)
    batch["task"] = [TEXT]
    batch["observation.language.tokens"] = torch.arange(3, 3 + TEXT_TOKENS)[None]
    batch["observation.language.attention_mask"] = torch.ones(1, TEXT_TOKENS, dtype=torch.bool)
    return batch


def act() -> nn.Module:
    """ACT, one forward pass a chunk."""
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        device="cpu", pretrained_backbone_weights=None, chunk_size=CHUNK, n_action_steps=STEPS, dim_model=224,
        n_heads=8, dim_feedforward=896, n_vae_encoder_layers=2, **features(),
    )  # fmt: skip
    return ACTPolicy(config)


def diffusion() -> nn.Module:
    """Diffusion policy, ten denoising steps."""
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    config = DiffusionConfig(
        device="cpu", pretrained_backbone_weights=None, n_obs_steps=1, horizon=CHUNK, n_action_steps=STEPS,
        down_dims=(96, 192), use_separate_rgb_encoder_per_camera=False, use_group_norm=True,
        noise_scheduler_type="DDIM", num_inference_steps=10, **features(),
    )  # fmt: skip
    return DiffusionPolicy(config)


def smolvla(folder: Path) -> nn.Module:
    """SmolVLA with a small model of its class, ten integration steps; `folder` keeps that model."""
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    _save_small_vlm(folder)
    config = SmolVLAConfig(
        device="cpu", vlm_model_name=str(folder), load_vlm_weights=False, chunk_size=CHUNK,
        n_action_steps=STEPS,
        num_vlm_layers=8, resize_imgs_with_padding=(SIZE, SIZE), train_expert_only=False,
        freeze_vision_encoder=False, **features(),
    )  # fmt: skip
    with redirect_stdout(sys.stderr):  # it prints; what our commands print is their answer
        return SmolVLAPolicy(config)


def _save_small_vlm(folder: Path) -> None:
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    text = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
        "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": SIZE, "patch_size": 16,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=2, pad_token_id=0, scale_factor=2
    )
    config.save_pretrained(folder)
    image_tokens = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(TEXT.split()).backend_tokenizer, pad_token="<pad>",
        unk_token="<unk>", extra_special_tokens=image_tokens,
    )  # fmt: skip
    SmolVLMProcessor(
        SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=9
    ).save_pretrained(folder)


def peers(folder: Path) -> Mapping[str, Callable[[], nn.Module]]:
    """Name → builder."""
    return {"lerobot act": act, "lerobot diffusion": diffusion, "lerobot smolvla": lambda: smolvla(folder)}


def plan_once(policy: Any, batch: dict[str, Tensor]) -> Tensor:
    """A fresh chunk, whatever the policy queues between observations."""
    policy.reset()
    chunk: Tensor = policy.select_action(dict(batch))
    return chunk
