"""The register table against LeRobot's, whose file is loaded alone: importing its package costs seconds."""

import importlib.util
from pathlib import Path

import pytest

from embodiments.feetech.registers import STS3215, register


@pytest.fixture(scope="module")
def tables():
    root = Path(importlib.util.find_spec("lerobot").origin).parent
    spec = importlib.util.spec_from_file_location("feetech_tables", root / "motors/feetech/tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_addresses_and_sizes_are_lerobots(tables):
    theirs = {name.strip(): place for name, place in tables.STS_SMS_SERIES_CONTROL_TABLE.items()}
    ours = {name: (entry.address, entry.size) for name, entry in STS3215.items()}
    assert len(ours) >= 50
    assert ours == theirs


def test_sign_bits_are_lerobots(tables):
    theirs = {n: b for n, b in tables.STS_SMS_SERIES_ENCODINGS_TABLE.items() if n in STS3215}
    assert {name: entry.sign_bit for name, entry in STS3215.items() if entry.sign_bit is not None} == theirs


def test_model_number_and_resolution(tables):
    from embodiments.feetech.registers import BAUDRATES, MODEL_NUMBER_STS3215, RESOLUTION

    assert {rate: code for code, rate in enumerate(BAUDRATES)} == tables.STS_SMS_SERIES_BAUDRATE_TABLE

    assert tables.MODEL_NUMBER_TABLE["sts3215"] == MODEL_NUMBER_STS3215
    assert tables.MODEL_RESOLUTION["sts3215"] == RESOLUTION


@pytest.mark.parametrize(
    ("name", "value", "data"),
    [("Goal_Position", -3, b"\x03\x80"), ("Homing_Offset", 2047, b"\xff\x07"), ("Torque_Enable", 1, b"\x01")],
)
def test_values_to_bytes_and_back(name, value, data):
    entry = register(name)
    assert entry.encode(value) == data
    assert entry.decode(int.from_bytes(data, "little")) == value


def test_a_number_out_of_a_block_read():
    block = int.from_bytes(bytes([0x10, 0x02, 0x05, 0x80, 0x2C, 0x04, 121, 31]), "little")  # from 56 on
    assert register("Present_Position").take_from(block, 56) == 0x210
    assert register("Present_Velocity").take_from(block, 56) == -5
    assert register("Present_Load").take_from(block, 56) == -44
    assert register("Present_Voltage").take_from(block, 56) == 121
    assert register("Present_Temperature").take_from(block, 56) == 31


def test_an_unknown_name_is_answered_with_the_names():
    with pytest.raises(KeyError, match=r"Goal_Speed.*Goal_Velocity"):
        register("Goal_Speed")


def test_a_value_that_does_not_fit():
    with pytest.raises(ValueError, match="Torque_Enable: 256 does not fit; allowed is 0 to 255"):
        register("Torque_Enable").encode(256)
