"""`pyllama run --chat`: talk with a model on the terminal, or through a pipe."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..chats.chatting import stream_chat, template_of
from ..chats.messages import ChatMessage, messages_of, native
from ..chats.reader import ChatDelta, ChatReply
from ..errors import Error, UsageError
from ..places import cache_dir

if TYPE_CHECKING:
    from ..context import Context
    from ..model import Model
    from ..sampling import SamplerParams

_SIZE = 8192  # tokens of the context, where the model takes as many
_BLOCK = '"""'
_HELP = """/help            this list
/clear           forget the chat, /reset does the same; the system message stays
/system TEXT     what the model is told first; without TEXT, nothing
/regen           answer the last message anew
/save FILE       write the chat as JSON
/load FILE       go on with a chat that was saved
/stats           tokens and speed of the last answer
/quit            end, as Ctrl-D and twice Ctrl-C do
A line that ends with \\ goes on in the next one; a text of several lines stands between lines of \"\"\".
// at the beginning is one / of text. Ctrl-C stops an answer."""


Ask = Callable[["Context", list[ChatMessage]], Generator[ChatDelta, None, None]]


class Quit(Exception):
    """The user wants to end."""


class Session:
    """A chat: what was said, and the commands."""

    def __init__(
        self, context: Context, ask: Callable[..., Generator[ChatDelta, None, None]], system: str
    ) -> None:
        self._context = context
        self._ask = ask
        self.system = system
        self.messages: list[ChatMessage] = []
        self.last: ChatReply | None = None
        self._commands: dict[str, Callable[[str], str]] = {
            "help": lambda _: _HELP,
            "clear": self._clear,
            "reset": self._clear,
            "system": self._system,
            "regen": self._regen,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
            "quit": self._quit,
            "exit": self._quit,
        }

    def take(self, text: str, out: TextIO) -> None:
        """Answer a message or obey a command. Raises Quit, and pyllama's errors; the chat stays as it was."""
        before = list(self.messages)
        try:
            self._take(text, out)
        except BaseException:
            self.messages = before
            raise

    def _take(self, text: str, out: TextIO) -> None:
        if text.startswith("//"):
            text = text[1:]
        elif text.startswith("/"):
            name, _, rest = text[1:].partition(" ")
            command = self._commands.get(name.strip())
            if command is None:
                raise UsageError(f"there is no command /{name.strip()}: /help lists them")
            said = command(rest.strip())
            if said:
                print(said, file=out)
            if name.strip() == "regen":
                self._answer(out)
            return
        self.messages.append(ChatMessage("user", text))
        self._answer(out)

    def _answer(self, out: TextIO) -> None:
        """Let the model answer the last message."""
        told = [ChatMessage("system", self.system)] if self.system else []
        said = ""
        try:
            answer = self._ask(self._context, [*told, *self.messages])
            with _interruptible() as stopped, closing(answer):
                for delta in answer:
                    if delta.reasoning and out.isatty():
                        print(f"\x1b[2m{delta.reasoning}\x1b[0m", end="", file=out, flush=True)
                    print(delta.text, end="", file=out, flush=True)
                    said += delta.text
                    if delta.reply is not None:
                        self.last = delta.reply
                    if stopped():
                        print(" [stopped]", end="", file=out)
                        break
        finally:
            print(file=out, flush=True)
        self.messages.append(ChatMessage("assistant", said))

    def _clear(self, _: str) -> str:
        self.messages.clear()
        return "the chat is empty"

    def _system(self, text: str) -> str:
        self.system = text
        return "the model is told so from the next message on" if text else "the model is told nothing first"

    def _regen(self, _: str) -> str:
        if not self.messages:
            raise UsageError("there is no answer yet: say something first")
        self.messages.pop()
        return ""

    def _save(self, name: str) -> str:
        path = _path(name, "/save")
        table = {"system": self.system, "messages": [native(message) for message in self.messages]}
        try:
            handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(table, file, indent=1, ensure_ascii=False)
            os.replace(fresh, path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        return f"{len(self.messages)} messages in {path}"

    def _load(self, name: str) -> str:
        path = _path(name, "/load")
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            system, held = str(table["system"]), messages_of(table["messages"], to_answer=False)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is no chat that /save wrote ({error})") from None
        if held and held[-1].role != "assistant":
            raise UsageError(f"{path} is no chat that /save wrote: it does not end with an answer")
        self.system, self.messages = system, held
        return f"{len(held)} messages from {path}"

    def _stats(self, _: str) -> str:
        if self.last is None:
            return "no answer was finished yet"
        done = self.last.generation
        return (
            f"prompt {done.prompt_tokens} tokens, {done.cached_tokens} of them known already, "
            f"{done.prompt_seconds:.2f} s; answer {len(done.tokens)} tokens, "
            f"{done.tokens_per_second:.1f} per second; finish_reason {self.last.finish_reason}"
        )

    def _quit(self, _: str) -> str:
        raise Quit


def run_chat(model: Model, params: SamplerParams, args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Talk until the user ends it; return the exit code."""
    source = None
    if args.template is not None:
        try:
            source = args.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--template {args.template} cannot be read: {error}") from None
    template = template_of(model, source)  # what is wrong with it is told before anything is said
    size = args.ctx_size or min(model.n_ctx_train or _SIZE, _SIZE)

    def ask(context: Context, messages: list[ChatMessage]) -> Generator[ChatDelta, None, None]:
        return stream_chat(context, messages, template=template, max_tokens=args.max_tokens, params=params)

    with model.context(n_ctx=size, threads=args.threads, **options) as context:
        session = Session(context, ask, args.system)
        terminal = sys.stdin.isatty()
        if terminal:
            print("/help lists the commands, Ctrl-D ends", file=sys.stderr)
        with _history() if terminal else nullcontext():
            _talk(session, terminal)
    return 0


def _talk(session: Session, terminal: bool) -> None:
    interrupted = False
    while True:
        try:
            text = _read(terminal)
            interrupted = False
            if text.strip():
                session.take(text.strip("\n"), sys.stdout)
        except (EOFError, Quit):
            return
        except KeyboardInterrupt:
            if interrupted:
                print(file=sys.stderr)
                return
            interrupted = True
            print("\nCtrl-C again, or Ctrl-D, ends", file=sys.stderr)
        except Error as error:
            print(f"error: {error}", file=sys.stderr)


def _read(terminal: bool) -> str:
    """Return what the user says, which may be several lines. Raises EOFError at the end of the input."""
    line = _line("> " if terminal else "")
    if line.strip() == _BLOCK:
        lines: list[str] = []
        with suppress(EOFError):
            while (line := _line("… " if terminal else "")).strip() != _BLOCK:
                lines.append(line)
        return "\n".join(lines)
    lines = [line]
    with suppress(EOFError):
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(_line("… " if terminal else ""))
    return "\n".join(lines)


def _line(prompt: str) -> str:
    if prompt:
        return input(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


@contextmanager
def _history() -> Iterator[None]:
    """Let the terminal's lines be edited, and remember them."""
    try:
        import readline
    except ImportError:  # not on Windows
        yield
        return
    path = cache_dir() / "chat-history"
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C only be noted: the answer stops between two tokens. A second one interrupts."""
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _path(name: str, command: str) -> Path:
    if not name:
        raise UsageError(f"{command} needs the name of a file")
    return Path(name).expanduser()
