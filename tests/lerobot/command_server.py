"""Runs LeRobot's commands one after the other in one process: importing LeRobot costs seconds, and only once.

One JSON line in: {"command": "train", "arguments": [...]}. One JSON line out: {"code": 0, "output": "..."}.
Each command's own `main` runs with its arguments in sys.argv, as its console script would run it.
"""

import contextlib
import importlib
import io
import json
import logging
import signal
import sys
import traceback


def run(command: str, arguments: list[str]) -> dict:
    """Exit code and everything the command printed or logged."""
    output, handlers = io.StringIO(), signal.getsignal(signal.SIGINT)
    sys.argv = [f"lerobot-{command}", *arguments]
    code = 0
    # A command imports plugins once, after its own modules: what it can use is registered then.
    sys.modules.pop("lerobot_policy_hybrid", None)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            importlib.import_module(f"lerobot.scripts.lerobot_{command}").main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - whatever a command dies of is its result
            traceback.print_exc()
            code = 1
        finally:
            logging.getLogger().handlers.clear()  # they write to the streams of this command
            signal.signal(signal.SIGINT, handlers)
    return {"code": code, "output": output.getvalue()}


if __name__ == "__main__":
    answers = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["command"], request["arguments"])), file=answers, flush=True)
