"""The tiny models are what they say, at every pin, and sensitive enough for tests to build on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import KINDS, write

pytestmark = pytest.mark.matrix

TESTS = Path(__file__).parents[1]
TOKENS = 40
PARTS = [0, 7, 8, 9, 25, 40]
# Largest difference that another split into batches may make to a logit, of which the spread is about 3: keys
# and values are 16-bit floats, so what is added up in another order may be rounded to the neighbour.
ROUNDING = 0.02

LOOK = f"""
sys.path.append({str(TESTS)!r})
import numpy
from sequences import Sequences
from pyllama import lib

def differ(a, b):
    return float(numpy.abs(a - b).max())

tokens = numpy.random.default_rng(7).integers(3, 320, {TOKENS}).tolist()
with Sequences(sys.argv[1], n_ctx=256) as s:
    model = s.model.ptr
    told = {{
        "recurrent": bool(lib.llama_model_is_recurrent(model)),
        "hybrid": bool(lib.llama_model_is_hybrid(model)) if hasattr(lib, "llama_model_is_hybrid") else None,
        "n_swa": lib.llama_model_n_swa(model),
    }}
    once = s.decode(tokens)
    end = s.end()
    s.clear()
    again = s.decode(tokens)
    s.clear()
    ends = {PARTS}
    parts = numpy.concatenate([s.decode(tokens[a:b]) for a, b in zip(ends, ends[1:])])
    changes = {{}}
    for place in (0, 20):
        s.clear()
        changed = s.decode([*tokens[:place], tokens[place] ^ 1, *tokens[place + 1:]])
        changes[place] = [differ(a, b) for a, b in zip(once, changed)]
with Sequences(sys.argv[1], n_ctx=256) as s:
    anew = s.decode(tokens)
if hasattr(lib, "llama_n_rs_seq"):
    with Sequences(sys.argv[1], n_ctx=256, n_rs_seq=4) as s:
        told["n_rs_seq"] = lib.llama_n_rs_seq(s.context.ptr)
print(json.dumps({{
    **told,
    "finite": bool(numpy.isfinite(once).all()),
    "spread": [float(row.std()) for row in once],
    "steps": [differ(a, b) for a, b in zip(once, once[1:])],
    "end": end,
    "again": differ(once, again),
    "anew": differ(once, anew),
    "parts": differ(once, parts),
    "changes": changes,
}}))
"""


@pytest.mark.parametrize("name", KINDS)
def test_it_is_what_it_says(name: str, child: Any, tiny_model: Any, patched_build: Any) -> None:
    found = json.loads(child(LOOK, tiny_model(name)).stdout)
    kind = KINDS[name]
    assert (found["recurrent"], found["n_swa"]) == (kind.recurrent, kind.n_swa)
    assert found["hybrid"] in (kind.hybrid, None)  # 2025-08 cannot say
    assert found["end"] == TOKENS - 1
    if "n_rs_seq" in found:
        assert found["n_rs_seq"] == 4 * (patched_build.pin in kind.rollback)

    assert found["finite"]
    assert all(1.5 < spread < 6 for spread in found["spread"])
    assert min(found["steps"]) > 3, "two positions have nearly the same logits"
    assert found["again"] == found["anew"] == 0
    assert found["parts"] < ROUNDING
    # What a token changes is seen in every logit row from there to the end, and in none before.
    for place, changes in found["changes"].items():
        assert max(changes[: int(place)], default=0) < ROUNDING
        assert min(changes[int(place) :]) > 4 * ROUNDING, f"token {place} is forgotten"


def test_a_window_forgets(child: Any, tiny_model: Any) -> None:
    """All attention of this kind has the window: what lies before it and the convolutions is out of reach."""
    code = f"""
sys.path.append({str(TESTS)!r})
import numpy
from sequences import Sequences
tokens = numpy.random.default_rng(8).integers(3, 320, 60).tolist()
with Sequences(sys.argv[1]) as s:
    once = s.decode(tokens)
    s.clear()
    print(json.dumps(numpy.abs(once - s.decode([tokens[0] ^ 1, *tokens[1:]])).max(1).tolist()))
"""
    changes = json.loads(child(code, tiny_model("hybrid-swa")).stdout)
    window = KINDS["hybrid-swa"].n_swa
    reach = 2 * (window - 1) + 2 * 2  # two attention layers, two convolutions over three tokens
    assert min(changes[: window - 1]) > ROUNDING
    assert max(changes[reach + 1 :]) == 0


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_quantised_keys_and_values_fit(kind: str, child: Any, tiny_model: Any) -> None:
    code = f"""
sys.path.append({str(TESTS)!r})
import numpy
from sequences import Sequences
from pyllama import lib
kind = getattr(lib, "GGML_TYPE_" + sys.argv[2].upper())
on = {{"flash_attn_type": 1}} if hasattr(lib, "LLAMA_FLASH_ATTN_TYPE_ENABLED") else {{"flash_attn": True}}
tokens = numpy.random.default_rng(9).integers(3, 320, 40).tolist()
with Sequences(sys.argv[1]) as plain, Sequences(sys.argv[1], type_k=kind, type_v=kind, **on) as other:
    a, b = plain.decode(tokens), other.decode(tokens)
    print(json.dumps([float(numpy.abs(a - b).mean()), float(a.std())]))
"""
    for name in ("attention", "swa", "moe"):
        apart, spread = json.loads(child(code, tiny_model(name), kind).stdout)
        assert apart < spread / 10, name


def test_text_comes_back(child: Any, tiny_model: Any) -> None:
    code = """
with pyllama.Model(sys.argv[1]) as model:
    text = "Ein Märchen, 東京 & 1 + 1 = 2\\n"
    print(json.dumps(model.detokenize(model.tokenize(text, add_special=False)) == text))
"""
    assert json.loads(child(code, tiny_model("attention")).stdout) is True


def test_files_are_small_and_the_same_every_time(tmp_path: Path) -> None:
    for name in KINDS:
        sums = set()
        for _ in range(2):
            path = write(name, tmp_path)
            assert path.stat().st_size < 4_000_000
            sums.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert len(sums) == 1, name
