from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from limner.cli.app import app
from limner.errors import LimnerError

SLOW_TO_IMPORT = {
    "PIL", "boto3", "dvc", "fastapi", "gradio", "jinja2", "kfp", "matplotlib", "mlflow", "numpy", "onnx", "onnxruntime",
    "pydantic", "rich", "ruamel", "torch", "torchvision",
}  # fmt: skip


def commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from commands(part, *words, name)
    else:
        yield words, command


COMMANDS = list(commands(typer.main.get_command(app)))


def examples(command: Any) -> list[list[str]]:
    """The words of each example in a command's help."""
    lines = (command.help or "").partition("Example:")[2].splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def test_help_imports_nothing_slow() -> None:
    look = (
        "import sys; sys.argv = ['limner', '--help']; from limner.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('modules:', *{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60).stdout
    imported = set(said.rpartition("modules:")[2].split())
    assert "typer" in imported
    assert not imported & SLOW_TO_IMPORT


def test_no_words_show_the_help(say) -> None:
    said = say()
    assert "Usage: limner" in said.out + said.err
    assert "prepare" in said.out + said.err


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_every_command_has_examples_that_it_understands(words: tuple[str, ...], command: Any) -> None:
    assert examples(command)
    for name, *example in examples(command):
        if name == "curl":  # asks what the command before it started
            continue
        if name == "torchrun":  # which starts what stands behind `-m limner`
            example = example[example.index("limner") + 1 :]  # noqa: PLW2901
        else:
            assert name == "limner"
        assert tuple(example[: len(words)]) == words
        command.make_context(" ".join(words), example[len(words) :])  # raises where a word is not understood


def test_every_command_says_what_each_option_does() -> None:
    silent = [(words, option.name) for words, command in COMMANDS for option in command.params if not option.help]
    assert not silent


def test_python_m_limner_is_the_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "limner", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.startswith("Usage: limner")


def test_a_mistake_of_the_user_is_three_lines_and_status_2(say) -> None:
    said = say("train", "digits-gan", "--params", "nowhere.yaml")
    assert said.status == 2
    assert said.err.splitlines() == [
        "Error: There is no file nowhere.yaml.",
        "Fix: Go to the project's folder, or name the file with --params FILE.",
    ]


def test_an_unknown_option_is_status_2(say) -> None:
    said = say("train", "digits-gan", "--sett", "a=b")
    assert said.status == 2
    assert "--set" in said.err


def failing(error: BaseException) -> typer.Typer:
    program = typer.Typer(pretty_exceptions_enable=False)

    @program.command()
    def fail() -> None:
        raise error

    return program


def test_all_three_parts_of_an_error_are_printed(say) -> None:
    said = say(program=failing(LimnerError("It broke.", why="It was old.", fix="Buy another.")))
    assert said.status == 2
    assert said.err.splitlines() == ["Error: It broke.", "Why: It was old.", "Fix: Buy another."]


def test_a_failure_of_ours_is_two_lines_and_status_1(say) -> None:
    said = say(program=failing(ZeroDivisionError("by zero")))
    assert said.status == 1
    assert said.err.splitlines() == [
        "Error: Limner failed unexpectedly: ZeroDivisionError: by zero",
        "Fix: See where: limner --debug",
    ]


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError("by zero"), 1), (LimnerError("It broke."), 2)])
def test_debug_shows_the_trace_wherever_it_stands(say, error: Exception, status: int) -> None:
    said = say("--debug", program=failing(error))
    assert said.status == status
    assert "Traceback" in said.err
    assert "in fail" in said.err


def test_interruption_is_status_130(say) -> None:
    assert say(program=failing(KeyboardInterrupt())).status == 130


def test_termination_is_status_143_and_lets_blocks_end(say) -> None:
    program, ended = typer.Typer(), []

    @program.command()
    def wait() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            ended.append(True)

    assert say(program=program).status == 143
    assert ended
