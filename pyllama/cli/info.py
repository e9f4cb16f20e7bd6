"""`pyllama info`: what this installation was built from and how to compile against it, or what a model is."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..native import plugins
from ..native.installed import BuildInfo, build_info


def add_command(commands: Any) -> None:
    """Add `info`."""
    parser = commands.add_parser("info", help="the build: pin, key, features, flags for C; or a model file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="write JSON to stdout")
    what.add_argument("--cflags", action="store_true", help="compiler flags for the patched headers")
    what.add_argument("--libs", action="store_true", help="linker flags for the patched libraries")
    what.add_argument("--sbom", action="store_true", help="CycloneDX: upstream, patches, libraries, licences")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the SBOM to a file")
    parser.add_argument("model", nargs="?", metavar="MODEL.gguf", help="say what is in a model file")
    parser.add_argument(
        "--ctx", type=int, metavar="N", help="with a context of N tokens (default: trained for)"
    )
    parser.add_argument("--gpu-layers", type=int, metavar="N", help="layers on devices (default: all)")
    parser.add_argument("--device", metavar="D,…", help="the devices to put layers on; CPU alone for none")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.model is not None:
        if args.cflags or args.libs or args.sbom or args.output is not None:
            raise UsageError("--cflags, --libs, --sbom and -o say what the build is: leave the model out")
        from .model_info import run

        return run(args)
    if args.tensors or any(value is not None for value in (args.ctx, args.gpu_layers, args.device)):
        raise UsageError("--ctx, --gpu-layers, --device and --tensors go with a model: name its file")
    if args.output is not None and not args.sbom:
        raise UsageError("-o goes with --sbom: the rest is short and goes to stdout")
    if args.sbom:
        return _write_sbom(args.output)
    info = build_info()
    if args.cflags:
        print(cflags(info))
    elif args.libs:
        print(libs(info))
    elif args.json:
        print(json.dumps(public(info), indent=1))
    else:
        for name, value in public(info).items():
            text = ", ".join(value) if isinstance(value, list) else value
            print(f"{name:<13} {text or '-'}")
    return 0


def _write_sbom(out: Path | None) -> int:
    from .sbom import document

    text = document()
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
    return 0


def public(info: BuildInfo) -> dict[str, Any]:
    """Return what `--json` prints; these names are relied on."""
    return {
        "pin": info.pin,
        "commit": info.commit,
        "key": info.key,
        "features": list(info.features),
        "backends": list(dict.fromkeys([*info.backends, *plugins.names(info)])),
        "lib_dir": str(info.lib_dir),
        "include_dirs": [str(folder) for folder in info.include_dirs],
        "build_key": info.build_key,
        "flavour": info.flavour,
        "cpu": info.cpu,
    }


def cflags(info: BuildInfo) -> str:
    """Return the flags that make a compiler find the patched headers."""
    return shlex.join(f"-I{folder}" for folder in info.include_dirs)


def libs(info: BuildInfo) -> str:
    """Return the flags that link a program to the patched libraries, wherever it lies."""
    folder = str(info.lib_dir)
    return shlex.join([f"-L{folder}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{folder}"])
