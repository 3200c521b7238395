"""The configuration: what it refuses and how it says so, and that LeRobot can write and read it."""

import ast
import dataclasses
import json
from pathlib import Path

import draccus
import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from hybridpolicy import configuration_hybrid, optional_keys
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.modeling_hybrid import HybridPolicy

PICTURE = PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
REFUSED = [
    (
        {"coupling": "joined"},
        r"coupling = 'joined'; did you mean 'joint'\? allowed are autoregressive, cascaded, features, joint",
    ),
    ({"imagine": "sometimes"}, "imagine = 'sometimes'; allowed are always, never, on_uncertainty"),
    ({"coupling": "vla", "imagine": "always"}, "coupling = vla offers imagine = never.*joint, cascaded"),
    ({"coupling": "features", "imagine": "never"}, "coupling = features offers imagine = always, not"),
    ({"coupling": "autoregressive", "world_offsets": [1, 3]}, "end before chunk_size = 4"),
    (
        {"coupling": "features", "world_law": "flow", "world_steps": 3},
        "world_steps = 3 with coupling = features, whose future is one row",
    ),
    ({"action_law": "diffusion"}, "action_law = 'diffusion'; .*flow, regress"),
    ({"world_law": "diffusion"}, "world_law = 'diffusion'; .*flow, regress"),
    ({"action_convention": "delta"}, "action_convention = 'delta'; .*absolute, relative"),
    ({"goal_train": "frozen"}, "goal_train = 'frozen'; .*full, insulated"),
    ({"n_action_steps": 5}, "n_action_steps = 5; allowed 1 … chunk_size = 4"),
    ({"n_action_steps": 0}, "n_action_steps = 0; allowed 1"),
    ({"world_offsets": []}, r"world_offsets = \[\]; give strictly increasing"),
    ({"world_offsets": [4, 2]}, r"world_offsets = \[4, 2\]"),
    ({"world_offsets": [0, 2]}, r"world_offsets = \[0, 2\]"),
    ({"world_offsets": [2, 2]}, r"world_offsets = \[2, 2\]"),
    ({"rtc_max_delay": 4}, "rtc_max_delay = 4; must be below chunk_size = 4"),
    ({"width": 33}, "width = 33 must be a multiple of heads = 2"),
    ({"num_keypoints": 7}, "num_keypoints = 7 must be a multiple of tokens_per_view = 2"),
    ({"action_steps": 3}, "action_steps = 3 with action_law = regress"),
    ({"world_steps": 3}, "world_steps = 3 with world_law = regress"),
    *(
        ({name: 0}, f"{name} = 0; must be 1 or more")
        for name in ("action_steps", "world_steps", "depth", "heads")
    ),
    *(({name: 0}, f"{name} = 0; must be 1 or more") for name in ("width", "goal_tokens", "tokens_per_view")),
    *(({name: 1.5}, f"{name} = 1.5; allowed 0 … 1") for name in ("world_share", "text_dropout", "rtc_share")),
    *(
        ({"action_step_decay": value}, f"action_step_decay = {value}; allowed above 0")
        for value in (0.0, 1.5)
    ),
    ({"objects_weight": 1.0}, "objects_weight = 1.0 needs objects_count"),
    ({"waypoint_weight": 1.0}, "waypoint_offsets = ..; give a weight of 0 or more, and offsets"),
    ({"waypoint_offsets": [8, 4]}, "waypoint_offsets = .8, 4.; give strictly increasing"),
    ({"change_weight": 1.0}, "change_offsets = ..; give a weight of 0 or more, and offsets"),
    ({"change_offsets": [0, 4]}, "change_offsets = .0, 4.; give strictly increasing"),
    ({"goal_spread_weight": -1.0}, "goal_spread_weight = -1.0; must be 0 or more"),
    (
        {"action_convention": "relative", "normalization_mapping": {"ACTION": NormalizationMode.MIN_MAX}},
        "relative with normalization_mapping .*MIN_MAX.* need MEAN_STD",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_settings_that_are_not_allowed_say_what_is(make_config, fields, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_config(**fields)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith("hybrid: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (4,))}},
            "no camera among the inputs",
        ),
        ({"output_features": {}}, "no `action` among the outputs"),
        (
            {"input_features": {f"observation.images.{n}.left": PICTURE for n in ("top", "side")}},
            r"side\.left.*top\.left.* share a last name",
        ),
        (
            {"action_convention": "relative", "state_feature_names": [*"abcd"]},
            "names the joints of the state in the same",
        ),
        ({"action_convention": "relative", "state": False}, "names the joints of the state in the same"),
    ],
)
def test_features_that_do_not_fit_are_refused(make_config, fields, message):
    with pytest.raises(ConfigurationError, match=message):
        HybridPolicy(make_config(**fields))


CHANGED = {
    "coupling": "cascaded",
    "imagine": "always",
    "action_law": "flow",
    "action_steps": 4,
    "world_offsets": [1, 3, 9],
    "lexicon": ["push", "the", "block"],
    "fps": 10.0,
    "goal_layers": 3,
    "rtc_config": RTCConfig(execution_horizon=7),
    "normalization_mapping": {"ACTION": NormalizationMode.MIN_MAX, "STATE": NormalizationMode.MEAN_STD},
}


def test_the_configuration_survives_lerobots_files(make_config, tmp_path):
    config = make_config(**CHANGED)
    config._save_pretrained(tmp_path)
    read = PreTrainedConfig.from_pretrained(tmp_path)
    assert type(read) is HybridConfig
    assert read == config
    for name, value in CHANGED.items():
        assert getattr(read, name) == value, name
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text)["type"] == "hybrid"
    assert "Infinity" not in text
    assert "NaN" not in text


def test_every_scalar_is_settable_from_the_command_line(make_config, tmp_path):
    make_config()._save_pretrained(tmp_path)
    given = ["--coupling=cascaded", "--imagine=always", "--n_action_steps=3", "--fps=20", "--embodiment=koch"]
    read = PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=given)
    assert (read.coupling, read.imagine, read.n_action_steps, read.fps) == ("cascaded", "always", 3, 20.0)
    nested = {f.name for f in dataclasses.fields(HybridConfig) if "dict" in str(f.type)}
    assert nested <= {"input_features", "output_features", "normalization_mapping"}
    with pytest.raises(draccus.utils.ParsingError) as caught:
        PreTrainedConfig.from_pretrained(tmp_path, cli_overrides=["--coupling=joined"])
    assert "did you mean 'joint'?" in str(caught.value.__cause__)


def test_what_lerobot_reads_by_name(make_config):
    config = HybridConfig(device="cpu")
    for name in (
        "chunk_size",
        "n_action_steps",
        "dtype",
        "rtc_config",
        "action_feature_names",
        "push_to_hub",
    ):
        assert hasattr(config, name)
    assert config.push_to_hub is False
    config = make_config()
    assert config.action_delta_indices == [0, 1, 2, 3]
    assert config.reward_delta_indices is None
    deltas = {name: make_config(coupling=name).observation_delta_indices for name in COUPLINGS}
    assert deltas.pop("vla") == [0]
    assert set(map(tuple, deltas.values())) == {(0, 2, 4)}
    assert config.get_optimizer_preset().lr == config.optimizer_lr
    assert config.get_scheduler_preset().peak_lr == config.optimizer_lr


def test_parameter_groups(make_policy):
    policy = make_policy(trunk_lr_scale=0.3, goal_lr_scale=0.1, optimizer_lr=1e-3)
    groups = {group["name"]: group for group in policy.get_optim_params()}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx({"language": 3e-5, "trunk": 3e-4, "expert": 1e-3})
    for group in groups.values():
        assert group["lr"] == pytest.approx(1e-3 * group["lr_scale"])
    listed = [p for group in groups.values() for p in group["params"]]
    assert len({id(p) for p in listed}) == len(listed)
    assert {id(p) for p in listed} == {id(p) for p in policy.parameters() if p.requires_grad}
    expert = {id(p) for p in groups["expert"]["params"]}
    for name, parameter in policy.named_parameters():
        assert (id(parameter) in expert) == (".streams.action" in name or name.startswith("embodiments.")), (
            name
        )


def test_the_configuration_imports_no_models_and_no_simulator():
    """LeRobot imports it in every command that loads plugins."""
    nodes = [
        node
        for module in (configuration_hybrid, optional_keys)
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    ]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert "lerobot.configs.policies" in imported
    light = (
        "dataclasses",
        "typing",
        "lerobot.configs.",
        "lerobot.optim",
        "lerobot.policies.rtc.",
        "hybridpolicy.",
    )
    assert [name for name in sorted(imported) if not name.startswith(light)] == []
    own = {name for name in imported if name.startswith("hybridpolicy.")}
    assert own - {configuration_hybrid.__name__} == {  # itself: for the type checker only
        "hybridpolicy.couplings",
        "hybridpolicy.errors",
        "hybridpolicy.optional_keys",
    }
