"""One arm's adapter: bound to its base, refused on any other, and the base is never touched by it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hybridpolicy.adapters import add_adapter, load_adapter, save_adapter
from hybridpolicy.errors import AdapterError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors


@pytest.fixture
def base(make_policy, tmp_path):
    policy = make_policy(rtc_share=0.0)
    policy.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(base, make_batch, train_steps, stats, tmp_path):
    """(tag) → a policy trained as `tag` on the base, and the folder its adapter was saved in."""

    def adapt(tag="koch"):
        policy = HybridPolicy.from_pretrained(base)
        add_adapter(policy, tag)
        train_steps(policy, make_batch(8), 3, lr=1e-2)
        folder = tmp_path / tag
        save_adapter(policy, folder, *make_hybrid_pre_post_processors(policy.config, stats))
        policy.eval()
        policy.reset()
        return policy, folder

    return adapt


def test_an_adapter_on_tied_streams_is_saved_and_comes_back(
    make_policy, make_batch, train_steps, stats, tmp_path
):
    """World and action stream are the same weights there, and so are their adapters."""
    policy = make_policy(rtc_share=0.0, streams="tied")
    policy.save_pretrained(tmp_path / "base")
    add_adapter(policy, "koch")
    train_steps(policy, make_batch(8), 2, lr=1e-2)
    save_adapter(policy, tmp_path / "koch", *make_hybrid_pre_post_processors(policy.config, stats))
    fresh = HybridPolicy.from_pretrained(tmp_path / "base")
    load_adapter(fresh, tmp_path / "koch")
    policy.eval(), fresh.reset(), policy.reset()
    batch = make_batch(2, 0)
    assert torch.equal(fresh.predict_action_chunk(batch), policy.predict_action_chunk(batch))


def test_outcomes_beside_an_adapter_teach_the_frozen_heads_nothing(
    make_policy, make_batch, train_steps, stats, tmp_path
):
    make_policy(rtc_share=0.0, outcome_weight=0.5).save_pretrained(tmp_path / "base")
    policy = HybridPolicy.from_pretrained(tmp_path / "base")
    add_adapter(policy, "koch")
    labels = {"outcome.labels": torch.rand(8, 3).round(), "outcome.known": torch.ones(8, 3)}
    train_steps(policy, make_batch(8) | labels, 2)
    save_adapter(policy, tmp_path / "koch", *make_hybrid_pre_post_processors(policy.config, stats))
    assert load_adapter(HybridPolicy.from_pretrained(tmp_path / "base"), tmp_path / "koch") == "koch"


def test_training_an_adapter_leaves_the_base_as_it_was(base, adapted):
    policy, _ = adapted()
    assert policy.base_hash() == HybridPolicy.from_pretrained(base).base_hash()
    trainable = {name.split(".")[0] for name, p in policy.named_parameters() if p.requires_grad}
    assert trainable == {"network", "embodiments"}
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == (".koch." in name), name


def test_an_adapter_round_trips_bit_for_bit(base, adapted, make_batch):
    policy, folder = adapted()
    batch = make_batch(2, 0)
    expected = policy.predict_action_chunk(batch)
    before = HybridPolicy.from_pretrained(base).predict_action_chunk(batch)
    fresh = HybridPolicy.from_pretrained(base)
    assert load_adapter(fresh, folder) == "koch"
    fresh.reset()
    assert torch.equal(fresh.predict_action_chunk(batch), expected)
    assert not torch.equal(before, expected)
    assert fresh.config.embodiment == "koch"


def test_an_adapter_is_trained_on_the_latents_it_will_meet(base, make_batch):
    policy = HybridPolicy.from_pretrained(base)
    with torch.no_grad():
        for parameter in policy.network.frames.parameters():
            parameter.zero_()  # nothing may still look through the encoder that was being trained
    add_adapter(policy, "koch")
    batch = make_batch(4)
    loss = policy.train().forward(batch)[0]
    for parameter in policy.network.frames.parameters():
        parameter.data.normal_()
    assert torch.equal(policy.forward(batch)[0], loss)


def test_the_base_is_stored_as_if_there_were_no_adapter(base, adapted, make_batch, tmp_path):
    policy, _ = adapted()
    policy.save_pretrained(tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "again"))
    assert first.keys() == second.keys()
    changed = {name for name in first if not torch.equal(first[name].nan_to_num(), second[name].nan_to_num())}
    assert changed == {"train_step"}
    batch = make_batch(2, 0)
    original, loaded = (HybridPolicy.from_pretrained(folder) for folder in (base, tmp_path / "again"))
    assert torch.equal(loaded.predict_action_chunk(batch), original.predict_action_chunk(batch))
    assert loaded.config.embodiment == original.config.embodiment == "arm"


def test_another_base_is_refused(adapted, make_policy):
    _, folder = adapted()
    other = make_policy(rtc_share=0.0)
    with torch.no_grad():
        other.network.latent_mask[0] += 1e-6
    with pytest.raises(AdapterError, match=r"made for base \w{12}…, this policy's base is \w{12}…"):
        load_adapter(other, folder)


@pytest.mark.parametrize(("name", "value"), [("fps", 30.0), ("action_feature_names", [*"abcd"])])
def test_another_body_is_refused(base, adapted, name, value):
    _, folder = adapted()
    policy = HybridPolicy.from_pretrained(base)
    setattr(policy.config, name, value)
    with pytest.raises(AdapterError, match=r"made for (fps|joints) = .*, this policy has"):
        load_adapter(policy, folder)


def test_another_rank_is_refused(base, adapted):
    _, folder = adapted()
    policy = HybridPolicy.from_pretrained(base)
    add_adapter(policy, "koch", rank=3)
    with pytest.raises(AdapterError, match="its LoRA layers are not those of this architecture"):
        load_adapter(policy, folder)


def test_the_adapter_loaded_last_is_the_active_one(base, adapted, make_batch):
    batch, expected = make_batch(2, 0), {}
    folders = {}
    for tag in ("koch", "so101"):
        torch.manual_seed(len(tag))
        policy, folders[tag] = adapted(tag)
        expected[tag] = policy.predict_action_chunk(batch)
    policy = HybridPolicy.from_pretrained(base)
    for tag in ("koch", "so101", "koch"):
        load_adapter(policy, folders[tag])
        policy.reset()
        assert torch.equal(policy.predict_action_chunk(batch), expected[tag])
    assert not torch.equal(expected["koch"], expected["so101"])


def test_a_tag_may_be_the_name_of_a_module(base, adapted, stats, tmp_path):
    """`action` is in the name of every LoRA layer: an adapter of that tag took those of all others."""
    policy, _ = adapted("koch")
    add_adapter(policy, "action")
    save_adapter(policy, tmp_path / "action", *make_hybrid_pre_post_processors(policy.config, stats))
    weights = load_file(tmp_path / "action" / "adapter_model.safetensors")
    assert not any(".koch." in name for name in weights)
    assert load_adapter(HybridPolicy.from_pretrained(base), tmp_path / "action") == "action"


@pytest.mark.parametrize(
    ("tag", "message"),
    [("arm", "already has an embodiment of that name"), ("so-101", "letters, digits and underscores")],
)
def test_tags_are_plain_and_free(make_policy, tag, message):
    with pytest.raises(AdapterError, match=message):
        add_adapter(make_policy(), tag)


def test_what_is_no_adapter_is_refused(make_policy, tmp_path, stats):
    policy = make_policy()
    with pytest.raises(AdapterError, match="is not an adapter folder"):
        load_adapter(policy, tmp_path)
    with pytest.raises(AdapterError, match="arm: no adapter of that name"):
        save_adapter(policy, tmp_path, *make_hybrid_pre_post_processors(policy.config, stats))


def test_the_folder_is_in_lerobots_layout(adapted):
    _, folder = adapted()
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "adapter_model.safetensors",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
    } <= names
    assert "model.safetensors" not in names
    facts = json.loads((folder / "embodiment.json").read_text())
    assert facts["tag"] == "koch"
    assert facts["rank"] == 8
