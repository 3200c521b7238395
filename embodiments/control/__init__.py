"""The control process: the one owner of an arm's port, on absolute deadlines, without torch or LeRobot.

    client ── link ── process ── commands          another process   │   the control process
                         │
                     controller: one cycle ── pilot: goals ── setpoints, limits, grip
                         │        │      └── torque: on, ramp, off and verified
                      journal   watch: measurements → conditions → firmware_bridge.safety
                                  │
                     servo_arm, attach: the motors in joint units ── embodiments.feetech

`spec` is all of one arm as data, `errors` what it can refuse, `clock` deadlines and priority, `launch` how it
is started.
"""
