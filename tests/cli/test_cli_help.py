"""Help is quick, complete, and shows examples."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command, environment

from sfumato.cli import options
from sfumato.cli.app import ORDER, WELCOME, app
from sfumato.cli.main import run


def test_the_order_names_every_command() -> None:
    assert {item.name for item in app.registered_commands} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_each_command_has_help_with_an_example(name: str, command: Command) -> None:
    for flag in ("-h", "--help"):
        result = command(name, flag)
        assert result.code == 0
        assert f"Usage: sfumato {name}" in result.out
        assert "Examples:\n" in result.out
        assert f"    sfumato {name} " in result.out + " " or f"    sfumato {name}\n" in result.out
        assert not result.err


def test_alone_it_says_what_there_is(command: Command) -> None:
    result = command()
    assert result.code == 0
    assert result.out.strip() == WELCOME
    assert all(name in result.out for name in ORDER)


def test_version(command: Command) -> None:
    assert command("--version").out.startswith("sfumato ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "-h"], ["trian"], ["train", "nowhere/"]])
def test_quick_answers_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sfumato", *arguments],
        env=environment(),
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    modules = {
        line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time:")
    }
    assert "sfumato.cli.main" in modules
    assert not {"torch", "numpy", "matplotlib", "accelerate", "PIL"} & modules
    assert arguments != ["--help"] or "importlib.metadata" not in modules  # it takes half as long as all the rest


def test_importing_sfumato_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "matplotlib", "accelerate", "PIL", "typer", "importlib.metadata")
    code = f"import sys, sfumato; assert not {{*{heavy}}} & {{*sys.modules}}; print(*sorted(dir(sfumato)))"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert {"train", "inspect", "load", "evaluate", "sample"} <= set(process.stdout.split())


def test_the_python_face_has_what_it_lists() -> None:
    import sfumato

    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None
    with pytest.raises(AttributeError, match="trian"):
        _ = sfumato.trian


def test_the_python_face_has_the_commands() -> None:
    import sfumato
    from sfumato.cli.app import app

    commands = {(command.name or "").replace("-", "_") for command in app.registered_commands}
    missing = commands - set(sfumato.__all__)
    assert missing == {"claims", "recipes", "report", "import"}  # rooms of this name; a word of the language


def test_the_names_of_choices_are_those_of_the_library() -> None:
    from sfumato.data import BUILTIN
    from sfumato.data.content import SPLITS
    from sfumato.data.decisions import BINARISE, LIKELIHOODS
    from sfumato.recipes import LADDERS, RECIPES
    from sfumato.recipes.papers import PAPERS

    assert set(options.BUILT_IN) == set(BUILTIN)
    assert options.LIKELIHOODS == LIKELIHOODS
    assert options.BINARISE == BINARISE
    assert set(options.RECIPES) == {*RECIPES, *LADDERS}
    assert tuple(PAPERS) == options.PAPERS
    assert options.SPLITS == SPLITS


def test_every_example_parses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The options of every printed example exist and take the values shown."""
    from typer.main import get_command

    monkeypatch.chdir(tmp_path)
    for name in ("photos", "new-photos", "runs/photos/model", "runs/people/model"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("people.csv", "latents.npz"):
        (tmp_path / name).touch()
    group: Any = get_command(app)
    for item in group.commands.values():
        examples = [line.strip() for line in item.epilog.splitlines() if line.startswith("  sfumato")]
        assert examples
        for example in examples:
            words = shlex.split(example)[1:]
            context = group.commands[words[0]].make_context(words[0], words[1:])
            assert context.params is not None


def test_an_unexpected_failure_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sfumato.verbs import info

    def broken(path: str) -> None:
        raise RuntimeError("a gear\nis missing")

    monkeypatch.setattr(info, "info", broken)
    assert run(["info", "x"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: this should not happen: RuntimeError: a gear is missing")
    assert "Traceback" not in error
    assert run(["info", "x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
