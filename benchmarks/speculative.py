"""Speculative decoding beside plain decoding in the same run: a text that repeats, and a hybrid model.

Prompt lookup and self-draft with SmolLM2 on a text that repeats; and a hybrid model of random weights with
drafts of which a given part is right, to see what saving, restoring and reading again take. Where other work
keeps the machine busy, the CPU seconds of the calling thread with one thread are what counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medium import hybrid
from table import OUT, Row, report

import pyllama
from pyllama import Generation, PromptLookup, Reuse, SelfDraft
from pyllama.builder.fetch.models import default_model
from pyllama.builder.paths import locate
from pyllama.builder.pins import load
from pyllama.builder.progress import Reporter

TOKENS = 192
ROUNDS = 3
TEXT = (
    "The old mill stands by the river. Its wheel turns slowly in the water. The miller carries sacks of "
    "flour to the cart, and the horse waits in the shade of the oak tree. "
)
Times = dict[str, tuple[float, float, Generation]]


@dataclass
class Partly:
    """Drafts what plain decoding gave; each token is wrong that a fixed sequence of numbers says."""

    truth: Sequence[int]
    prompt: int
    right: float
    most: int = 8
    cost: float = 0.0

    def start(self, context: pyllama.Context) -> Partly:
        """It is the same for every generation."""
        return self

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """The next tokens; the n-th is right when n × 0.618… mod 1 is below `right`."""
        at = len(text) - self.prompt
        known = self.truth[at : at + most]
        return [
            token if (at + i) * 0.6180339887 % 1 < self.right else token % 300 + 4
            for i, token in enumerate(known)
        ]

    def close(self) -> None:
        """Nothing to free."""


def fastest(calls: Mapping[str, Callable[[], Generation]]) -> Times:
    """Return seconds by the clock and of the thread's CPU, the best of rounds in turn, and what was made.

    The prompt is not counted by the clock; it is in the context from the round before, so that next to
    nothing of it is in the CPU seconds either.
    """
    best: Times = {}
    for i in range(ROUNDS + 1):
        for name, call in calls.items():
            cpu = time.thread_time()
            made = call()
            cpu, clock = time.thread_time() - cpu, made.seconds - made.prompt_seconds
            if i:
                old = best.get(name, (float("inf"), float("inf"), made))
                best[name] = (min(old[0], clock), min(old[1], cpu), made)
    return best


def rows_of(what: str, threads: int, seen: Times, target: str = "") -> list[Row]:
    """Return a row for each way, against plain decoding; the ratio is how many times as fast."""
    plain = seen["plain"]
    rows = []
    for name, (clock, cpu, made) in seen.items():
        same = "" if made.tokens == plain[2].tokens else ", OTHER TOKENS"
        label = f"{what}: {name}{same}"
        goal = target if name == "lookup" else ""
        if name != "plain":
            found = made.drafting
            assert found is not None
            label += f" ({found.accepted} of {found.drafted} right)"
        rows.append(Row(f"{label}, {threads} threads", clock * 1e3, "ms", "plain", plain[0] / clock, goal))
        if threads == 1:
            rows.append(Row(f"{label}, CPU", cpu * 1e3, "ms", "plain", plain[1] / cpu, goal))
    return rows


def phases(seen: Times) -> dict[str, dict[str, float]]:
    """Return where the time of each way went, in milliseconds."""
    found = {}
    for name, (_, _, made) in seen.items():
        if made.drafting is not None:
            found[name] = dict(asdict(made.drafting))
            found[name]["seconds"] = made.seconds
    return found


def smollm2(threads: int) -> Times:
    """Three times the same paragraph, and on."""
    paths = locate()
    path = default_model(load(paths.pins), paths, Reporter())
    with pyllama.Model(path) as model, model.context(n_ctx=1024, threads=threads, **flash()) as context:
        layers = context.n_layers
        prompt = model.tokenize(TEXT * 3)
        with SelfDraft(layers // 3) as third, SelfDraft(layers * 2 // 3) as most:

            def run(draft: pyllama.Draft | None) -> Callable[[], Generation]:
                return lambda: pyllama.generate(
                    context, prompt, max_tokens=TOKENS, temperature=0, draft=draft
                )

            return fastest(
                {
                    "plain": run(None),
                    "lookup": run(PromptLookup()),
                    f"{layers // 3} of {layers} layers": run(third),
                    f"{layers * 2 // 3} of {layers} layers": run(most),
                }
            )


def of_a_hybrid(threads: int, folder: Path) -> Times:
    """Drafts that are right to 100, 80, 50 and 0 per cent, with checkpoints on the device and on the host."""
    with (
        pyllama.Model(hybrid(folder)) as model,
        model.context(n_ctx=1024, threads=threads, **flash()) as context,
    ):
        prompt = [3 + i * 7 % 300 for i in range(64)]
        more = {"max_tokens": TOKENS, "params": pyllama.SamplerParams(temperature=0, ignore_eos=True)}
        truth = pyllama.generate(context, prompt, **more).tokens  # type: ignore[arg-type]

        def run(right: float | None, where: str = "auto") -> Callable[[], Generation]:
            draft = None if right is None else Partly(truth, len(prompt), right)
            return lambda: pyllama.generate(
                context,
                prompt,
                draft=draft,
                reuse=Reuse(where=where),
                **more,  # type: ignore[arg-type]
            )

        calls = {"plain": run(None)}
        for right in (1.0, 0.8, 0.5, 0.0):
            calls[f"{right:.0%} right, device"] = run(right, "device")
        calls["80% right, host"] = run(0.8, "host")
        return fastest(calls)


def flash() -> dict[str, object]:
    """Flash attention, with which batches give the bits of single tokens, at any pin."""
    fields = dict(pyllama.ffi.typeof("struct llama_context_params").fields)
    return {"flash_attn_type": 1} if "flash_attn_type" in fields else {"flash_attn": True}


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw how many times as fast each way is; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.ratio is not None and not row.what.split(": ")[1].startswith("plain")]
    figure, axes = pyplot.subplots(figsize=(9, 0.35 * len(shown) + 1))
    axes.barh([row.what for row in shown], [row.ratio or 0 for row in shown])
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="times as fast as plain decoding")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    print(file)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    rows: list[Row] = []
    where: dict[str, object] = {}
    for threads in args.threads:
        seen = smollm2(threads)
        rows += rows_of("SmolLM2", threads, seen, "≥ 1.5")
        with tempfile.TemporaryDirectory(prefix="pyllama-bench-") as folder:
            model = of_a_hybrid(threads, Path(folder))
        rows += rows_of("hybrid", threads, model)
        where[f"{threads} threads"] = {"SmolLM2": phases(seen), "hybrid": phases(model)}
    report("speculative", rows)
    (OUT / "speculative_phases.json").write_text(json.dumps(where, indent=1) + "\n", encoding="utf-8")
    plot(rows, OUT / "speculative.png")


if __name__ == "__main__":
    main()
