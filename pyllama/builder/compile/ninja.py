"""Run CMake and Ninja, and read Ninja's output for progress."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ...errors import BuildError
from ..git import environment
from ..progress import Stage

_STEP = re.compile(r"\[(\d+)/(\d+)\] (.*)")
_KEPT_ERRORS = 20


def run(command: list[str], log: Path, stage: Stage, what: str) -> None:
    """Run `command`, copy its output to `log`, and move the stage's bar by `[n/m]` lines.

    Raises BuildError with the first error line and the place of the log.
    """
    # ggml asks git for a commit: it must not find the one of a repository around us.
    env = environment(GIT_DIR=os.path.join(os.sep, "nonexistent"), NINJA_STATUS="[%f/%t] ", CLICOLOR="0")
    errors: list[str] = []
    cmake_said = False
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as record:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                step = _STEP.match(line)
                if step:
                    stage.update(int(step[1]), int(step[2]), step[3].split("/")[-1].split(" ")[-1][:40])
                elif cmake_said and line.strip():  # CMake puts the reason on the next line
                    errors[-1] = f"{errors[-1]} {line.strip()}"
                    cmake_said = False
                elif _is_error(line) and len(errors) < _KEPT_ERRORS:
                    errors.append(line.strip())
                    cmake_said = line.startswith("CMake Error")
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        first = errors[0] if errors else f"it ended with code {code}"
        raise BuildError(f"{what} failed: {first} (the whole output is in {log})")


def _is_error(line: str) -> bool:
    return any(word in line for word in ("error:", "CMake Error", "Killed", "undefined reference"))
