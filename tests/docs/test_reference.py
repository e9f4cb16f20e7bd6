"""The reference: what it is made of is there, and says what it has to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docs_site
import pytest
from docstrings import Entry, entries

import pyllama

ROOT = Path(__file__).resolve().parents[2]
NAMES = docs_site.public_names()
ENTRIES = list(entries(NAMES, docs_site.MODULES))


def test_it_has_every_public_name() -> None:
    assert set(NAMES) == set(pyllama.__all__)
    pages = "\n".join(docs_site.reference().values())
    for name, module in NAMES.items():
        if name == docs_site.RAW or module in docs_site.MODULES:
            assert f"::: pyllama.{module}\n" in pages or (ROOT / "docs/reference/lib.md").is_file()
        else:
            assert f"::: pyllama.{module}.{name}\n" in pages


def test_every_public_name_has_a_docstring() -> None:
    assert len(ENTRIES) > 120
    assert not [entry.name for entry in ENTRIES if not entry.docstring]
    assert (ROOT / "pyllama/native/ffi.py").read_text().startswith('"""')


def test_docstrings_tell_of_the_errors_that_are_raised() -> None:
    assert sum(len(entry.raises) for entry in ENTRIES) > 30
    untold = {entry.name: entry.untold() for entry in ENTRIES}
    assert not {name: errors for name, errors in untold.items() if errors}


def test_both_checks_can_fail() -> None:
    raises = frozenset({"UsageError"})
    assert Entry("f", "Do it.", "", raises).untold() == ["UsageError"]
    assert not Entry("f", "Do it. Raises UsageError for nothing.", "", raises).untold()
    assert not Entry("f", "Do it; see `stream`.", "", raises).untold()


def test_docstrings_end_as_sentences() -> None:
    """The first line is a sentence, which the reference's index shows."""
    first = {entry.name: entry.docstring.split("\n\n")[0].strip() for entry in ENTRIES}
    assert not [name for name, text in first.items() if not re.search(r"[.:?]$", text)]


@pytest.mark.parametrize("page", sorted(docs_site.outside()))
def test_pages_from_outside_of_docs_are_there(page: str) -> None:
    assert docs_site.outside()[page].startswith("#") or page == "THIRD_PARTY_NOTICES.md"


def test_the_code_about_the_c_api_runs(child: Callable[..., Any]) -> None:
    page = (ROOT / "docs" / "reference" / "lib.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    child(f"{code}\nassert params.n_ctx > 0 and len(buffer) == 64\npyllama.lib.unbound()")


def test_every_page_is_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert len(pages) > 10
    assert not [page for page in pages if not re.search(rf"- {page}$", settings, re.MULTILINE)]
