"""The scene: what the cameras see, what the seed decides, what the switches refuse."""

import numpy as np
import pytest

from embodiments.so101.twin.language import COLOURS
from embodiments.so101.twin.simulation import TwinSimulation
from embodiments.so101.twin.variation import BIN_HALF_M, BLOCK_HALF_M, Variation, draw_layout


@pytest.fixture(scope="module")
def simulation():
    return TwinSimulation()


def colour_mask(picture, colour):
    """Pixels whose channels stand out as the colour's do."""
    red, green, blue = (picture[..., i].astype(float) + 1 for i in range(3))
    return {
        "red": (red > 2 * green) & (red > 2 * blue),
        "green": (green > 1.7 * red) & (green > 1.7 * blue),
        "blue": (blue > 1.7 * red) & (blue > 1.5 * green),
        "yellow": (red > 2 * blue) & (green > 2 * blue) & (np.abs(red - green) < 0.4 * red),
    }[colour]


def test_front_camera_sees_each_present_block_and_no_absent_one(simulation):
    seen = dict.fromkeys(COLOURS, 0)
    for seed in range(40):
        layout = draw_layout(seed, Variation(num_colours=4))
        simulation.reset(layout)
        picture = simulation.pictures(96)["front"]
        for slot, colour in enumerate(COLOURS):
            # Fingers are orange: leave the arm's columns at the top out.
            pixels = int(colour_mask(picture, colour)[24:].sum())
            if layout.present[slot]:
                assert pixels >= 30, (seed, colour, pixels)
                seen[colour] += 1
            else:
                assert pixels <= 3, (seed, colour, pixels)
    assert min(seen.values()) >= 10


def test_blocks_are_at_least_six_pixels_wide_in_front(simulation):
    widths = []
    for seed in range(30):
        layout = draw_layout(seed, Variation())
        simulation.reset(layout)
        picture = simulation.pictures(96)["front"]
        for slot in np.flatnonzero(layout.present):
            columns = np.flatnonzero(colour_mask(picture, COLOURS[slot])[24:].any(axis=0))
            widths.append(np.ptp(columns) + 1)
    assert len(widths) == 60
    assert min(widths) >= 6


def test_wrist_camera_sees_the_fingers(simulation):
    simulation.reset(draw_layout(0, Variation(light_strength=0.0)))
    picture = simulation.pictures(96)["wrist"].astype(float)
    orange = (picture[..., 0] > 1.3 * picture[..., 1]) & (picture[..., 1] > 1.8 * picture[..., 2])
    assert orange.sum() > 200


def test_a_layout_follows_from_its_seed():
    first, again, other = (draw_layout(seed, Variation.randomised()) for seed in (5, 5, 6))
    for name in first.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.block_xy, other.block_xy)


def test_every_scene_has_two_blocks_clear_of_each_other_and_of_the_bin():
    for seed in range(300):
        layout = draw_layout(seed, Variation())
        blocks = layout.block_xy[layout.present]
        assert len(blocks) == 2
        assert np.linalg.norm(blocks[0] - blocks[1]) > 0.06
        for block in blocks:
            assert np.abs(block - layout.bin_xy).max() > BIN_HALF_M + BLOCK_HALF_M


def test_joint_zero_errors_and_gripper_scale_only_change_what_is_reported(simulation):
    layout = draw_layout(3, Variation(joint_offset_deg=3.0, gripper_scale=0.1))
    simulation.reset(layout)
    true, reported = simulation.true_joints(), simulation.reported_joints()
    np.testing.assert_allclose(reported[:5] - true[:5], layout.joint_offset, atol=1e-4)
    assert 0.5 < np.abs(layout.joint_offset).max() <= 3.0
    assert reported[5] == pytest.approx(true[5] * layout.gripper_scale, abs=1e-4)
    target = true + np.array([8.0, 0, 0, 0, 0, 20.0])
    for _ in range(8):
        simulation.tick(simulation.true_to_reported(target))
    np.testing.assert_allclose(simulation.true_joints(), target, atol=1.5)


def test_the_arm_does_not_outrun_its_servos(simulation):
    simulation.reset(draw_layout(0, Variation()))
    before = simulation.true_joints()
    simulation.tick(simulation.true_to_reported(before + np.array([90.0, 0, 0, 0, 0, 0])))
    assert 10.0 < simulation.true_joints()[0] - before[0] <= 27.0


@pytest.mark.parametrize("action", [np.full(6, np.nan), np.zeros(5)])
def test_an_action_that_is_none_is_refused(simulation, action):
    simulation.reset(draw_layout(0, Variation()))
    with pytest.raises(ValueError, match="6 finite numbers"):
        simulation.tick(action)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_colours": 5}, "num_colours is 5; allowed is 2 to 4"),
        ({"num_blocks": (1, 2)}, r"num_blocks is \(1, 2\) with 3 colours"),
        ({"num_blocks": (2, 4)}, r"num_blocks is \(2, 4\) with 3 colours"),
        ({"distractors": 3}, "distractors is 3; allowed is 0 to 2"),
        ({"camera_jitter": -0.1}, "camera_jitter is -0.1"),
        ({"joint_offset_deg": 11.0}, "joint_offset_deg is 11.0; allowed is 0 to 10"),
    ],
)
def test_a_wrong_variation_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Variation(**changes)
