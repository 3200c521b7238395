"""`explicit`: A is shown the imagined future as its pictures would be seen, by decoders the policy trains."""

import pytest
import torch

from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.modeling_hybrid import HybridPolicy


@pytest.fixture
def explicit(make_policy):
    return lambda **fields: make_policy(coupling="cascaded", imagine="always", explicit=True, **fields)


def asked(policy, batch):
    sample = present(batch, policy.config)
    now = {k: v[:, 0] if k.startswith("observation") else v for k, v in batch.items() if k != "action"}
    return policy.context(now), policy.network.encode_future(sample), CounterNoise(0, 0, sample.index)


@pytest.mark.parametrize("coupling", sorted(set(COUPLINGS) - {"cascaded"}))
def test_rows_that_show_no_observed_future_refuse_it(make_config, coupling):
    with pytest.raises(ConfigurationError, match=r"explicit = true .*rows where it is: cascaded"):
        make_config(coupling=coupling, explicit=True)


def test_decoders_learn_from_pictures_alone(explicit, make_batch):
    policy = explicit().train()
    loss, report = policy.forward(make_batch(32))
    assert report["picture_loss"] > 0
    picture, _ = policy.forward(make_batch(32, action=False))  # video: the decoders learn from that too
    for total in (loss, picture):
        policy.zero_grad()
        total.backward(retain_graph=True)
        assert all(bool(p.grad.any()) for p in policy.network.pictures.parameters())
    policy.zero_grad()
    sample = present(make_batch(8), policy.config)
    target = policy.network.encode_future(sample)
    frames = {name: x[:, -1] for name, x in sample.frames.items()}
    valid = {name: torch.ones(8) for name in frames}
    policy.network.pictures.loss(target.latents[:, -1], frames, valid).backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {f"network.pictures.{name}" for name, _ in policy.network.pictures.named_parameters()}


def test_decoders_learn_the_picture(explicit, make_batch, train_steps):
    policy, batch = explicit(live=False), make_batch(16)
    for name in ("front", "wrist"):  # one colour a picture, left and right
        colours = torch.rand(16, 3, 3, 1, 2).repeat_interleave(16, dim=4)
        batch[f"observation.images.{name}"] = colours.expand(-1, -1, -1, 32, -1).clone()
    policy.train()
    before = policy.forward(batch)[1]["picture_loss"]
    train_steps(policy, batch, 60)
    assert policy.forward(batch)[1]["picture_loss"] < 0.75 * before


@torch.no_grad()
def test_actions_know_of_the_future_what_its_pictures_show(explicit, make_batch):
    policy, batch = explicit().eval(), make_batch(4)
    context, future, noise = asked(policy, batch)
    other = future.each(lambda x: x.roll(1, dims=0))
    same_state = type(future)(other.latents, future.state, future.vectors)
    queries = policy.queries
    assert not torch.equal(queries.infer_actions(context, noise, future),
                           queries.infer_actions(context, noise, same_state))  # fmt: skip
    for parameter in policy.network.pictures.parameters():
        parameter.zero_()  # every future looks grey
    assert torch.equal(queries.infer_actions(context, noise, future),
                       queries.infer_actions(context, noise, same_state))  # fmt: skip
    grey = queries.act(context, noise)
    policy.config.explicit = False
    assert not torch.equal(grey, queries.act(context, noise))


def test_it_is_saved_with_the_policy(explicit, make_batch, tmp_path):
    policy = explicit().eval()
    policy.save_pretrained(tmp_path)
    again = HybridPolicy.from_pretrained(tmp_path)
    assert again.config.explicit
    context, future, noise = asked(policy, make_batch(2))
    with torch.no_grad():
        assert torch.equal(
            policy.queries.infer_actions(context, noise, future),
            again.eval().queries.infer_actions(context, noise, future),
        )
