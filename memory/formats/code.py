"""Source code becomes passages of whole definitions, each under the names it is nested in.

One table of definition words covers the languages below; nesting is read off the indentation, which
holds for what a formatter has seen. No grammar is loaded: tree-sitter's would be a library for each
language, and a wrong cut costs a passage's title, not its text.
"""

import re
from collections.abc import Iterator
from typing import Final

from memory.passages import Block, Passage, Section, packed

SUFFIXES: Final = tuple(
    ".py .pyi .js .jsx .mjs .ts .tsx .java .kt .scala .go .rs .c .h .cc .cpp .hpp .cs .rb .php"
    " .swift .lua .r .pl .sh .sql .proto .ex .exs".split()
)
_MODIFIERS: Final = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub|unsafe"
    r"|virtual|override|inline|sealed|data|open|partial|pub\(\w+\)|local|create|or|replace)\s+)*"
)
_WORDS: Final = (
    r"(?:def|defp|class|function\*?|func|fun|fn|interface|struct|enum|trait|impl|module|defmodule"
    r"|namespace|type|record|object|protocol|extension|sub|message|service|table|view|procedure)"
)
_DEFINED: Final = re.compile(rf"{_MODIFIERS}{_WORDS}\s+(?:\([^)]*\)\s*)?([\w$.:]+)", re.IGNORECASE)
_BOUND: Final = re.compile(
    r"(?:export\s+)?(?:const|let|var)\s+([\w$]+)\s*=\s*(?:async\s+)?(?:function\b|\([^)]*\)\s*=>|\w+\s*=>)"
)
_CALLABLE: Final = re.compile(r"(?:[\w<>\[\],.*&?:@]+\s+)*([\w$~:]+)\s*\([^;{}]*\)[\w\s:<>,]*\{$")
_NOT_NAMES: Final = frozenset("if for while switch catch return else do try with match".split())
_BEFORE: Final = ("@", "#", "//", "/*", "*", "--", "[")  # comments and attributes stay with theirs
_CLOSING: Final = ("}", ")", "]", "end")
_LONGEST: Final = 300  # characters of a line that can define something
_TAB: Final = 4


def code(text: str, name: str = "") -> list[Passage]:
    """Passages of a source file, in order; `name` is the file's."""
    return packed(_sections(text.split("\n"), name), lines=True)


def _sections(lines: list[str], file: str) -> Iterator[Section]:
    """A section for each definition and for what stands between definitions."""
    nest: list[tuple[int, str]] = []
    title, held, pending = file, list[Block](), list[Block]()
    for number, line in enumerate(lines, 1):
        block = Block(line.rstrip(), number, number)
        words = line.strip()
        if not words or words.startswith(_BEFORE):
            pending.append(block)
            continue
        outside = _left(nest, line)
        if name := _defines(words):
            nest = [(depth, n) for depth, n in nest if depth < _depth(line)]
            nest.append((_depth(line), name))
        elif outside and not words.startswith(_CLOSING):
            nest = [(depth, n) for depth, n in nest if depth < _depth(line)]
        now = _title(file, nest)
        if name or now != title:
            yield Section(title, held)
            title, held = now, []
        held += [*pending, block]
        pending = []
    yield Section(title, held + pending)


def _depth(line: str) -> int:
    wide = line.expandtabs(_TAB)
    return len(wide) - len(wide.lstrip())


def _left(nest: list[tuple[int, str]], line: str) -> bool:
    return bool(nest) and _depth(line) <= nest[-1][0]


def _defines(words: str) -> str:
    """The name that a line defines, or an empty text."""
    if len(words) > _LONGEST:
        return ""
    if match := _DEFINED.match(words) or _BOUND.match(words):
        return match[1]
    match = _CALLABLE.match(words)
    return match[1] if match and match[1] not in _NOT_NAMES else ""


def _title(file: str, nest: list[tuple[int, str]]) -> str:
    names = ".".join(name.strip(":.") for _, name in nest)
    return f"{file} {names}".strip()
