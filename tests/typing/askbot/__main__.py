"""All of it, with one model: `python -m askbot MODEL`."""

from __future__ import annotations

import json
import sys

from . import answers, loops, search, states


def main(path: str) -> None:
    """Print what everything gave."""
    with answers.opened(path) as model:
        said = "".join(answers.spoken(model, "Once upon a time"))
        with model.context(n_ctx=64) as context:
            left = states.room(context)
        report: dict[str, object] = {
            "said": said,
            "scored": answers.scored(model, "abc"),
            "explained": answers.explained(model, [1] * 300),
            "loop": loops.loop(model, "abc"),
            "batched": [len(row) for row in loops.batched(model, ["abc", "de"])],
            "raw": loops.raw(model),
            "nearest": search.nearest(model, ["a cat", "a dog"], "a cat"),
            "branches": states.branches(model, "abc", ["d", "efgh"]),
            "machine": states.machine(),
            "room": left,
        }
    print(json.dumps(report))


main(sys.argv[1])
