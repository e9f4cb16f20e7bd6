"""Grammars: the text follows them, wrong ones are errors, and none ends the process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyllama
from pyllama import Sampler, SamplerParams
from pyllama.errors import ContextError, UsageError

pytestmark = pytest.mark.matrix

NUMBERS = r"""root ::= "{" pair ("," pair){1,3} "}"
pair ::= name ":" [0-9]+
# a comment with ( and {9,1}
name ::= "\"" [a-z]{2,5} "\""
"""


@pytest.mark.parametrize("params", [{"temperature": 0}, *({"temperature": 3, "seed": i} for i in range(5))])
def test_the_text_follows_the_grammar(tiny_model: Callable[[str], Path], params: dict[str, Any]) -> None:
    """Random weights, so nearly every token has to be corrected."""
    chosen = SamplerParams(grammar=NUMBERS, top_k=0, top_p=1, min_p=0, **params)
    with pyllama.Model(tiny_model("attention")) as model:
        done = pyllama.generate(model, "abc", max_tokens=300, params=chosen)
        pattern = r'\{"[a-z]{2,5}":[0-9]+(,"[a-z]{2,5}":[0-9]+){1,3}\}'
        if done.finish_reason == "stop":
            assert re.fullmatch(pattern, done.text)
        else:
            assert re.match(r'\{"[a-z]{2,5}":[0-9]+', done.text)


def test_the_model_speaks_where_it_may(model: pyllama.Model) -> None:
    """What the model would say anyway is not touched."""
    free = pyllama.generate(model, "The capital of France is", max_tokens=8, temperature=0)
    params = SamplerParams(temperature=0, grammar="root ::= [^x]*")
    bound = pyllama.generate(model, "The capital of France is", max_tokens=8, params=params)
    assert bound.tokens == free.tokens
    params = SamplerParams(temperature=0, grammar='root ::= " " ("Lyon" | "Paris" | "Nice")')
    done = pyllama.generate(model, "The capital of France is", max_tokens=8, params=params)
    assert (done.text, done.finish_reason) == (" Paris", "stop")


def test_characters_of_several_tokens(tiny_model: Callable[[str], Path]) -> None:
    params = SamplerParams(grammar='root ::= "東" [あ-ん]{2} "🐉"', seed=3)
    with pyllama.Model(tiny_model("attention")) as model:
        done = pyllama.generate(model, "abc", max_tokens=50, params=params)
    assert re.fullmatch("東[あ-ん]{2}🐉", done.text)
    assert len(done.tokens) == 3 + 6 + 4, "a token for each byte"


def test_token_by_token(tiny_model: Callable[[str], Path]) -> None:
    """`accept` refuses what llama.cpp would end the process over, and goes on afterwards."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=64) as context:
        context.decode([40])
        with Sampler(SamplerParams(grammar='root ::= "ab" "c"?', temperature=0), model) as sampler:
            a, b, c, eos = *(model.tokenize(x, add_special=False)[0] for x in "abc"), 2
            for wrong in (b, c, eos, 1):
                with pytest.raises(ContextError, match=f"does not allow token {wrong}"):
                    sampler.accept(wrong)
            sampler.accept(a)
            said = model.vocab.piece
            assert said(sampler.sample(context)) == b"b"
            with pytest.raises(ContextError, match="does not allow"):
                sampler.accept(a)
            sampler.accept(c)
            assert sampler.sample(context) == eos
            for _ in range(3):  # what comes after the end is the end
                assert sampler.sample(context) == eos
            sampler.reset()
            assert said(sampler.sample(context)) == b"a"


def test_biases_that_leave_nothing(tiny_model: Callable[[str], Path]) -> None:
    """The chain forbids what the grammar wants: the grammar wins."""
    with pyllama.Model(tiny_model("attention")) as model, model.context(n_ctx=64) as context:
        every = [i for i in range(len(model.vocab)) if model.vocab.piece(i) == b"a"]
        params = SamplerParams(
            grammar='root ::= "a"+', logit_bias=dict.fromkeys(every, -float("inf")), seed=1
        )
        context.decode([40])
        with Sampler(params, model) as sampler:
            assert sampler.sample(context) in every


def _chain(n: int) -> str:
    """A grammar of n rules, each of which is the next one."""
    return "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(n)) + f'\nr{n} ::= "a"'


WRONG = {
    "no rule": "nothing at all",
    "no root": 'other ::= "a"',
    "undefined": "root ::= other",
    "left recursion": 'root ::= root "a" | "b"',
    "left recursion through others": 'root ::= x\nx ::= y x "a"\ny ::= "q"?',
    "repetition of nothing": 'root ::= ("a"*)*',
    "repetition of a rule that may be nothing": 'root ::= "b" y+\ny ::= z\nz ::= "q"{0,3}',
    "open bracket": 'root ::= ("a"',
    "open class": "root ::= [a-",
    "open string": 'root ::= "a',
    "bad escape": 'root ::= "\\x4"',
    "empty": "",
    "white": "  \n",
    "deep": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "long chain": _chain(100_000),
    "many times": 'root ::= "a"{100000000}',
    "backwards": 'root ::= "a"{5,2}',
    "half a pair": 'root ::= "\udcff"',
}
FINE = {
    "nothing": 'root ::= ""',
    "perhaps nothing": 'root ::= | "a"',
    "no character": "root ::= [^]",
    "brackets in strings": 'root ::= "((((" "{9,1}" [({]',
    "100 brackets": "root ::= " + "(" * 100 + '"a"' + ")" * 100,
    "1000 rules": _chain(1000),
    "many choices": "root ::= " + " | ".join(f'"{i}"' for i in range(3000)),
    "ambiguous": 'root ::= (("a" | "a") ("a" | "a"))* ',
}
EACH = """
with pyllama.Model(sys.argv[1]) as model, model.context(n_ctx=64) as context:
    context.decode([40])
    for name, text in json.load(open(sys.argv[2])).items():
        print(name, flush=True, end="\\t")
        try:
            with pyllama.Sampler(pyllama.SamplerParams(grammar=text, temperature=0), model) as sampler:
                for _ in range(5):
                    sampler.sample(context)
            print("sampled")
        except pyllama.errors.ContextError as error:
            print("stuck", error)
        except pyllama.errors.UsageError as error:
            print("refused", str(error).replace("\\n", " "))
"""


def test_wrong_grammars_are_errors(child: Any, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "grammars").write_text(json.dumps({**WRONG, **FINE}))
    done = child(EACH, tiny_model("attention"), tmp_path / "grammars", check=False)
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, f"{list(lines)[-1]}: exit code {done.returncode}"
    assert {name for name, told in lines.items() if told.startswith("refused")} == set(WRONG)
    assert {name for name, told in lines.items() if not told.startswith("refused")} == set(FINE)
    assert all("grammar" in lines[name] for name in WRONG)


def test_a_vocabulary_that_cannot_say_it(model: pyllama.Model) -> None:
    """A grammar that forbids every token is an error, not the end of the process."""
    with model.context(n_ctx=64, threads=1) as context:
        context.decode([1])
        params = SamplerParams(grammar="root ::= [^\\U00000001-\\U0010ffff] [a]", temperature=0)
        with Sampler(params, model) as sampler, pytest.raises(ContextError, match="allows no token"):
            sampler.sample(context)


def test_the_name_of_the_root(model: pyllama.Model) -> None:
    text = 'answer ::= "yes" | "no"\nroot ::= "maybe"'
    for root, expected in (("root", {"maybe"}), ("answer", {"yes", "no"})):
        params = SamplerParams(grammar=text, grammar_root=root, seed=1)
        assert pyllama.generate(model, "Well,", max_tokens=8, params=params).text in expected
    for root in ("", "nothing", "a b", "a\x01"):
        with pytest.raises(UsageError):
            pyllama.stream(model, "x", params=SamplerParams(grammar=text, grammar_root=root))
