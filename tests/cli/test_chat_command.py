"""`pyllama run --chat`, through a pipe and on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama import ChatMessage
from pyllama.chats.reader import ChatDelta
from pyllama.cli.chat import Session
from pyllama.errors import UsageError

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
Talk = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def words(tiny_model: Callable[[str], Path], tmp_path: Path) -> list[str]:
    (tmp_path / "chatml.jinja").write_text(CHATML)
    command = [sys.executable, "-m", "pyllama", "run", "--chat", "-m", str(tiny_model("attention"))]
    return [*command, "--template", str(tmp_path / "chatml.jinja"), "--ctx-size", "1024", "--seed", "1"]


@pytest.fixture
def environment(tmp_path: Path, patched_build: Any) -> dict[str, str]:
    root = str(Path(pyllama.__file__).parents[1])
    ours = {"PYTHONPATH": root, "PYLLAMA_CACHE": str(tmp_path / "cache"), "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **ours, "PYLLAMA_BUILD": str(patched_build.folder), "TERM": "dumb"}


@pytest.fixture
def talk(words: list[str], environment: dict[str, str]) -> Talk:
    def run(text: str, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, "-n", "6", *args],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=120,
            check=False,
        )

    return run


def test_a_chat_through_a_pipe(talk: Talk, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    done = talk(
        f'hello\nmore \\\nlines\n"""\na\nb\n"""\n//help\n/save {saved}\n/stats\n', "--system", "Be brief."
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = json.loads(saved.read_text("utf-8"))
    assert table["system"] == "Be brief."
    mine = [message["content"] for message in table["messages"] if message["role"] == "user"]
    assert mine == ["hello", "more \nlines", "a\nb", "/help"]
    assert [message["role"] for message in table["messages"]] == ["user", "assistant"] * 4
    assert f"8 messages in {saved}" in done.stdout
    prompt, known = map(int, re.findall(r"prompt (\d+) tokens, (\d+) of them known", done.stdout)[0])
    assert 0 < known < prompt


def test_commands(talk: Talk, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    done = talk(
        f"/regen\n/stats\nhello\n/regen\n/save {saved}\n/clear\n/save {saved}.empty\n/load {saved}\n"
        f"/system Be long.\n/save {saved}.again\n/quit\nnever read\n"
    )
    assert done.returncode == 0
    assert done.stderr == "error: there is no answer yet: say something first\n"
    assert "no answer was finished yet" in done.stdout and "2 messages from" in done.stdout
    first, again = json.loads(saved.read_text()), json.loads(Path(f"{saved}.again").read_text())
    assert json.loads(Path(f"{saved}.empty").read_text())["messages"] == []
    assert first["messages"] == again["messages"] and again["system"] == "Be long."


def test_what_is_wrong_is_told_and_the_chat_goes_on(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "no-chat.json").write_text('{"messages": [{"role": "robot"}]}')
    long = "x" * 3000
    done = talk(
        f"/nothing\n/save\n/load {tmp_path}/none\n/load {tmp_path}/no-chat.json\n/save {tmp_path}/no/folder\n"
        f"{long}\nhello\n/save {tmp_path}/chat.json\n"
    )
    told = done.stderr.splitlines()
    assert done.returncode == 0 and len(told) == 6
    assert all(line.startswith("error: ") for line in told)
    assert "/help lists them" in told[0] and "larger n_ctx" in told[5]
    assert len(json.loads((tmp_path / "chat.json").read_text())["messages"]) == 2


def test_wrong_usage(
    command_line: Any, test_model: Path, words: list[str], talk: Talk, tmp_path: Path
) -> None:
    assert command_line("run", "--chat", "--json", "-m", test_model).returncode == 2
    assert command_line("run", "--system", "x", "-m", test_model).returncode == 2
    (tmp_path / "chatml.jinja").write_text("{% for")
    done = talk("hello\n")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stdout == ""
    (tmp_path / "chatml.jinja").unlink()
    assert "cannot be read" in talk("hello\n").stderr


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, env)
        self.seen = ""

    def until(self, pattern: str, seconds: float = 90) -> str:
        """Return what was written up to a pattern, and forget it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} did not come: {self.seen!r}"
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                assert data, f"it ended before {pattern!r}: {self.seen!r}"
                self.seen += data.decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt_the_prompt(self) -> None:
        self.until("> ")
        time.sleep(0.2)  # readline waits a moment after it wrote the prompt; until then Python misses Ctrl-C
        self.type("\x03")

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        while True:
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:  # the other side is closed
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(test_model: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    """With the real model: a tiny one has ended its answer before anybody can stop it."""
    command = [sys.executable, "-m", "pyllama", "run", "--chat", "-m", str(test_model), "--temp", "0"]
    opened = Terminal([*command, "--ctx-size", "2048", "-n", "1500"], environment)
    yield opened
    with pytest.MonkeyPatch.context():
        try:
            os.kill(opened.pid, signal.SIGKILL)
            os.waitpid(opened.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    os.close(opened.fd)


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, tmp_path: Path) -> None:
    terminal.until("> ")
    terminal.type("hello, tell me a long story\n")
    terminal.until("story\r\n")
    terminal.until(r"[^\r\n]{3}")  # it answers
    terminal.type("\x03")
    terminal.until(r"\[stopped\]")
    terminal.until("> ")
    terminal.type(f"/save {tmp_path}/chat.json\n")
    terminal.until("2 messages in")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.ended() == 0
    history = tmp_path / "cache" / "chat-history"
    assert "hello" in history.read_text()


def test_ctrl_c_twice_at_the_prompt_ends(terminal: Terminal) -> None:
    terminal.interrupt_the_prompt()
    terminal.until("again, or Ctrl-D")
    terminal.until("> ")
    terminal.type("/help\n")
    terminal.until("/regen")
    terminal.interrupt_the_prompt()
    terminal.until("again, or Ctrl-D")
    terminal.interrupt_the_prompt()
    assert terminal.ended() == 0


def test_a_failed_answer_leaves_the_chat_as_it_was() -> None:
    """Also a second answer to the same question: the first one and the question stay."""
    fails = False

    def ask(context: Any, messages: list[ChatMessage]) -> Generator[ChatDelta, None, None]:
        yield ChatDelta(text="hi")
        if fails:
            raise UsageError("no")

    session, out = Session(None, ask, ""), io.StringIO()  # type: ignore[arg-type]
    session.take("question", out)
    before = list(session.messages)
    assert [message.role for message in before] == ["user", "assistant"]
    fails = True
    for text in ("/regen", "another question", "/regen", "/nothing"):
        with pytest.raises(UsageError):
            session.take(text, out)
        assert session.messages == before
    fails = False
    session.take("/regen", out)
    assert session.messages == before
