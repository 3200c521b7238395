"""The control process: the one owner of an arm's port, on absolute deadlines, without torch or LeRobot."""
