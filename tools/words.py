"""Hold the words of the code: no retired word, no class name twice, and a glossary whose every term is in use.

`python tools/words.py` prints what is wrong, one line each, and then ends with status 1. docs/words.toml lists the
retired words; docs/glossary.md the words in use.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("platform", "models", "kernels", "sql", "dags", "tools")
GLOSSARY = ROOT / "docs" / "glossary.md"


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of whatever a module defines: classes, functions, arguments, fields and variables."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def prose(text: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """First line and text of every docstring and comment."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (docstring := ast.get_docstring(node)) is not None:
            yield node.body[0].lineno, docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def faults_of(path: Path, retired: dict[str, dict[str, str]], classes: dict[str, list[str]]) -> Iterator[str]:
    """Retired words in one file; notes the classes that it defines."""
    text = path.read_text(encoding="utf-8")
    tree, where = ast.parse(text), path.relative_to(ROOT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            classes[node.name].append(f"{where}:{node.lineno}")
    for line, name in names(tree):
        if (word := retired["identifiers"].get(name.strip("_"))) is not None:
            yield f"{where}:{line}: `{name}` is a retired name; use {word}"
    words = {word.lower(): new for word, new in retired["prose"].items()}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    for line, said in prose(text, tree):
        for word in pattern.findall(said):
            yield f"{where}:{line}: '{word}' is a retired word; use '{words[word.lower()]}'"


def glossary_faults() -> Iterator[str]:
    """Terms that stand twice, have no place in the code, or name a file or a name that is not there."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    terms = [row for row in rows if row[0] != "term" and not set(row[0]) <= set("-")]
    for term, count in Counter(term.lower() for term, _, _ in terms).items():
        if count > 1:
            yield f"docs/glossary.md: '{term}' stands {count} times; expected once"
    for term, _, where in terms:
        file, *used = re.findall(r"`([^`]+)`", where) or [""]
        if not file or not (ROOT / file).is_file():
            yield f"docs/glossary.md: '{term}': {file or where!r} is no file of the repository"
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        for name in used or [term]:
            if not re.search(rf"\b{re.escape(name)}", text, re.IGNORECASE):
                yield f"docs/glossary.md: '{term}': {file} does not hold '{name}'"


def main() -> int:
    """Print every fault; status 1 where there is any."""
    retired = tomllib.loads((ROOT / "docs" / "words.toml").read_text(encoding="utf-8"))
    classes: dict[str, list[str]] = defaultdict(list)
    faults: list[str] = []
    for path in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        faults += faults_of(path, retired, classes)
    faults += [
        f"{places[0]}: class {name} is defined at {places[1:]} too"
        for name, places in classes.items()
        if len(places) > 1
    ]
    faults += glossary_faults()
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
