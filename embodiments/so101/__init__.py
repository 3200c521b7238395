"""The SO-101 arm: constants, kinematics, simulated twin. Importing it costs no simulator and no torch."""
