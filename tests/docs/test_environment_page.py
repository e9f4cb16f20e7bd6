"""docs/environment.md names every variable that the code reads; docs/installing.md, and the links of both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomlkit

from pyllama.builder.compile import made_with

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "environment.md").read_text("utf-8")
READS = (
    r'environ(?:\.get\(|\[)\s*"(\w+)"',
    r'^(?:VARIABLE|ARCHITECTURES) = "(\w+)"',
    r'find_compiler\("(\w+)"',
    r'getenv\("(\w+)"\)',
    r'for name in (\("CFLAGS".*?\))',
    r"choose\((\(.*?\))",
)


def read_by_the_code() -> set[str]:
    found = set()
    sources = [path for path in ROOT.glob("pyllama/**/*") if path.suffix in (".py", ".c", ".cpp", ".h")]
    sources += [path for path in ROOT.glob("patches/*/files/**/*") if path.is_file()]
    for path in sources:
        for pattern in READS:
            for said in re.findall(pattern, path.read_text("utf-8"), re.MULTILINE):
                found |= set(re.findall(r"[A-Z][A-Z0-9_]+", said))
    rows = tomlkit.parse((ROOT / "pyllama/builder/compile/backends.toml").read_text("utf-8")).unwrap()
    found -= {"PYTHONPATH"}  # passed on
    return found.union(made_with._PLACES, *(row.get("environment", ()) for row in rows.values()))


def test_every_variable_is_on_the_page() -> None:
    names = read_by_the_code()
    assert len(names) > 35 and {"PYLLAMA_BUILD", "PYLLAMA_CACHE", "CC", "LDFLAGS", "PIP_CERT"} <= names
    assert not sorted(name for name in names if f"`{name}`" not in PAGE)


def test_every_variable_of_ours_is_read() -> None:
    assert set(re.findall(r"`(PYLLAMA_\w+[A-Z])`", PAGE)) <= read_by_the_code()


@pytest.mark.parametrize("name", ["environment", "installing"])
def test_what_they_link_to_is_there(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / f"{name}.md").read_text("utf-8"))
    assert len(links) >= 5
    for link in links:
        file, _, anchor = link.partition("#")
        path = ROOT / "docs" / file
        assert path.exists(), link
        headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
