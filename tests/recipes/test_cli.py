"""The command line: its frozen surface, its help, and what becomes of every kind of failure."""

import argparse
import ast
import errno
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import recipes.commands
from embodiments.spec import Sourced
from hybridpolicy.errors import DatasetError
from recipes.commands import application, failures, info, main
from recipes.commands.data.location import locate
from recipes.commands.data.show import summarise

SURFACE = Path(__file__).with_name("cli_surface.txt")
COMMANDS = {command.words: command for command in application.discover()}


def surface():
    """Every command and argument of the command line, one a line."""
    lines = []

    def visit(parser):
        lines.append(parser.prog)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    visit(child)
            elif not isinstance(action, argparse._HelpAction):
                name = ", ".join(action.option_strings) or action.dest
                facts = {
                    "required": action.required,
                    "nargs": action.nargs,
                    "type": action.type and action.type.__name__,
                    "choices": action.choices and list(action.choices),
                    "default": None if action.default == argparse.SUPPRESS else action.default,
                }
                told = "".join(
                    f" {key}={value}"
                    for key, value in facts.items()
                    if value is not None and value is not False and value != []
                )
                lines.append(f"  {name}{told}")

    visit(application.build_parser())
    return "\n".join(lines) + "\n"


def test_the_surface_is_what_was_promised():
    assert surface() == SURFACE.read_text(encoding="utf-8"), (
        "the command line changed. Scripts depend on it; if it is meant, write it down:\n"
        f"  .venv/bin/python {SURFACE.with_name('test_cli.py').name} > {SURFACE.name}   (in tests/recipes)"
    )


def test_every_command_explains_itself():
    assert len(COMMANDS) >= 10
    for words, command in COMMANDS.items():
        summary, _, rest = inspect.getdoc(command.module).partition("\n")
        assert summary.endswith("."), words
        assert len(summary) <= 70, words  # one line of `hybridpolicy --help`
        assert rest.count("\nExamples:\n") == 1, words


def test_every_example_in_the_help_is_a_valid_command_line(capsys):
    parser, seen = application.build_parser(), 0
    texts = [application.OVERVIEW, *(inspect.getdoc(command.module) for command in COMMANDS.values())]
    for text in texts:
        for example in re.findall(r"^  (hybridpolicy .+)$", text, flags=re.MULTILINE):
            args = parser.parse_args(shlex.split(example)[1:])
            assert args.run is not None, example
            seen += 1
    assert seen >= 20


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_is_printed(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    if words:
        assert inspect.getdoc(COMMANDS[words].module).partition("\n")[0] in printed
    else:
        assert all(command[0] in printed for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trane"], r"no 'trane'; did you mean 'train'\?"),
        (["data", "recorded"], r"hybridpolicy data: .*did you mean 'record'\?"),
        (["train"], "one of the arguments --recipe --dataset --list is required"),
        (["train", "--rec", "so101_twin"], "no option --rec; did you mean '--recipe'"),  # no abbreviations
        (["train", "--list", "--nonsense"], r"no option --nonsense; allowed are .*--recipe"),
        (["train", "--datasets", "x"], r"no option --datasets; did you mean '--dataset'\?"),
        (["eval", "--policy", "x"], "required: --env"),
    ],
)
def test_a_wrong_command_line_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "--help" in error.splitlines()[-1]


@pytest.mark.parametrize("argv", [[], ["data"], ["bench"]])
def test_a_group_without_a_command_prints_its_help(argv, capsys):
    assert main(argv) == 2
    assert "commands:" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"hybridpolicy \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_an_unknown_recipe_gets_the_nearest_names(capsys, monkeypatch, tmp_path):
    (tmp_path / "so101_twin.py").write_text('"""A twin."""\ndef recipe(): ...\n')
    monkeypatch.setattr("recipes.registry.find_recipes.__defaults__", (tmp_path,))
    assert main(["train", "--recipe", "so101_twni"]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"hybridpolicy train: .*'so101_twni'.*did you mean 'so101_twin'\?.*\n", captured.err)
    assert captured.out == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--tasks", "pusch", "--episodes", "1"],
            r"--tasks pusch: no task 'pusch' of the so101; did you mean 'push'\?",
        ),
        (["--episodes", "0"], r"--episodes 0: keep 1 or more of each task"),
    ],
)
def test_a_recording_that_cannot_be_is_refused_in_words_of_its_options(given, message, tmp_path, capsys):
    output = tmp_path / "recorded"
    assert main(["data", "record", *given, "--output", str(output)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


@pytest.mark.parametrize("command", ["eval", "calibrate"])
def test_no_episodes_are_no_measurement(command, capsys):
    rate = ["--imagine-rate", "0.2"] if command == "calibrate" else []
    assert main([command, "--policy", "none", "--env", "so101_twin", "--episodes", "0", *rate]) == 2
    assert f"{command}: --episodes 0: play 1 or more" in capsys.readouterr().err


def test_a_measurement_is_told_from_a_report(tmp_path, capsys):
    (tmp_path / "control.json").write_text('{"rows": []}')
    assert main(["report", str(tmp_path / "control.json")]) == 2
    assert "control.json is not the report of a run" in capsys.readouterr().err
    assert not (tmp_path / "control.html").exists()


def test_a_run_is_never_continued_or_mixed_by_accident(tmp_path, monkeypatch, capsys):
    config = SimpleNamespace(output_dir=str(tmp_path))
    monkeypatch.setattr("recipes.registry.get_recipe", lambda name: lambda: config)
    monkeypatch.setattr("recipes.registry.get_job", lambda name: None)
    monkeypatch.setattr("recipes.commands.overrides.override", lambda config, _: config)
    assert main(["train", "--recipe", "x", "--resume"]) == 2
    assert re.search("holds no run to resume; leave out --resume", capsys.readouterr().err)
    (tmp_path / "checkpoints").mkdir()
    assert main(["train", "--recipe", "x"]) == 2
    assert re.search("holds a run already; go on with --resume", capsys.readouterr().err)


def test_a_job_is_no_task_for_several_processes_nor_its_folder_for_set(monkeypatch, capsys):
    asked = ["train", "--recipe", "so101_quickstart"]
    assert main([*asked, "--set", "output_dir=elsewhere", "--dry-run"]) == 2
    assert "give both with --output" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(asked) == 2
    assert "this is one of 2: run it without `accelerate launch`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["bench", "train", "--seconds", "0"], "--seconds 0 --rounds 2; give more than 0 s"),
        (["bench", "train", "--rounds", "0"], "give more than 0 s, and 1 round"),
        (["bench", "loader", ".", "--seconds", "0"], "--seconds 0; measure for more than 0 s"),
        (
            ["bench", "planner", "--policy", "x", "--output", "."],
            "--output: . is a folder; name a file in it",
        ),
        (["arm", "compare", "--policy", "x", "--rate", "5000"], "rate is 5000; allowed is"),
        (["arm", "compare", "--policy", "x", "--episodes", "0"], "episodes is 0; allowed is"),
        (["arm", "compare", "--policy", "x", "--output", f"{__file__}/x.json"], "is a file, so"),
    ],
)
def test_what_cannot_be_measured_or_written_is_refused_before_the_work(asked, message, capsys):
    assert main(asked) == 2
    assert re.search(message, capsys.readouterr().err)


def run_with(monkeypatch, error, *options):
    """Exit code of `hybridpolicy info` whose body raises `error`."""

    def fail(**_):
        raise error

    monkeypatch.setattr(info, "collect_facts", fail)
    return main(["info", *options])


def refuse_nan():
    Sourced(float("nan"), "a datasheet")


def fail_inside_numpy():
    np.zeros(3).reshape(2, 2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetError("d1: no frames; record"), "d1: no frames; record"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/model"),
            "'x/model': No space left.*free some space",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "d"),
            "'d': No such file.*Check the spelling",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "d"), "'d': Permission denied.*who owns it"),
        (OSError(errno.EIO, "Input/output error", "d"), r"'d': Input/output error \(errno 5\)"),
        (OSError("the hub is offline"), "the hub is offline"),
    ],
)
def test_a_known_error_is_one_message(error, message, monkeypatch, capsys):
    assert run_with(monkeypatch, error) == 2
    captured = capsys.readouterr().err
    assert re.fullmatch(f"hybridpolicy info: {message}.*\n", captured)


def test_a_plain_value_error_of_ours_is_a_message_and_of_others_is_a_bug(monkeypatch, capsys):
    monkeypatch.setattr(info, "collect_facts", lambda **_: refuse_nan())
    assert main(["info"]) == 2
    assert capsys.readouterr().err.startswith("hybridpolicy info: Sourced: value nan is not finite")
    monkeypatch.setattr(info, "collect_facts", lambda **_: fail_inside_numpy())
    with pytest.raises(ValueError, match="cannot reshape"):
        main(["info"])
    ours: dict = {"__name__": "recipes.somewhere"}
    exec("def unpack(): first, second = [1]", ours)  # of our own line, but no refusal
    monkeypatch.setattr(info, "collect_facts", lambda **_: ours["unpack"]())
    with pytest.raises(ValueError, match="not enough values to unpack"):
        main(["info"])


@pytest.mark.parametrize("error", [AssertionError("an invariant"), KeyError("x"), RuntimeError("in torch")])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    with pytest.raises(type(error)):
        run_with(monkeypatch, error)


def test_debug_shows_the_traceback(monkeypatch):
    with pytest.raises(DatasetError, match="no frames"):
        run_with(monkeypatch, DatasetError("no frames"), "--debug")


def test_ctrl_c_is_130(monkeypatch, capsys):
    assert run_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_closed_pipe_is_silent():
    script = "from recipes.commands import main; import sys; sys.exit(main(['train', '--list']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_wrong_python_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    assert main(["--help"]) == 2
    assert re.search(r"needs Python 3\.12; this is .*make env", capsys.readouterr().err)


def test_the_entry_parses_under_older_pythons():
    package = Path(recipes.commands.__file__).parent
    files = [package.parent / "__init__.py", package / "__init__.py", package / "__main__.py"]
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 6))
    with pytest.raises(SyntaxError):  # that feature_version is worth something
        ast.parse("match x:\n  case 1: pass", feature_version=(3, 6))


@pytest.mark.parametrize(("platform", "backend"), [("linux", "egl"), ("darwin", "cgl"), ("win32", None)])
def test_rendering_needs_no_screen_unless_the_user_chose(platform, backend, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    application.set_rendering_default()
    assert os.environ.get("MUJOCO_GL") == backend
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    application.set_rendering_default()
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_info_finds_what_make_env_installed(capsys):
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert "works" in told["facts"]["rendering"]
    assert "lerobot 0.6.1" in told["facts"]["packages"]


@pytest.mark.skipif(sys.platform != "linux", reason="the packages named are Debian's and Ubuntu's")
def test_info_says_how_to_mend_missing_rendering(monkeypatch, capsys):
    failed = SimpleNamespace(
        returncode=1, stderr="Traceback\nImportError: libEGL.so.1: cannot open shared object\n"
    )
    monkeypatch.setattr(info.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert main(["info"]) == 2
    captured = capsys.readouterr()
    assert "does not work" in captured.out
    assert re.search(r"\(ImportError: libEGL.*sudo apt-get install libegl1", captured.err)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert main(["info"]) == 2
    assert re.search("MUJOCO_GL=osmesa .*unset MUJOCO_GL", capsys.readouterr().err)


def test_locate(tmp_path):
    assert locate(str(tmp_path)) == (str(tmp_path), None)
    assert locate("someone/so101_pick_cube") == ("", "someone/so101_pick_cube")
    for wrong in (str(tmp_path / "absent"), "no_slash", "../x/y"):
        with pytest.raises(
            failures.CommandError, match=f"{re.escape(repr(wrong))}: no such folder.*owner/name"
        ):
            locate(wrong)


def test_data_show_refuses_what_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"meta/info\.json is missing"):
        summarise(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"info\.json: not JSON"):
        summarise(tmp_path)
    (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(DatasetError, match=r"format v2\.1; allowed is v3"):
        summarise(tmp_path)


def test_data_show_reads_the_metadata_alone(tmp_path, capsys):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "meta").mkdir()
    features = {
        "action": {"dtype": "float32", "shape": [2], "names": ["a.pos", "b.pos"]},
        "observation.images.front": {
            "dtype": "video",
            "shape": [96, 96, 3],
            "names": ["height", "width", "channels"],
        },
    }
    length = {"total_episodes": 2, "total_frames": 60, "fps": 10, "robot_type": "so_follower"}
    (tmp_path / "meta" / "info.json").write_text(
        json.dumps({"codebase_version": "v3.0", "features": features, **length})
    )
    tasks = pyarrow.table({"task_index": [1, 0], "__index_level_0__": ["push it", "touch it"]})
    pyarrow.parquet.write_table(tasks, tmp_path / "meta" / "tasks.parquet")
    assert main(["data", "show", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"] == {"0": "touch it", "1": "push it"}
    assert told["columns"] == {"action": "float32 (2): a.pos, b.pos"}
    assert list(told["cameras"]) == ["observation.images.front"]
    assert main(["data", "show", str(tmp_path)]) == 0
    assert "2 episodes, 60 frames" in capsys.readouterr().out


if __name__ == "__main__":
    sys.stdout.write(surface())
