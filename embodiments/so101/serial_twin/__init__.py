"""The simulated SO-101 behind a Feetech bus on a pseudo-terminal: to any driver, an arm on a serial port."""
