"""Start a simulated arm on a serial port."""
