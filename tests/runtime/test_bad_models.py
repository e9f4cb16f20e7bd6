"""Files that are no good model: an error each, in one sentence, and the process lives on."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HEADER = 24  # magic, version, number of tensors, number of key-value pairs


def _header(version: int, tensors: int, pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def _pair(key_length: int, kind: bytes) -> bytes:
    return _header(3, 0, 1) + struct.pack("<Q", key_length) + b"x" + kind + bytes(100)


def _bad_files(model: Path) -> Iterator[tuple[str, bytes]]:
    with model.open("rb") as file:
        head = file.read(2_500_000)
    yield "empty", b""
    yield "text", b"hello, I am no model\n" * 100
    yield "zip", b"PK\x03\x04" + bytes(1000)
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + head[HEADER:100_000]
    for n in (1, 3, 4, 7, 8, 12, 16, 20, 23, 24, 28, 32, 100, 1000, 10_000, 100_000, 1_000_000, 2_500_000):
        yield f"cut at {n}", head[:n]
    for version in (0, 1, 4, 2**16, 2**32 - 1):
        yield f"version {version}", b"GGUF" + struct.pack("<I", version) + head[8:100_000]
    for tensors, pairs in (
        (2**63, 0),
        (0, 2**63),
        (2**63 - 1, 1),
        (1, 2**63 - 1),
        (0, 2**40),
        (2**64 - 1,) * 2,
    ):
        yield f"{tensors} tensors, {pairs} pairs", _header(3, tensors, pairs) + head[HEADER:100_000]
    yield "no tensors, no pairs", _header(3, 0, 0)
    yield "long key", _pair(2**62, b"")
    yield "long array", _pair(1, struct.pack("<IIQ", 9, 4, 2**61))
    yield "long array of strings", _pair(1, struct.pack("<IIQ", 9, 8, 2**40))
    yield "array of arrays", _pair(1, struct.pack("<IIQ", 9, 9, 3))
    yield "unknown type", _pair(1, struct.pack("<I", 77))
    source = random.Random(20261121)
    for i in range(12):
        yield f"magic and random bytes {i}", b"GGUF" + source.randbytes(source.choice([0, 20, 5000]))
        yield (
            f"version 3 and random bytes {i}",
            b"GGUF" + struct.pack("<I", 3) + source.randbytes(source.choice([16, 5000])),
        )
    for i in range(24):
        broken = bytearray(head[:2_000_000])  # the tensors are gone, so it cannot be good by chance
        for _ in range(source.choice([1, 5, 25])):
            broken[source.randrange(4, 3000)] = source.randrange(256)
        yield f"changed bytes {i}", bytes(broken)


@pytest.mark.matrix
def test_every_bad_file_is_one_clear_error(child: Any, test_model: Path, tmp_path: Path) -> None:
    names = {}
    for i, (name, data) in enumerate(_bad_files(test_model)):
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(data)
        names[str(path)] = name
    for part in (0.1, 0.9):  # inside the tensors' data
        path = tmp_path / f"{part}.gguf"
        shutil.copy(test_model, path)
        with path.open("r+b") as file:
            file.truncate(int(test_model.stat().st_size * part))
        names[str(path)] = f"cut at {part:.0%}"
    names[str(tmp_path)] = "a directory"
    names[str(tmp_path / "missing.gguf")] = "missing"
    (tmp_path / "list").write_text("\n".join(names))
    code = """
for path in open(sys.argv[1]).read().split("\\n"):
    print(path, flush=True, end="\\t")
    try:
        pyllama.Model(path).close()
        print("loaded")
    except pyllama.Error as error:
        print(type(error).__name__, json.dumps(str(error)), sep="\\t")
"""
    done = child(code, tmp_path / "list", check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{names[lines[-1][0]]}: exit code {done.returncode}\n{done.stderr}"
    assert done.stderr == ""
    assert len(lines) == len(names) > 70
    for path, *told in lines:
        assert told[0] == "ModelError", f"{names[path]}: {told}"
        message = json.loads(told[1])
        assert message.startswith(path), names[path]
        assert "\n" not in message and len(message) < 1500, message
        # What is wrong has to be there too: our own words, or llama.cpp's.
        assert len(message) > len(path) + 15, names[path]
    assert "is a directory" in {names[path]: told[1] for path, *told in lines}["a directory"]


def test_errors_carry_the_last_words_of_llama_cpp(tmp_path: Path) -> None:
    import pyllama

    path = tmp_path / "v99.gguf"
    path.write_bytes(_header(99, 1, 1) + bytes(100))
    with pytest.raises(pyllama.errors.ModelError, match=r"version 99 .*up to version 3"):
        pyllama.Model(path)
    # They are those of this call, not of one before.
    other = tmp_path / "key.gguf"
    other.write_bytes(_pair(1, struct.pack("<I", 77)))
    with pytest.raises(pyllama.errors.ModelError) as raised:
        pyllama.Model(other)
    assert "77" in str(raised.value) and "version 99" not in str(raised.value)


def test_a_model_still_loads_after_bad_ones(tmp_path: Path, test_model: Path) -> None:
    import pyllama

    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    for _ in range(3):
        with pytest.raises(pyllama.Error):
            pyllama.Model(tmp_path / "bad.gguf")
    with pyllama.Model(test_model, vocab_only=True) as model:
        assert len(model.vocab) > 1000
