"""Feetech bus servos: packets, registers, port, calibration, torque release, and a simulated bus.

Everything beside `simulated` imports the standard library and pyserial only: it is what the control process
and the torque release stand on, and they must start in tens of milliseconds.
"""
