from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit

from pyllama.builder import pins
from pyllama.errors import UsageError

LOCK = """
default = "b"
[[pin]]
name = "a"
date = "2025-01-01"
commit = "{one}"
tree = "{two}"
why = "old"
  [pin.github]
  repository = "some/where"
[[pin]]
name = "b"
date = "2026-01-01"
commit = "{two}"
tree = "{one}"
why = "new"
  [pin.index]
  project = "thing"
  version = "1.0"
  sha256 = "{sha}"
  subfolder = "vendor/thing"
""".format(one="1" * 40, two="2" * 40, sha="a" * 64)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pins.toml"
    path.write_text(text)
    return path


def test_lock_is_read(tmp_path: Path) -> None:
    lock = pins.load(write(tmp_path, LOCK))
    assert [pin.name for pin in lock.pins] == ["a", "b"]
    assert lock.pin() is lock.pin("b")
    assert lock.pin("a").github == pins.GithubSource("some/where")
    assert lock.pin("a").index is None
    assert lock.pin("b").index == pins.IndexSource("thing", "1.0", "a" * 64, "vendor/thing")
    assert lock.model is None
    # Plain strings, not tomlkit's own: they end up in JSON and in other modules' keys.
    assert type(lock.pin("a").commit) is str


def test_own_lock_is_valid() -> None:
    lock = pins.load(Path(__file__).parents[2] / "vendor" / "pins.toml")
    assert lock.pin().name == lock.default
    assert lock.model is not None
    assert all(pin.github and pin.index for pin in lock.pins)


def test_unknown_pin_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no pin 'c': choose one of a, b$"):
        pins.load(write(tmp_path, LOCK)).pin("c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(default="x"), "names no pin"),
        (lambda d: d["pin"][0].update(commit="12"), "malformed commit"),
        (lambda d: d["pin"][0].update(name="../x"), "malformed name"),
        (lambda d: d["pin"][0].pop("tree"), "pin 'a' needs tree"),
        (lambda d: d["pin"][0].update(name="b"), "twice"),
        (lambda d: d["pin"][1]["index"].update(subfolder="../up"), "leaves its folder"),
        (lambda d: d["pin"][1].update(index="x"), "must be a table"),
        (lambda d: d.pop("pin"), "at least one"),
    ],
)
def test_wrong_entries_are_named(change: object, message: str) -> None:
    document = tomlkit.parse(LOCK).unwrap()
    change(document)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message):
        pins.parse(document)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        pins.load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="not valid TOML"):
        pins.load(write(tmp_path, "default = ["))
