"""From folders to wheels that auditwheel has judged and tagged. Runs pip, auditwheel and wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyllama.errors import BuildError

from . import notices
from .project import ROOT, refresh

# What a plug-in takes from the core, from a driver or from NVIDIA's packages: never in its wheel.
FOREIGN = (
    *("libggml-base.so", "libggml.so", "libllama.so"),
    *("libvulkan.so.*", "libOpenCL.so.*", "libcuda.so.*"),
    *("libcudart.so.*", "libcublas.so.*", "libcublasLt.so.*", "libnccl.so.*"),
)


@dataclass(frozen=True)
class Wheel:
    """A finished wheel."""

    path: Path
    grafted: tuple[str, ...]
    """Libraries of this system that auditwheel put in."""
    unlicensed: tuple[str, ...]
    """Those of them whose licence's text is not to be found here."""


@dataclass(frozen=True)
class Workshop:
    """Where wheels are made, and the environment of the programs that make them."""

    folder: Path
    environment: Mapping[str, str]

    def core(self, build: Path, licenses: Iterable[str]) -> Wheel:
        """Make the core's wheel from a folder with nothing but the core; `licenses` are what is compiled."""
        raw = self._wheel(ROOT, f"-Ccmake.define.PYLLAMA_BUILT={build}", "-Cwheel.reproducible=true")
        return self._finished(
            self._audited(raw, ()), licenses, lambda unpacked: refresh(unpacked / "pyllama" / "_build")
        )

    def plugin(self, project: Path, licenses: Iterable[str]) -> Wheel:
        """Make a backend's wheel from its project."""
        return self._finished(self._audited(self._wheel(project), FOREIGN), licenses, lambda unpacked: None)

    def _wheel(self, project: Path, *settings: str) -> Path:
        out = self._place(f"raw-{project.name}")
        # pip takes a folder such as `project-rpc` for an unpacked sdist, whose wheel it would keep for ever.
        options = ("--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir")
        quiet = ("-q", "--disable-pip-version-check")
        self._run("pip", "wheel", *options, *quiet, *settings, "-w", out, project)
        (wheel,) = out.glob("*.whl")
        return wheel

    def _audited(self, wheel: Path, exclude: tuple[str, ...]) -> Path:
        out = self._place(f"audited-{wheel.stem}")
        options = [word for name in exclude for word in ("--exclude", name)]
        self._run("auditwheel", "repair", "--strip", *options, "-w", out, wheel)
        (audited,) = out.glob("*.whl")
        return audited

    def _finished(self, audited: Path, licenses: Iterable[str], change: Callable[[Path], None]) -> Wheel:
        """Change a wheel that auditwheel gave, and add the licences of what it grafted."""
        opened, packed = self._place(f"open-{audited.stem}"), self._place(f"packed-{audited.stem}")
        self._run("wheel", "unpack", "--dest", opened, audited)
        (unpacked,) = opened.iterdir()
        change(unpacked)
        unlicensed = notices.add(unpacked, licenses)
        packed.mkdir()
        self._run("wheel", "pack", "--dest-dir", packed, unpacked)
        (wheel,) = packed.glob("*.whl")
        grafted = sorted(path.name for path in unpacked.glob("*.libs/*"))
        return Wheel(wheel, tuple(grafted), tuple(unlicensed))

    def _place(self, name: str) -> Path:
        return self.folder / name

    def _run(self, module: str, *arguments: str | Path) -> str:
        """Run a Python program and return what it wrote; BuildError with its last lines when it fails."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            last = " | ".join(done.stdout.strip().splitlines()[-6:])
            raise BuildError(f"{module} {arguments[0]} failed; correct what it says: {last}")
        return done.stdout


def environment(epoch: int) -> dict[str, str]:
    """Return the environment for the programs: ours, the time for archives in seconds, and our programs.

    `SOURCE_DATE_EPOCH` stays as it is where it is set.
    """
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"SOURCE_DATE_EPOCH": str(epoch), **os.environ, "PATH": programs}
