"""Show versions, processor, rendering, plugin and recipes.

Quick by default; nothing heavy is imported. With --full it also asks LeRobot what it registered and torch
what it can compute on, which takes seconds. Paste its output into a bug report.

Examples:
  hybridpolicy info
  hybridpolicy info --full
  hybridpolicy info --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

DISTRIBUTION = "lerobot_policy_hybrid"
PACKAGES = ("lerobot", "torch", "transformers", "peft", "accelerate", "mujoco", "metaworld")
GL_PACKAGES = "libegl1 libopengl0 libgl1-mesa-dri"
# In a process of its own: a broken driver may take the process with it.
_RENDER_ONE_FRAME = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='.1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    renderer.render()
"""
_ASK_LEROBOT = f"""
import json, torch
import {DISTRIBUTION}
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.robots.config import RobotConfig
mine = lambda kind: sorted(
    name for name, choice in kind.get_known_choices().items()
    if choice.__module__.split(".")[0] in ("hybridpolicy", "embodiments"))
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    devices.append("mps")
print(json.dumps(dict(
    policies=mine(PreTrainedConfig), environments=mine(EnvConfig), robots=mine(RobotConfig),
    devices=devices or ["cpu"], threads=torch.get_num_threads())))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `info`."""
    parser.add_argument("--full", action="store_true", help="also ask LeRobot and torch (seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the facts; 2 if rendering or the plugin does not work."""
    facts, problems = collect_facts(full=args.full)
    if args.json:
        print(json.dumps({"facts": facts, "problems": problems}, indent=2))
    else:
        width = max(map(len, facts))
        for name, fact in facts.items():
            print(f"{name:<{width}}  {fact}")
    for problem in problems:
        print(f"hybridpolicy info: {problem}", file=sys.stderr)
    return 2 if problems else 0


def collect_facts(*, full: bool) -> tuple[dict[str, str], list[str]]:
    """What there is, one line each, and what is wrong with it together with the way out."""
    from recipes.registry import find_recipes

    problems: list[str] = []
    facts = {
        "hybridpolicy": f"{_version(DISTRIBUTION)} at {Path(__file__).parents[2]}",
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.platform()}, {os.cpu_count()} cores{_memory()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "rendering": _rendering(problems),
        "plugin": _plugin(problems),
        "recipes": ", ".join(entry.name for entry in find_recipes()) or "none",
    }
    if full:
        facts |= _ask_lerobot(problems)
    return facts, problems


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _memory() -> str:
    """`, 23.4 GiB` of memory where the system tells."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # a name this system does not know; no sysconf on Windows
        return ""
    return f", {size / 2**30:.1f} GiB"


def _rendering(problems: list[str]) -> str:
    """The backend, after it has rendered one frame."""
    backend = os.environ.get("MUJOCO_GL", "MuJoCo's own choice")
    done = subprocess.run(
        [sys.executable, "-c", _RENDER_ONE_FRAME], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return f"{backend}, works"
    way_out = (
        f"install the software renderer: sudo apt-get install {GL_PACKAGES}"
        if sys.platform == "linux" and backend == "egl"
        else "unset MUJOCO_GL to get the default"
    )
    problems.append(f"MuJoCo cannot render with MUJOCO_GL={backend} ({_last_line(done)}); {way_out}")
    return f"{backend}, does not work"


def _plugin(problems: list[str]) -> str:
    """Whether LeRobot's commands will find the distribution; they go by its name, underscores included."""
    try:
        name = distribution(DISTRIBUTION).metadata["Name"]
    except PackageNotFoundError:
        name = None
    if name == DISTRIBUTION:
        return f"{name}, LeRobot's commands find it"
    problems.append(f"LeRobot's commands do not find {DISTRIBUTION}: it is not installed; run `make env`")
    return "not installed"


def _ask_lerobot(problems: list[str]) -> dict[str, str]:
    """What the plugin registered and what torch computes on."""
    done = subprocess.run([sys.executable, "-c", _ASK_LEROBOT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        problems.append(f"the plugin {DISTRIBUTION} does not import ({_last_line(done)}); run `make env`")
        return {"registered": "nothing"}
    answer = json.loads(done.stdout.splitlines()[-1])
    kinds = ("policies", "environments", "robots")
    return {
        "registered": "; ".join(f"{kind}: {', '.join(answer[kind]) or 'none'}" for kind in kinds),
        "devices": f"{', '.join(answer['devices'])}; {answer['threads']} threads",
    }


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
