"""git, with the user's world shut out.

Every call names its repository and index explicitly, reads no configuration but ours, and
can never be fooled by a repository that surrounds the work folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import BuildError, PatchError

_CONFIG = (
    "core.autocrlf=false",
    "core.safecrlf=false",
    "core.fileMode=true",
    "core.symlinks=true",
    "core.quotePath=false",
    "core.longPaths=true",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    f"core.attributesFile={os.devnull}",
    "commit.gpgSign=false",
    "apply.whitespace=nowarn",
    "gc.auto=0",
    "protocol.allow=never",
    "safe.directory=*",
)


@dataclass(frozen=True)
class Result:
    """What a git command gave back."""

    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which only our own git settings hold."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    env.update(
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_CONFIG_SYSTEM=os.devnull,
        GIT_CONFIG_NOSYSTEM="1",
        GIT_ATTR_NOSYSTEM="1",
        GIT_TERMINAL_PROMPT="0",
        GIT_OPTIONAL_LOCKS="0",
        LC_ALL="C",
    )
    env.update(extra)
    return env


@dataclass(frozen=True)
class Git:
    """One repository, with an optional work tree and index of our choosing."""

    directory: Path
    work_tree: Path | None = None
    index: Path | None = None
    objects: Path | None = None
    """Where new objects are written, when that is not the repository itself."""

    def run(
        self,
        *args: str,
        stdin: bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run `git ARGS`; with `check`, a failure raises PatchError with git's own words.

        `env` is added to the environment that the command sees.
        """
        program = shutil.which("git")
        if program is None:
            raise BuildError("git was not found: install git (Debian: apt-get install git)")
        command = [program]
        for setting in _CONFIG:
            command += ["-c", setting]
        command.append(f"--git-dir={self.directory}")
        env = environment(**(env or {}))
        cwd: Path | None = None
        if self.work_tree is not None:
            command.append(f"--work-tree={self.work_tree}")
            env["GIT_CEILING_DIRECTORIES"] = str(self.work_tree.parent)
            cwd = self.work_tree
        if self.index is not None:
            env["GIT_INDEX_FILE"] = str(self.index)
        if self.objects is not None:
            env["GIT_OBJECT_DIRECTORY"] = str(self.objects)
            env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = _quoted(self.directory / "objects")
        done = subprocess.run(
            [*command, *args],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env=env,
            cwd=cwd,
        )
        result = Result(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "replace"),
        )
        if check and result.code != 0:
            raise PatchError(f"git {args[0]} failed: {_last_line(result.err) or result.out.strip()}")
        return result

    def with_index(self, index: Path, work_tree: Path | None = None) -> Git:
        """Return the same repository seen through another index and work tree."""
        return Git(self.directory, work_tree, index, self.objects)


def init_bare(directory: Path) -> Git:
    """Open a bare repository, creating it when it is not there.

    Its own attributes switch every conversion off, so bytes go in and out unchanged whatever
    a tree's `.gitattributes` says.
    """
    repo = Git(directory)
    if (directory / "HEAD").is_file():
        return repo
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        Git(fresh).run("init", "-q", "--bare", "--template=")
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)  # mkdtemp's folder is its owner's alone
        (fresh / "info").mkdir(exist_ok=True)
        (fresh / "info" / "attributes").write_text("* -text -ident -filter -working-tree-encoding\n")
        with suppress(OSError):  # another process was first
            os.rename(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return repo


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def names(output: str) -> Sequence[str]:
    """Split NUL-separated output."""
    return [part for part in output.split("\0") if part]
