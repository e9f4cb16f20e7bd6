"""What mkdocs does not do by itself: pages from outside of docs/, and a reference that follows the sources.

mkdocs calls these functions; mkdocs.yml names this file. The public names are those of `pyllama.__all__`,
read without importing anything.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docstrings import entries

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("errors", "rpc")  # public as a whole
RAW = "lib"  # generated with each build, a thousand functions: docs/reference/lib.md describes it
_TITLES = {
    "asynchronous": "asyncio",
    "chats.chatting": "Chat",
    "chats.messages": "Messages of a chat",
    "chats.reader": "What a chat gives",
    "chats.template": "Templates and schemas",
    "drafts.draft_model": "Drafts by a model",
    "drafts.drafting": "Drafts",
    "kv": "The KV cache",
    "logprobs": "Log-probabilities",
    "many": "Many prompts at once",
    "native.ffi": "ffi",
    "native.installed": "What was built",
    "planning": "Before loading",
    "prefix": "What is kept for the next prompt",
    "response": "What a generation gives",
    "rpc": "Other machines",
}
_CSS = ".md-grid { max-width: 84rem; }\n"  # room for tables and lines of code
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def public_names(package: Path = ROOT / "pyllama") -> dict[str, str]:
    """Return every public name of the package and the module that it comes from, relative to it."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    home: dict[str, str] = ast.literal_eval(values["_HOME"])
    names: list[str] = ast.literal_eval(values["__all__"])
    return {name: home.get(name, "errors" if name == "Error" else name) for name in names}


def reference() -> dict[str, str]:
    """Return the pages of the reference: file names and Markdown."""
    modules: dict[str, list[str]] = {}
    for name, module in public_names().items():
        modules.setdefault(module, []).append(name)
    pages = {}
    rows = []
    for module, names in sorted(modules.items()):
        page = f"{module.removeprefix('native.').replace('.', '_')}.md"
        title = _TITLES.get(module, module.replace("_", " ").capitalize())
        if module == RAW:
            rows.append(f"| [`pyllama.{RAW}`]({page}) | the whole C API |")
            continue
        lines = [f"# {title}", ""]
        if module in MODULES:
            lines += [f"::: pyllama.{module}", "    options: {show_root_heading: false, show_bases: true}"]
            rows.append(f"| [`pyllama.{module}`]({page}) | {_summary(module, None)} |")
        else:
            lines += [f"::: pyllama.{module}.{name}" for name in sorted(names, key=str.casefold)]
            rows += [
                f"| [`pyllama.{name}`]({page}#pyllama.{module}.{name}) | {_summary(module, name)} |"
                for name in sorted(names, key=str.casefold)
            ]
        pages[page] = "\n".join(lines) + "\n"
    table = "\n".join(["| name | what it is |", "|---|---|", *sorted(rows, key=str.casefold)])
    pages["index.md"] = f"# Reference\n\nEvery public name, from the docstrings of the sources.\n\n{table}\n"
    return pages


def _summary(module: str, name: str | None) -> str:
    """Return the first sentence of a docstring."""
    path = ROOT / "pyllama" / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if name is None:
        text = ast.get_docstring(tree)
    else:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [node for node in tree.body if isinstance(node, kinds) and node.name == name]
        text = ast.get_docstring(found[0]) if found else ast.get_docstring(tree)
    return (text or "").split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".").replace("|", "\\|")


def outside() -> dict[str, str]:
    """Return the pages that are kept beside docs/: file names in the site and Markdown."""
    names = ("README.md", "CHANGELOG.md", "THIRD_PARTY_NOTICES.md")
    found = {name: ROOT / name for name in names}
    found |= {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.glob("patches/*/README.md"))}
    pages = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    for path in sorted(ROOT.glob("examples/*.py")):
        pages[f"examples/{path.stem}.md"] = (
            f"# {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
        )
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold; the build ends where a public name has no docstring."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File, InclusionLevel

    silent = [entry.name for entry in entries(public_names(), MODULES) if not entry.docstring]
    if silent:
        raise PluginError(f"write a docstring for {', '.join(silent)}: the reference is made of them")
    for name, text in outside().items():
        level = InclusionLevel.UNDEFINED if name == "README.md" else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, name, content=text, inclusion=level))
    files.append(File.generated(config, "site.css", content=_CSS))
    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference at the end of the navigation."""
    names = sorted([*reference(), f"{RAW}.md"], key=lambda name: (name != "index.md", name))
    assert config.nav is not None
    config.nav.append({"Reference": [f"reference/{name}" for name in names]})
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links of the repository into those of the site, where docs/ is the root."""
    here = page.file.src_uri
    at = "docs/" + here if (ROOT / "docs" / here).is_file() else here

    def moved(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if "://" in target or here.startswith("reference/"):
            return found[0]
        path = (ROOT / at).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        path = path.removeprefix("docs/")
        if path.startswith("examples/"):
            path = path.removesuffix(".py") + ".md"
        up = "../" * here.count("/")
        return f"]({up}{path}{anchor})"

    return _LINK.sub(moved, markdown)
