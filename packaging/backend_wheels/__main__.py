"""Make wheels out of one build: the core with its CPU plug-ins, and one for each other backend.

`python -m backend_wheels [BACKEND …]`, in the checkout. The folder for the wheels then holds this set and
no older wheel of pyllama.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from pyllama.builder import build, finished, provenance
from pyllama.builder.commands import run_command
from pyllama.builder.commands.arguments import add_choice, paths_of, wanted
from pyllama.builder.plan import make_plan
from pyllama.builder.progress import Reporter
from pyllama.errors import BuildError, UsageError

from .cut import for_all, only_for, plugins_of
from .project import CORE, licenses, version, write_core, write_plugin
from .wheels import Wheel, Workshop, environment

DEFAULT = ("cpu-all", "rpc")


def main() -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m backend_wheels", description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"default: {' '.join(DEFAULT)}")
    add_choice(parser)
    parser.add_argument("--build", type=Path, metavar="DIR", help="take this finished build, and make none")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="default: dist")
    parser.set_defaults(run=_make)
    return run_command(parser.parse_args())


def _make(args: argparse.Namespace) -> int:
    if sys.platform != "linux":
        raise BuildError("auditwheel is for Linux: here, `pip wheel .` makes a wheel for this machine")
    reporter, of = Reporter(), version()
    built = _built(args, reporter)
    date = datetime.fromisoformat(provenance.read(built).upstream.date).replace(tzinfo=timezone.utc)
    made = []
    with tempfile.TemporaryDirectory(prefix="pyllama-wheels-") as scratch:
        folder = Path(scratch)
        workshop = Workshop(folder, environment(int(date.timestamp())))
        with reporter.stage("core") as stage:
            write_core(built, folder / "core")
            made.append(workshop.core(folder / "core", licenses(built)))
            stage.note = _told(made[-1])
        for backend in plugins_of(finished.read(built)):
            with reporter.stage(backend) as stage:
                project = folder / f"project-{backend}"
                write_plugin(built, backend, of, project)
                made.append(workshop.plugin(project, licenses(built, backend)))
                stage.note = _told(made[-1])
        _put(made, args.out)
    variant = only_for(finished.read(built))
    if variant:
        reporter.say(
            f"{made[0].path.name} is for CPUs that have what {variant} has, and its name does not say so: "
            "for every CPU, name cpu-all instead of cpu"
        )
    for wheel in made:
        if wheel.unlicensed:
            reporter.say(
                f"before you publish {wheel.path.name}, add the texts of the licences of "
                f"{', '.join(wheel.unlicensed)}: these are inside, and the texts were not found here"
            )
        print(args.out / wheel.path.name)
    return 0


def _built(args: argparse.Namespace, reporter: Reporter) -> Path:
    """Return the finished build that the arguments name, or make the one that they describe."""
    if args.build is None:
        plan = make_plan(
            paths_of(args), pin=args.pin, wanted=wanted(args), backends=for_all(args.backends or DEFAULT)
        )
        return build.build(paths_of(args), plan, reporter).folder
    if args.backends or args.pin or args.series or args.none or args.all or args.features is not None:
        raise UsageError("--build names a build, which has its pin, features and backends: leave those out")
    folder: Path = args.build.absolute()
    if not finished.is_complete(folder):
        raise UsageError(f"{folder} is not a finished build: name a folder that `pyllama build` prints")
    if finished.read(folder)["flavour"] != "release":
        raise UsageError(f"{folder} is a build for tests: name one of the flavour release")
    return folder


def _told(wheel: Wheel) -> str:
    grafts = f", with {', '.join(wheel.grafted)}" if wheel.grafted else ""
    return f"{wheel.path.name}, {wheel.path.stat().st_size / 1e6:.1f} MB{grafts}"


def _put(made: list[Wheel], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{CORE.replace('-', '_')}*.whl"):
        old.unlink()
    for wheel in made:
        shutil.copyfile(wheel.path, out / wheel.path.name)


if __name__ == "__main__":
    sys.exit(main())
