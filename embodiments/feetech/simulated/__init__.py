"""A simulated Feetech bus, accurate to the byte, on a pseudo-terminal that any serial program can open.

servo: one STS3215's memory and electronics. bus: requests in, replies out, pure. faults: what goes wrong on
request. wire: the pseudo-terminal and the time bytes take. station: all of it around one arm's physics.
loop: several stations and their control channel in one real-time loop.
"""
