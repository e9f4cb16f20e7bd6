"""Speculative decoding on any model, and where its time goes, with checkpoints and without.

python examples/speculative.py model.gguf --checkpoints device --check

A draft of a few tokens is read in one batch with the logits of each, and as many are kept as plain greedy
decoding would have chosen. After a wrong one the model has to go back. Attention can: tokens are removed. A
recurrent state cannot: it needs a checkpoint from before the draft, or all of the text once more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phases import Clock, report
from reader import LONGEST, Reader

import pyllama
from pyllama.errors import UsageError

PROMPT = "One for the money, two for the show, three to get ready, and four to go. One for the money,"


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens are the same at the beginning."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def lookup(text: Sequence[int], count: int) -> list[int]:
    """Draft what followed when the last three words, or fewer, were read before."""
    for n in (3, 2, 1):
        for i in range(len(text) - n - 1, -1, -1):
            if text[i : i + n] == text[-n:]:
                known = list(text)
                for _ in range(count):  # past the end it reads what it drafts: a loop goes on
                    known.append(known[i + n + len(known) - len(text)])
                return known[len(text) :]
    return []


def by_model(reader: Reader, text: Sequence[int], count: int) -> list[int]:
    """Draft what another model writes, which first goes back to where its last draft was right."""
    reader.back_to(min(common(reader.tokens, text), len(text) - 1))
    reader.feed(text[len(reader.tokens) :])
    reader.save()
    drafted = [reader.choice()]
    while len(drafted) < count:
        reader.feed(drafted[-1:])
        drafted.append(reader.choice())
    return drafted


def speculate(
    target: Reader, prompt: list[int], most: int, draft: Callable[[list[int]], list[int]], clock: Clock
) -> dict[str, Any]:
    """Write at most `most` tokens, those of plain greedy decoding; return what `report` prints."""
    start, counts, is_eog = time.perf_counter(), Counter[str](), target.context.model.vocab.is_eog
    with clock.phase("prompt"):
        target.feed(prompt)
        text = [*prompt, target.choice()]
    while (room := len(prompt) + most - len(text)) > 0 and not is_eog(text[-1]):
        with clock.phase("draft"):
            drafted = draft(text)[: room - 1]
        read = len(target.tokens)
        if drafted:
            target.save()
        with clock.phase("verify"):
            chosen = target.read([text[-1], *drafted])
        right = common(drafted, chosen)
        end = next((i for i in range(right) if is_eog(chosen[i])), right)
        text += chosen[: end + 1]
        target.back_to(read + 1 + right)
        counts.update(rounds=1, drafted=len(drafted), accepted=right)
    return {
        "tokens": text[len(prompt) : -1 if is_eog(text[-1]) else None],
        **clock.spent(time.perf_counter() - start),
        "checkpoint_bytes": target.checkpoint.nbytes if target.checkpoint else 0,
        **{name: counts[name] for name in ("rounds", "drafted", "accepted")},
    }


def arguments() -> argparse.Namespace:
    """Read the command line; exit code 2 for what makes no sense."""
    parser = argparse.ArgumentParser(description="Greedy speculative decoding, and where its time goes.")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument(
        "--draft-model", type=Path, help="drafts, in place of looking up what was read before"
    )
    parser.add_argument("--draft", type=int, default=8, help=f"tokens to draft, 1 to {LONGEST}")
    parser.add_argument("--checkpoints", choices=("device", "host", "none"), default="device")
    parser.add_argument("-p", "--prompt", default=PROMPT)
    parser.add_argument("-n", "--max-tokens", type=int, default=128)
    parser.add_argument("--check", action="store_true", help="compare with plain decoding")
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    args = parser.parse_args()
    if not 1 <= args.draft <= LONGEST or args.max_tokens < 1:
        parser.error(f"--draft has to be 1 to {LONGEST}, and --max-tokens at least 1")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Open the models and write; with `--check`, once more without drafts."""
    clock, model = Clock(), pyllama.Model(args.model)
    prompt = model.tokenize(args.prompt)
    if not prompt:
        raise UsageError("the prompt has no tokens: write something after -p")
    n_ctx = len(prompt) + args.max_tokens + LONGEST
    if args.draft_model:
        helper = pyllama.Model(args.draft_model)
        if len(helper.vocab) != len(model.vocab):
            raise UsageError(
                f"{args.draft_model} has another vocabulary: take a draft model of the same family"
            )
        reader = Reader(helper, n_ctx, args.checkpoints, clock)
    found = speculate(
        Reader(model, n_ctx, args.checkpoints, clock),
        prompt,
        args.max_tokens,
        lambda text: by_model(reader, text, args.draft) if args.draft_model else lookup(text, args.draft),
        clock,
    )
    if args.check:
        with model.context(n_ctx=n_ctx) as context:
            plain = pyllama.generate(context, prompt, max_tokens=args.max_tokens, temperature=0)
        found["plain_seconds"], found["same"] = plain.seconds, list(plain.tokens) == found["tokens"]
    return {**found, "text": model.detokenize(found["tokens"])}


def main() -> int:
    """Return the exit code: 1 for an error or other tokens than plain decoding gives, 2 for wrong usage."""
    args = arguments()
    try:
        found = run(args)
    except pyllama.Error as error:
        print(f"speculative.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(json.dumps(found) if args.json else "\n".join((found["text"], *report(found))))
    return 0 if found.get("same", True) else 1


if __name__ == "__main__":
    sys.exit(main())
