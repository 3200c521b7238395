"""Feetech's own SDK, unmodified, on the simulated port."""

import pytest
import scservo_sdk as scs

IDS = (1, 2, 3, 4, 5, 6)


@pytest.fixture
def sdk(twin):
    """(packet handler, port handler) on the simulated arm."""
    port = scs.PortHandler(twin.port)
    assert port.openPort()
    assert port.setBaudRate(1_000_000)
    # The SDK's own deadline, 34 ms, is for a machine that has nothing else to do.
    set_timeout = port.setPacketTimeout
    port.setPacketTimeout = lambda length: (set_timeout(length), setattr(port, "packet_timeout", 300.0))
    yield scs.PacketHandler(0), port
    port.closePort()


def test_ping_finds_every_servo_and_its_model(sdk):
    handler, port = sdk
    for id in IDS:
        assert handler.ping(port, id) == (777, scs.COMM_SUCCESS, 0)


def test_write_and_read_back(sdk, twin):
    handler, port = sdk
    assert handler.write2ByteTxRx(port, 3, 48, 456) == (scs.COMM_SUCCESS, 0)
    assert handler.read2ByteTxRx(port, 3, 48) == (456, scs.COMM_SUCCESS, 0)
    assert twin.ask("registers", id=3)["registers"]["Torque_Limit"] == 456


def test_an_error_bit_reaches_the_sdk(sdk, twin):
    handler, port = sdk
    twin.ask("error_bits", id=3, bits=4)
    _, _, error = handler.read1ByteTxRx(port, 3, 40)
    assert handler.getRxPacketError(error) == "[RxPacketError] Overheat error!"


def test_groups(sdk, twin):
    handler, port = sdk
    write = scs.GroupSyncWrite(port, handler, 42, 2)
    for id in IDS:
        assert write.addParam(id, [0x34, 0x08])
    assert write.txPacket() == scs.COMM_SUCCESS
    read = scs.GroupSyncRead(port, handler, 42, 2)
    for id in IDS:
        assert read.addParam(id)
    assert read.txRxPacket() == scs.COMM_SUCCESS
    assert [read.getData(id, 42, 2) for id in IDS] == [0x834] * 6
    assert twin.goals()[-1][1] == dict.fromkeys(IDS, 0x834)


def test_registered_write_and_action(sdk, twin):
    handler, port = sdk
    before = len(twin.goals())
    assert handler.regWriteTxRx(port, 2, 42, 2, [0x00, 0x07]) == (scs.COMM_SUCCESS, 0)
    assert len(twin.goals()) == before
    handler.action(port, 254)
    assert handler.read2ByteTxRx(port, 2, 42)[0] == 0x700
    assert twin.goals()[-1][1] == {2: 0x700}
