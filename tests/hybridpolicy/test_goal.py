"""The goal encoder: its words, its cache, and a pretrained model loaded from a folder as a user would."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from hybridpolicy.errors import CheckpointError, ConfigurationError
from hybridpolicy.goal import build_tokenizer, words_of
from hybridpolicy.modeling_hybrid import HybridPolicy

SPECIAL = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
LAYERS = 4


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    """A folder with a random SmolVLM of four language layers and its processor."""
    folder = tmp_path_factory.mktemp("smolvlm")
    words = ["<pad>", "<unk>", *SPECIAL.values(), "push", "put", "the", "red", "blue", "block", "into", "bin"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", extra_special_tokens=SPECIAL
    )
    side = {"longest_edge": 32}
    images = SmolVLMImageProcessor(size=side, max_image_size=side)
    videos = SmolVLMVideoProcessor(size=side, max_image_size=side, num_frames=2, fps=1)
    SmolVLMProcessor(images, fast, videos).save_pretrained(folder)
    text = {
        "model_type": "llama",
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    torch.manual_seed(1)
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=2, pad_token_id=0, scale_factor=2
    )
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def pretrained(make_policy, smolvlm):
    """(**fields) → a policy whose goal encoder is the model in the folder."""

    def make(live=False, **fields):
        options = {"goal_model": str(smolvlm), "goal_train": "insulated", "lexicon": []}
        return make_policy(live=live, **(options | fields))

    return make


# -- the embedded one
def test_words_are_cut_as_the_tokenizer_cuts_them():
    assert words_of(["Push the red block, then wait.", "push"]) == [
        ",",
        ".",
        "block",
        "push",
        "red",
        "the",
        "then",
        "wait",
    ]
    tokenizer = build_tokenizer(words_of(["Push the red block."]))
    assert tokenizer.unk_token_id not in tokenizer("PUSH the red block .")["input_ids"]


def test_an_empty_lexicon_is_refused(make_policy):
    with pytest.raises(ConfigurationError, match="the embedded goal encoder has no words"):
        make_policy(lexicon=[])


def test_unknown_words_are_reported_once(make_policy, make_batch, caplog):
    policy = make_policy().eval()
    with caplog.at_level(logging.WARNING):
        for text in ("push the purple block", "push the purple block gently", "push the purple block"):
            policy.predict_action_chunk(make_batch(1, 0) | {"task": [text]})
            policy.train().eval()
    assert policy.network.goal.unknown_words == ("purple",)
    assert [
        record.args[0] if isinstance(record.args, tuple) else record.args for record in caplog.records
    ] == [
        ["purple"],
        ["gently"],
    ]
    policy.predict_action_chunk(make_batch(1, 0) | {"task": ["push the red block"]})
    assert policy.network.goal.unknown_words == ()


def test_a_rollout_reads_each_text_once(make_policy, make_batch):
    policy = make_policy().eval()
    policy.reset()
    goal, batch = policy.network.goal, make_batch(1, 0)
    goal.forwards = 0
    for step in range(200):
        text = "push the red block" if step < 120 else "put the blue block into the bin"
        policy.select_action(batch | {"task": [text]})
    assert goal.forwards == 2
    policy.reset()
    policy.select_action(batch | {"task": ["push the red block"]})
    assert goal.forwards == 2


def test_the_cache_ends_with_the_weights_it_was_made_by(make_policy):
    policy = make_policy().eval()
    goal, text = policy.network.goal, ["push the red block"]
    before = goal(text).detach()
    policy.train()
    with torch.no_grad():
        goal.project.weight.mul_(2.0)
    assert not torch.equal(policy.eval().network.goal(text), before)


def test_the_cache_ends_where_other_weights_are_loaded_or_it_moves(make_policy):
    policy, other = make_policy().eval(), make_policy().eval()
    text = ["push the red block"]
    policy.network.goal(text)
    policy.load_state_dict(other.state_dict())
    assert torch.equal(policy.network.goal(text), other.network.goal(text))
    assert policy.double().network.goal(text).dtype == torch.float64


def test_a_text_means_the_same_in_any_batch(make_policy):
    goal = make_policy().eval().network.goal
    alone = goal(["push the red block"])
    goal._cache.clear()
    together = goal(["put the blue block into the bin", "push the red block", "push the red block"])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    assert torch.equal(together[1], together[2])
    assert float((together[0] - together[1]).detach().abs().max()) > 1e-3


# -- a pretrained one
def test_a_pretrained_model_is_loaded_by_folder(pretrained, make_batch, train_steps):
    policy = pretrained()
    losses = train_steps(policy, make_batch(16), 10)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert type(policy.network.goal.model) is SmolVLMForConditionalGeneration


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_language_layers_are_kept(pretrained, count):
    whole, cut = pretrained().eval().network.goal, pretrained(goal_layers=count).eval().network.goal
    layers = cut.model.model.text_model.layers
    assert len(layers) == count
    for name, tensor in layers.state_dict().items():
        assert torch.equal(tensor, whole.model.model.text_model.layers.state_dict()[name])


def test_more_layers_than_there_are_is_refused(pretrained):
    with pytest.raises(
        ConfigurationError, match=f"goal_layers = 9; .* has {LAYERS} language layers, allowed 1 … {LAYERS}"
    ):
        pretrained(goal_layers=9)


def test_insulated_lets_no_gradient_into_the_language_model(pretrained, make_batch):
    policy = pretrained(live=True).train()
    policy.forward(make_batch(4))[0].backward()
    goal = policy.network.goal
    assert all(p.grad is None and not p.requires_grad for p in goal.model.parameters())
    assert not goal.model.training
    assert float(goal.queries.grad.abs().sum()) > 0
    assert float(goal.project.weight.grad.abs().sum()) > 0
    full = pretrained(goal_train="full").train()
    full.forward(make_batch(4))[0].backward()
    assert float(full.network.goal.model.model.text_model.layers[0].mlp.up_proj.weight.grad.abs().sum()) > 0


def test_a_frozen_model_reads_each_text_once_in_training_too(pretrained, make_batch, train_steps):
    policy = pretrained()
    goal = policy.network.goal
    train_steps(policy, make_batch(8), 3)
    assert goal.forwards == 1
    texts = ["push the red block", "put the blue block into the bin now"]
    policy.train()
    read_before, fresh = goal(texts), goal._read(texts)
    goal._hidden.clear()
    torch.testing.assert_close(goal(texts), read_before, rtol=0, atol=1e-6)
    hidden, padding = goal._read_frozen(texts[:1])
    torch.testing.assert_close(hidden[0], fresh[0][0][~fresh[1][0]], rtol=0, atol=1e-5)
    assert not padding.any()


def test_a_frozen_model_is_named_in_the_checkpoint_not_copied(pretrained, make_batch, tmp_path, smolvlm):
    policy = pretrained(live=True).eval()
    # `live` moved the frozen weights too; what is loaded is the model in the folder.
    policy.network.goal.model.load_state_dict(pretrained().network.goal.model.state_dict())
    batch = make_batch(2, 0)
    expected = policy.predict_action_chunk(batch)
    policy.save_pretrained(tmp_path / "policy")
    names = load_file(tmp_path / "policy" / "model.safetensors").keys()
    assert not [name for name in names if name.startswith("network.goal.model.")]
    assert [name for name in names if name.startswith("network.goal.pool.")]
    loaded = HybridPolicy.from_pretrained(tmp_path / "policy")
    assert torch.equal(loaded.predict_action_chunk(batch), expected)

    full = pretrained(goal_train="full")
    full.save_pretrained(tmp_path / "full")
    names = load_file(tmp_path / "full" / "model.safetensors").keys()
    assert [name for name in names if name.startswith("network.goal.model.")]


def test_a_frozen_model_that_has_changed_is_refused(pretrained, tmp_path, smolvlm):
    pretrained().save_pretrained(tmp_path / "policy")
    file = smolvlm / "model.safetensors"
    original = file.read_bytes()
    weights = load_file(file)
    name = next(name for name in weights if "layers.0" in name)
    weights[name] = weights[name] + 0.1
    try:
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(
            CheckpointError, match=r"was trained with another .*smolvlm.*weights have changed"
        ):
            HybridPolicy.from_pretrained(tmp_path / "policy")
    finally:
        file.write_bytes(original)
    HybridPolicy.from_pretrained(tmp_path / "policy")


def test_a_model_stored_in_half_precision_is_trained_in_full(pretrained, make_policy, smolvlm, tmp_path):
    import shutil

    half = tmp_path / "half"
    shutil.copytree(smolvlm, half)
    SmolVLMForConditionalGeneration.from_pretrained(smolvlm, dtype=torch.bfloat16).save_pretrained(half)
    kinds = {}
    for goal_train in ("full", "insulated"):
        policy = pretrained(goal_model=str(half), goal_train=goal_train).eval()
        kinds[goal_train] = {p.dtype for p in policy.network.goal.model.parameters()}
        assert policy.network.goal(["push the red block"]).dtype == torch.float32
    assert kinds == {"full": {torch.float32}, "insulated": {torch.bfloat16}}
