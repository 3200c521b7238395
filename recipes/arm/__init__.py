"""Running a policy on an arm: checks, two processes, a record of what happened.

    setup     which arm, port, calibration, cameras: what is run, as data
    policy    the policy in a process of its own: observations in, chunks out
    cameras   pictures with the time they show
    checks    everything that must be right before an arm is energised
    session   the arm, the cameras and the policy together: one tick, one episode
    judge     who says what the task is, and whether it is done
    record    a LeRobotDataset, an event log and the identity of every run, within a bounded disk
    view      what a person at the terminal sees, and the keys they have
    deploy    a policy on the simulated arm over its serial port; compare, beside direct simulation

Processes: this one (arm client, cameras, record, view), the policy's, and the arm's control process.
Whichever ends, the arm is held by the control process and brought down.
"""
