"""Mistakes of YAML itself: where they are, and what PyYAML says in words for somebody who knows YAML a little."""

from __future__ import annotations

import re

import yaml
from yaml._yaml import Mark as CMark
from yaml.error import Mark

from settings.problems import Problem

TAG = ("tags, which start with !, are not supported", "remove it; put a value in quotes to make it text")
ANCHOR_HINT = "write the value out wherever it is needed, and put text that starts with & or * in quotes"
_QUOTE = "text with , [ ] { } in it needs quotes"
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (r"'\t'", "there is a tab here", "indent with spaces"),
    ("ing a tag", *TAG),
    ("while scanning an a", "anchors and aliases are not supported", ANCHOR_HINT),
    ("while scanning a block scalar", "text after | or > starts on the next line", "text that starts so needs quotes"),
    ("mapping values are not allowed", "a colon is not allowed here", "indentation? text with ': ' in it needs quotes"),
    ("mapping keys are not allowed", "a ? is not allowed here", "text that starts with ? needs quotes"),
    (
        "sequence entries are not",
        "a list cannot start here",
        "put it on the next line; text that starts so needs quotes",
    ),
    ("could not find expected ':'", "a name without a colon stands before this", "write `name: value`"),
    (
        "expected <block end>",
        "this does not fit the lines above it",
        "check the indentation, and that quotes are closed",
    ),
    ("expected ',' or '}'", "a comma or } is missing before this", _QUOTE),
    ("expected ',' or ']'", "a comma or ] is missing before this", _QUOTE),
    ("expected the node content", "a value is missing before this", _QUOTE),
    ("expected '<document start>'", "this is not part of the settings", "remove what starts with ... or % before it"),
    ("escape", "an unknown escape with \\", "use single quotes, or write \\\\ for a backslash"),
)


def place(mark: Mark | CMark | None) -> tuple[int, int]:
    """Line and column from 1."""
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def syntax_problem(file: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    said = f"{error.context or ''}: {error.problem}"
    found, opened = error.problem_mark or error.context_mark, error.context_mark
    if found is None or opened is None:
        return Problem(file, *place(found), *_in_words(said))
    # What was never closed is found where it no longer makes sense, lines below, or at the end of the file.
    if "quoted scalar: found unexpected end" in said:
        return Problem(file, *place(opened), "this quote is not closed", "the file ends inside a quoted text")
    if "while parsing a flow" in said and opened.line < found.line:
        message = f"this {text[opened.index]} is not closed, or a comma is missing before line {found.line + 1}"
        return Problem(file, *place(opened), message, _QUOTE)
    before = re.search(r"""[:-] +(["'{\[]).*\Z""", text[: found.index])
    if "expected <block end>" in said and before:
        message = f"there is more behind the value that starts with {before[1]}"
        return Problem(file, *place(found), message, "put the whole text in quotes")
    return Problem(file, *place(found), *_in_words(said))


def _in_words(said: str) -> tuple[str, str | None]:
    if (character := re.search("found character ('.')", said)) and r"'\t'" not in said:
        return f"a value cannot start with {character[1]}", "put the text in quotes"
    for part, message, hint in _KNOWN:
        if part in said:
            return message, hint
    return f"this cannot be read as YAML: {said}", None
