"""Sessions: what to install and which command to run. No logic lives here."""

from __future__ import annotations

import os

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")
BUILDER = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["optional-dependencies"]["build"],
]
PINS = ["2025-08", "2026-05", "2026-10"]
# Most tests keep one core busy. A file's tests stay together, since they share what they compile.
PARALLEL = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]


def install(session: nox.Session, *groups: str, pin: str = "") -> None:
    """Build with progress on the terminal (pip would hide it), then package what the cache holds."""
    session.install("-q", *BUILDER, *nox.project.dependency_groups(PROJECT, *groups))
    choice = ["--pin", pin] if pin else []
    session.run("python", "-m", "pyllama.builder", "build", "--tools", "llama-simple", *choice)
    session.install("-q", "--no-build-isolation", "--no-deps", f"-Ccmake.define.PYLLAMA_PIN={pin}", ".")


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: fetch, patch, compile, bind, and write text with a real model."""
    install(session)
    session.run("pyllama", "info")
    session.run("pyllama", "run", "-p", "Once upon a time", "-n", "64", "--temp", "0", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, on the default pin."""
    install(session, "test")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
@nox.parametrize("pin", PINS)
def matrix(session: nox.Session, pin: str) -> None:
    """What depends on the pin, on each one, and on every backend of this machine; writes two pages."""
    install(session, "test", "bench", pin=pin)
    session.run(
        "pytest", "-m", "(matrix or backends) and not server", *session.posargs, env={"PYLLAMA_TEST_PIN": pin}
    )
    session.run("python", "tests/matrix_table.py", env={"PYTHONPATH": "."})
    session.run("python", "tests/exact_table.py", "docs/exactness.md", env={"PYTHONPATH": "."})


@nox.session
@nox.parametrize("pin", PINS)
def server(session: nox.Session, pin: str) -> None:
    """Upstream's server and save-load-state, built from the patched tree; compiles for minutes."""
    install(session, "test", pin=pin)
    session.run("pytest", "-m", "server", "tests/server", *session.posargs, env={"PYLLAMA_TEST_PIN": pin})


@nox.session
def cuda(session: nox.Session) -> None:
    """CUDA with nothing of NVIDIA's but packages of the index: compile, link and load; 8 to 17 minutes."""
    session.install("-q", *BUILDER, *PROJECT["project"]["optional-dependencies"]["cuda13"])
    env = {"PYLLAMA_CUDA_ARCHITECTURES": os.environ.get("PYLLAMA_CUDA_ARCHITECTURES", "90-real")}
    session.run(
        "python", "-m", "pyllama.builder", "build", "--backend", "cuda", "--export", "build/cuda", env=env
    )
    session.run("python", "tests/cuda_state.py", env={**env, "PYLLAMA_BUILD": "build/cuda"})


@nox.session
def verify(session: nox.Session) -> None:
    """Contracts of the features, and the ABI: two builds with debug information, compared by abidiff."""
    session.install("-q", *BUILDER)
    session.run("python", "-m", "pyllama.builder", "build")
    session.run("python", "-m", "pyllama.builder", "verify", *session.posargs)
    session.run("python", "-m", "pyllama.builder", "verify", "--abi", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and mypy --strict, over the sources and the generated stubs."""
    session.install("-q", *BUILDER, *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("python", "-m", "pyllama.builder", "patches", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("python", "-m", "pyllama.builder", "build", "--export", "build/lint")
    session.run("mypy", "--strict", "build/lint/python/lib.pyi")


@nox.session
def docs(session: nox.Session) -> None:
    """The site in build/site/: docs/, and a reference out of the docstrings; a dead link is an error."""
    session.install("-q", *nox.project.dependency_groups(PROJECT, "docs"))
    session.run("mkdocs", "build", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def build(session: nox.Session) -> None:
    """Only build: `nox -s build -- --pin 2026-05 --none`."""
    session.install("-q", *BUILDER)
    session.run("python", "-m", "pyllama.builder", "build", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks; each prints a table and writes JSON."""
    install(session, "bench")
    session.run("python", "benchmarks/build.py")
    session.run("python", "benchmarks/calls.py")
    session.run("python", "benchmarks/generation.py")
    session.run("python", "benchmarks/open_close.py")
    session.run("python", "benchmarks/batching.py")
    session.run("python", "benchmarks/speculative.py")
    session.run("python", "benchmarks/follow_up.py")
    session.run("python", "benchmarks/patches.py")
    session.run("python", "benchmarks/backends.py", "--backend", "rpc")  # vulkan, where its tools are
    session.run("python", "benchmarks/device_state.py")  # --device Vulkan0, where its tools are
    session.run("python", "benchmarks/parallel_repack.py")
    session.run("python", "benchmarks/kv_cache.py")
    session.run("python", "benchmarks/shallow.py")


@nox.session
def bench_rebase(session: nox.Session) -> None:
    """The rebase report on five later revisions of upstream; writes the table in docs/rebase.md."""
    session.install("-q", *BUILDER)
    session.run("python", "benchmarks/rebase.py", *session.posargs, env={"PYTHONPATH": "."})


@nox.session
def wheel(session: nox.Session) -> None:
    """Wheels of the core and of every other backend, in `dist/`: `nox -s wheel -- cpu-all rpc vulkan`."""
    session.install("-q", *BUILDER, *nox.project.dependency_groups(PROJECT, "wheel"))
    session.run("python", "-m", "backend_wheels", *session.posargs, env={"PYTHONPATH": "packaging"})


@nox.session
def wheel_tests(session: nox.Session) -> None:
    """The wheels, made and installed where there is no checkout; compiles once more to compare bytes."""
    session.install("-q", *BUILDER, *nox.project.dependency_groups(PROJECT, "test", "wheel"))
    session.run("pytest", "-m", "wheels", "tests/wheels", *session.posargs, env={"PYTHONPATH": "."})
