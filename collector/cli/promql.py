"""Renames a label in PromQL, leaving metrics, values and variables of the same name alone."""

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["rename_label"]

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`)
  | (?P<variable>\$\{[^}]*\} | \$\w+)                               # Grafana's
  | (?P<number>\.?\d[\w.]*)                                         # durations, too
  | (?P<name>[a-zA-Z_:][\w:]*)
  | (?P<space>\s+)
  | (?P<operator>=~|!~|!=|==|>=|<=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_MATCHERS = frozenset({"=", "!=", "=~", "!~"})
_MAX_ARGUMENTS = 100
_LABEL_ARGUMENTS = {  # of functions that take label names as strings: which arguments are label names
    "label_replace": frozenset({1, 3}),
    "label_join": frozenset({1, *range(3, _MAX_ARGUMENTS)}),
    "count_values": frozenset({0}),
    "sort_by_label": frozenset(range(1, _MAX_ARGUMENTS)),
    "sort_by_label_desc": frozenset(range(1, _MAX_ARGUMENTS)),
}


class _Token(NamedTuple):
    kind: str
    text: str


@dataclass
class _Bracket:
    """An open bracket."""

    kind: str  # "labels", "matchers" or "arguments"
    function: str = ""  # the function or metric it belongs to, in lower case
    argument: int = 0


def rename_label(expression: str, old: str, new: str) -> str:
    """Return an expression with a label renamed; comments, spaces and variables are kept."""
    tokens = [_Token(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(expression)]
    seen = [index for index, token in enumerate(tokens) if token.kind not in ("comment", "space")]
    texts = [token.text for token in tokens]
    for place, index in enumerate(_labels([tokens[index] for index in seen])):
        if index and _unquoted(tokens[seen[place]]) == old:
            text = texts[seen[place]]
            texts[seen[place]] = new if tokens[seen[place]].kind == "name" else f"{text[0]}{new}{text[-1]}"
    return "".join(texts)


def _labels(tokens: list[_Token]) -> list[bool]:
    """Return for each token other than spaces and comments whether it is a label name."""
    found: list[bool] = []
    open_brackets: list[_Bracket] = []
    aggregation = ""  # whose label list was just closed: its arguments follow
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else _Token("", "")
        after = tokens[index + 1] if index + 1 < len(tokens) else _Token("", "")
        inner = open_brackets[-1] if open_brackets else _Bracket("")
        found.append(_is_label(token, after, inner))
        closed, aggregation = aggregation, ""
        if token.kind != "operator":
            continue
        if token.text == "(":
            function = closed or (before.text.lower() if before.kind == "name" else "")
            if function in _LABEL_LISTS:
                of = tokens[index - 2].text.lower() if index > 1 and tokens[index - 2].kind == "name" else ""
                open_brackets.append(_Bracket("labels", of))
            else:
                open_brackets.append(_Bracket("arguments", function))
        elif token.text in "{[":
            open_brackets.append(_Bracket("matchers" if token.text == "{" else ""))
        elif token.text in ")}]" and open_brackets:
            last = open_brackets.pop()
            aggregation = last.function if last.kind == "labels" else ""
        elif token.text == ",":
            inner.argument += 1
    return found


def _is_label(token: _Token, after: _Token, inner: _Bracket) -> bool:
    if token.kind not in ("name", "string"):
        return False
    if inner.kind == "labels":
        return True
    if inner.kind == "matchers":
        return after.text in _MATCHERS
    return token.kind == "string" and inner.argument in _LABEL_ARGUMENTS.get(inner.function, ())


def _unquoted(token: _Token) -> str:
    return token.text if token.kind == "name" else token.text[1:-1]
