"""The stack of one pin on later revisions of upstream: what it says of each, and how long that takes.

The revisions are those that releases of llama-cpp-python carried, taken from the user's package index,
and the newest pin. The table goes into docs/rebase.md below its marker.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from table import OUT, Row, report

from pyllama.builder.fetch import index
from pyllama.builder.fetch.archive import extract
from pyllama.builder.fetch.download import download
from pyllama.builder.progress import Reporter

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "rebase.md"
MARKER = "<!-- Written by benchmarks/rebase.py from here on. -->\n"
PROJECT = "llama-cpp-python"
SUBFOLDER = "vendor/llama.cpp"
SDISTS = {
    "0.3.23": "85493cd887b543588941e8704640fef6a54c057443292e527559c30728375ffd",
    "0.3.26": "71b004d52a274273ae03ec954d62771d26c86f32193fd30be57601508bec0064",
    "0.3.30": "798c9b42652d2e0bff5fe81e7e762089f425a99e67f66ffe5ae156957876e0d1",
    "0.3.33": "369ba03d02caaef42c1ed07bbdc454f7436e47c7675b8b9757fa13fbac6acd92",
}
REPORTED = (0, 3, 4, 5)
"""Exit codes with which the command has said something."""


def unpacked(version: str, folder: Path, reporter: Reporter) -> Path:
    """Return upstream's files out of an sdist, below `folder`; downloaded and unpacked once."""
    place = folder / f"{PROJECT}-{version}"
    if not place.is_dir():
        with reporter.stage("fetch") as stage:
            stage.note = f"{PROJECT} {version}"
            using, sha256 = index.settings(), SDISTS[version]
            found = index.find(PROJECT, sha256=sha256, version=version, using=using)
            archive = folder / found.filename
            with using.session() as session:
                download(found.url, archive, sha256=sha256, session=session, stage=stage)
            partial = folder / f".{place.name}.{os.getpid()}"
            extract(archive, partial, subfolder=SUBFOLDER, stage=stage)
            partial.rename(place)
            archive.unlink()
    return place


def rebase(folder: Path, *words: str) -> str:
    """Run the real command in `folder`, from which revisions are named, and return what it prints."""
    command = [sys.executable, "-m", "pyllama.builder", "patches", "rebase", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in REPORTED:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def with_table(page: str, table: str) -> str:
    """Return the page with what is below its marker replaced."""
    head, marker, _ = page.partition(MARKER)
    if not marker:
        sys.exit(f"the page has no line {MARKER.strip()}: put it where the table goes")
    return f"{head}{marker}\n{table}"


def without_upstreams_text(markdown: str) -> str:
    """Say which lines of upstream's a hook would delete by their numbers; their text stays upstream's.

    The sections with the hooks as they would be hold nothing else, and are left out.
    """

    def numbers(block: re.Match[str]) -> str:
        found: dict[str, list[str]] = {}
        for line in block[1].splitlines():
            place = re.match(r"(.+?):(\d+):", line)
            if place:  # and not how many more there are
                found.setdefault(place[1], []).append(place[2])
        return "\n".join(f"- `{file}`: {', '.join(lines)}" for file, lines in found.items())

    flags = re.MULTILINE | re.DOTALL
    hooks = r"^### What changes in the hooks on [^\n]*\n\n(`{3,})text\n.*?\n\1$\n*"
    markdown = re.sub(hooks, "", markdown, flags=flags)
    return re.sub(r"^```text\n(.*?)\n```$", numbers, markdown, flags=flags)


def main() -> None:
    """Measure, report, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", default="2026-05", help="the pin whose stack is rebased")
    parser.add_argument("--newest", default="2026-10", help="the pin that comes last")
    args = parser.parse_args()
    folder = OUT / "sdists"
    folder.mkdir(parents=True, exist_ok=True)
    reporter = Reporter()
    names = [*(unpacked(version, folder, reporter).name for version in SDISTS), args.newest]
    onto = [word for name in names for word in ("--onto", name)]
    found = json.loads(rebase(folder, "--pin", args.pin, *onto, "--json"))["reports"]
    table = rebase(folder, "--pin", args.pin, *onto, "--markdown")
    marks = rebase(folder, "--pin", args.pin, "--markdown", "--bisect", *names)
    text = f"{without_upstreams_text(table)}\n### How far up each feature goes\n\n{marks}"
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    report("rebase", [Row(f"onto {row['onto']}", row["seconds"], "s", target="≤ 5 s") for row in found])


if __name__ == "__main__":
    main()
