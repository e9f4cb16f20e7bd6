"""`pyllama run`: generate text on the terminal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_PROMPT = "Once upon a time"
_NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
_SWITCH: dict[str, Any] = {"action": "store_true", "default": None}
# Options of a context that features bring: each is the keyword of `Context` of that name.
_OPTIONS = (
    ("--kv-tokens", _NUMBER, "make the KV cache for N tokens instead of the context size"),
    ("--kv-block-size", _NUMBER, "cells of a block of the KV cache: a power of two from 8 to 256"),
    ("--kv-demand-paged", _SWITCH, "take host memory of the KV cache when it is used"),
    ("--n-layers", _NUMBER, "compute only the first N layers"),
    ("--n-experts", _NUMBER, "take N experts for each token"),
)


def add_command(commands: Any) -> None:
    """Add `run`."""
    parser = commands.add_parser("run", help="generate text; without -m, with a small default model")
    parser.add_argument("-m", "--model", type=Path, help="a GGUF file")
    parser.add_argument(
        "-p", "--prompt", default=_PROMPT, help=f"the text to continue (default: {_PROMPT!r})"
    )
    parser.add_argument(
        "-n", "--max-tokens", type=int, help="how many tokens at most (default: 128, of an answer 1024)"
    )
    parser.add_argument(
        "--temp", type=float, default=0.8, help="temperature (default: 0.8); 0 takes the most likely token"
    )
    parser.add_argument("--seed", type=int, help="seed of the random choice, 0 to 2**32 - 2")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all there are)")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="layers on devices (default: all)")
    parser.add_argument("--device", metavar="D,…", help="the devices to put layers on; CPU alone for none")
    parser.add_argument(
        "--rpc", metavar="HOST:PORT,…", help="use the devices of these `pyllama rpc-server`s too"
    )
    parser.add_argument(
        "--ctx-size",
        type=int,
        metavar="N",
        help="tokens of the context (default: what prompt and answer need)",
    )
    for flag, kind, about in _OPTIONS:
        parser.add_argument(flag, help=about, **kind)
    parser.add_argument("--chat", action="store_true", help="talk with the model; /help lists the commands")
    parser.add_argument(
        "--system", metavar="TEXT", default="", help="with --chat: what the model is told first"
    )
    parser.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="with --chat: a chat template in place of the model's own",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of text")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..generation import fitting_size, generate, stream
    from ..model import Model
    from ..sampling import SamplerParams
    from .arguments import names_in

    params = SamplerParams(temperature=args.temp, seed=args.seed)
    if args.max_tokens is None:
        args.max_tokens = 1024 if args.chat else 128
    if args.max_tokens < 0:
        raise UsageError(f"-n {args.max_tokens} has to be at least 0")
    if args.chat and args.json:
        raise UsageError("--chat and --json exclude each other: /save writes a chat as JSON")
    if not args.chat and (args.system or args.template):
        raise UsageError("--system and --template belong to a chat: add --chat")
    devices = None if args.device is None else names_in("--device", args.device)
    if args.rpc is not None:
        from ..rpc import connect

        connect(*names_in("--rpc", args.rpc))
    path = args.model if args.model is not None else _default_model(quiet=args.json)
    with Model(path, gpu_layers=args.gpu_layers, devices=devices) as model:
        names = [flag[2:].replace("-", "_") for flag, _, _ in _OPTIONS]
        options = {name: getattr(args, name) for name in names}
        if args.chat:
            from .chat import run_chat

            return run_chat(model, params, args, options)
        tokens = model.tokenize(args.prompt)
        size = args.ctx_size or fitting_size(model, len(tokens), args.max_tokens)
        with model.context(n_ctx=size, threads=args.threads, **options) as context:
            if args.json:
                done = generate(context, tokens, max_tokens=args.max_tokens, params=params)
                result = {
                    "model": str(path),
                    "prompt": args.prompt,
                    "text": done.text,
                    "tokens": list(done.tokens),
                    "finish_reason": done.finish_reason,
                    "prompt_tokens": done.prompt_tokens,
                    "tokens_per_second": round(done.tokens_per_second, 2),
                    "seconds": round(done.seconds, 4),
                }
                print(json.dumps(result, indent=1))
                return 0
            print(args.prompt, end="", flush=True)
            for piece in stream(context, tokens, max_tokens=args.max_tokens, params=params):
                print(piece.text, end="", flush=True)
            print()
    return 0


def _default_model(quiet: bool) -> Path:
    from ..builder.fetch.models import default_model
    from ..builder.paths import locate
    from ..builder.pins import load
    from ..builder.progress import Reporter

    paths = locate()
    return default_model(load(paths.pins), paths, Reporter(quiet=quiet))
