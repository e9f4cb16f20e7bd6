"""Read the public headers: which there are, and what they declare.

The C compiler preprocesses them in one go, pycparser reads the result, and only what
stands in our include folders is kept.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import tomlkit
from pycparser import c_ast, c_parser

from ...errors import BindingsError

# What pycparser must know as a type although the system header that says so is dropped.
_SYSTEM_TYPES = (
    *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "size_t",
    "ssize_t",
    "intptr_t",
    "uintptr_t",
    "ptrdiff_t",
    "FILE",
    "va_list",
    "wchar_t",
)
_LINE = re.compile(r'# (\d+) "((?:[^"\\]|\\.)*)"')
_DEFINE = re.compile(r"#define\s+(\w+)(\(?)\s*(.*)")
_NUMBER = re.compile(r"\(?\s*[-+]?\s*(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\s*\)?$")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"$')


@dataclass(frozen=True)
class Exceptions:
    """What is deliberately not bound, name to reason."""

    headers: dict[str, str]
    functions: dict[str, str]
    undefined: dict[str, str]

    @classmethod
    def read(cls) -> Exceptions:
        """Read `exceptions.toml`."""
        text = (Path(__file__).parent / "exceptions.toml").read_text(encoding="utf-8")
        table = tomlkit.parse(text).unwrap()
        return cls(table["headers"], table["functions"], table["undefined"])


@dataclass(frozen=True)
class Function:
    """One function that a header declares."""

    name: str
    header: str
    node: c_ast.FuncDecl
    inline: bool = False


@dataclass
class Api:
    """Everything that the public headers declare, in their order."""

    headers: list[str]
    nodes: list[c_ast.Node] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)


def public_headers(include: Path, exceptions: Exceptions) -> list[str]:
    """Return the names of the headers in `include` that are bound: llama.h first, then by name."""
    found = sorted(p.name for p in include.glob("*.h"))
    bound = [name for name in found if name not in exceptions.headers]
    if "llama.h" not in bound:
        raise BindingsError(f"no llama.h in {include}: build the pin again")
    return ["llama.h", *(name for name in bound if name != "llama.h")]


def preprocess(include: Path, headers: list[str], compiler: str) -> str:
    """Return the headers, preprocessed as C with macros kept and attributes defined away."""
    with tempfile.TemporaryDirectory(prefix="pyllama-bindgen-") as folder:
        source = Path(folder) / "all.c"
        source.write_text("".join(f'#include "{name}"\n' for name in headers))
        command = [compiler, "-E", "-dD", "-D__attribute__(x)=", f"-I{include}", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise BindingsError(
            f"a public header cannot be read as C: {(errors or [done.stderr.strip()])[0]} "
            "(C++-only headers belong into bindgen/exceptions.toml)"
        )
    return done.stdout


def read(include: Path, compiler: str, exceptions: Exceptions) -> Api:
    """Read every public header in `include`.

    Raises BindingsError when a header is not C or declares what pycparser cannot read.
    """
    api = Api(public_headers(include, exceptions))
    text, defines = _ours(preprocess(include, api.headers, compiler), include)
    _collect_macros(api, defines)
    _collect_nodes(api, text)
    return api


def _ours(preprocessed: str, include: Path) -> tuple[str, list[str]]:
    """Split into the declarations of our folders, with line markers, and their `#define`s."""
    prefix = f"{include}/"
    code: list[str] = []
    defines: list[str] = []
    ours = False
    for line in preprocessed.splitlines():
        marker = _LINE.match(line)
        if marker:
            ours = marker[2].startswith(prefix)
            if ours:
                code.append(f'# {marker[1]} "{marker[2][len(prefix) :]}"')
        elif ours and line.startswith("#define"):
            defines.append(line)
        elif ours and not line.startswith("#"):
            code.append(line)
    return "\n".join(code), defines


def _collect_macros(api: Api, defines: list[str]) -> None:
    values = {m[1]: m[3].strip() for m in map(_DEFINE.match, defines) if m and not m[2]}
    for name, value in values.items():
        target, seen = value, {name}
        while target in values and target not in seen:
            seen.add(target)
            target = values[target]
        if _NUMBER.match(target):
            api.numbers.append(name)
        elif _STRING.match(target):
            api.strings.append(name)


def _collect_nodes(api: Api, text: str) -> None:
    system = "".join(f"typedef int {name};\n" for name in _SYSTEM_TYPES)
    text = text.replace("__extension__", "").replace("__restrict", "")
    try:
        tree = c_parser.CParser().parse(f'# 1 "<system>"\n{system}{text}\n')
    except Exception as error:  # pycparser has had several classes for this
        raise BindingsError(f"a public header cannot be parsed: {error}") from error
    seen: set[str] = set()
    for node in tree.ext:
        header = str(node.coord.file) if node.coord else "<system>"
        if header == "<system>":
            continue
        inline = isinstance(node, c_ast.FuncDef)
        declaration = node.decl if inline else node
        kind = getattr(declaration, "type", None)
        if isinstance(kind, c_ast.FuncDecl):
            if declaration.name in seen:
                continue
            seen.add(declaration.name)
            api.functions.append(Function(declaration.name, header, kind, inline))
        elif isinstance(declaration, c_ast.Typedef):
            if declaration.name in seen:
                continue
            seen.add(declaration.name)
        api.nodes.append(declaration)


def is_variadic(node: c_ast.FuncDecl) -> bool:
    """Say whether a function takes `...`."""
    return bool(node.args) and isinstance(node.args.params[-1], c_ast.EllipsisParam)
