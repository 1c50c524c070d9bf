"""Renames the label `cluster` in the files for Prometheus and Grafana: rules, dashboards and documents."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from collector.cli.promql import rename_label

__all__ = ["dashboard", "document", "rules"]

LABEL = "cluster"  # in the shipped files

_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_GROUPING = re.compile(r"\b(?:by|on|without) \([^()]*\)")
_MATCHERS = re.compile(r"\{[^{}\n]*\}")
_FENCED = re.compile(r"^(```(\w*)[^\n]*\n)(.*?)^(```)$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LABEL_LIST = re.compile(r"\w+(?:, \w+)*")
_FIELD_OF_LINK = re.compile(rf"(\$\{{__(?:data\.fields|field\.labels)\.){LABEL}\b")
_VARIABLE_QUERY = re.compile(r"(label_values|query_result)\((.*)\)", re.DOTALL)
_FIELD_OPTIONS = ("excludeByName", "indexByName", "renameByName")


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def rules(text: str, label: str) -> str:
    """Return a rule file or PrometheusRule with the label renamed; all else, including comments, is kept."""
    if label == LABEL:
        return text
    edits = sorted(_edits(yaml.compose(text, yaml.SafeLoader), text, label), reverse=True)
    for edit in edits:
        text = text[: edit.start] + edit.text + text[edit.end :]
    comment = re.compile(r"^( *# .*)$", re.MULTILINE)
    return comment.sub(lambda line: _MATCHERS.sub(lambda one: rename_label(one[0], LABEL, label), line[0]), text)


def dashboard(text: str, label: str) -> str:
    """Return a dashboard's JSON with the label renamed; the variable `$cluster` keeps its name."""
    if label == LABEL:
        return text
    return json.dumps(_of_dashboard(json.loads(text), label), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def document(text: str, label: str) -> str:
    """Return a Markdown document with the label renamed in its queries, rules and code."""
    if label == LABEL:
        return text
    pieces, end = [], 0
    for block in _FENCED.finditer(text):
        pieces += [_prose(text[end : block.start()], label), block[1], _code_block(block[2], block[3], label), block[4]]
        end = block.end()
    return "".join([*pieces, _prose(text[end:], label)])


# Rules


def _edits(node: yaml.Node | None, text: str, label: str) -> Iterator[_Edit]:
    """Yield the replacements in YAML whose mappings with an `expr` are rules."""
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _edits(one, text, label)
    elif isinstance(node, yaml.MappingNode):
        values = {key.value: value for key, value in node.value}
        if "expr" not in values:
            for value in values.values():
                yield from _edits(value, text, label)
            return
        yield _edit(values["expr"], text, lambda expr: rename_label(expr, LABEL, label))
        for key in ("labels", "annotations"):
            for name, value in values[key].value if key in values else ():
                yield _edit(value, text, lambda template: _in_template(template, label))
                if key == "labels" and name.value == LABEL:
                    yield _Edit(name.start_mark.index, name.end_mark.index, label)


def _edit(node: yaml.ScalarNode, text: str, change: Callable[[str], str]) -> _Edit:
    """Return the edit of a scalar: in place, or rewritten if it uses YAML escapes."""
    start, end = node.start_mark.index, node.end_mark.index
    source = text[start:end]
    if node.style in ("|", ">"):
        header, line_feed, block = source.partition("\n")
        return _Edit(start, end, header + line_feed + change(block))
    changed = change(node.value)
    if changed == node.value:
        return _Edit(start, end, source)
    return _Edit(start, end, change(source) if node.style is None else json.dumps(changed, ensure_ascii=False))


def _in_template(text: str, label: str) -> str:
    """Return a text with Go templates, such as an annotation, with the label renamed in them."""
    field = re.compile(rf"(\$labels\.|\.Labels\.){LABEL}\b")

    def renamed(template: re.Match[str]) -> str:
        """Rename fields, and labels in the queries in strings."""
        fields = field.sub(rf"\g<1>{label}", template[0])
        return _GROUPING.sub(lambda labels: re.sub(rf"\b{LABEL}\b", label, labels[0]), fields)

    return _TEMPLATE.sub(renamed, text)


# Dashboards


def _of_dashboard(value: Any, label: str) -> Any:
    if isinstance(value, list):
        return [_of_dashboard(one, label) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _of_key(key, one, label) for key, one in value.items()}
    if changed.get("id") == "byName" and changed.get("options") == LABEL:  # an override of a column
        changed["options"] = label
    return changed


def _of_key(key: str, value: Any, label: str) -> Any:
    if key in _FIELD_OPTIONS and isinstance(value, Mapping):
        return {label if name == LABEL else name: one for name, one in value.items()}
    if not isinstance(value, str):
        return _of_dashboard(value, label)
    if key == "expr":
        return rename_label(value, LABEL, label)
    if key == "legendFormat":
        return re.sub(rf"\{{\{{\s*{LABEL}\s*\}}\}}", f"{{{{{label}}}}}", value)
    if key == "url":
        return _FIELD_OF_LINK.sub(rf"\g<1>{label}", value)
    if key == "regex":
        return re.sub(rf'\b{LABEL}(?==")', label, value)
    if key in ("query", "definition"):
        return _variable_query(value, label)
    return value


def _variable_query(query: str, label: str) -> str:
    found = _VARIABLE_QUERY.fullmatch(query)
    if found is None:
        return query
    function, inner = found[1], found[2]
    if function == "query_result":
        return f"{function}({rename_label(inner, LABEL, label)})"
    selector, comma, wanted = inner.rpartition(",")
    if wanted.strip() == LABEL:
        wanted = wanted.replace(LABEL, label)
    return f"{function}({rename_label(selector, LABEL, label)}{comma}{wanted})"


# Documents


def _prose(text: str, label: str) -> str:
    return _CODE.sub(lambda code: f"`{_inline(code[1], label)}`", text)


def _inline(code: str, label: str) -> str:
    if _LABEL_LIST.fullmatch(code):
        return ", ".join(label if name == LABEL else name for name in code.split(", "))
    return rename_label(code, LABEL, label)


def _code_block(language: str, text: str, label: str) -> str:
    if language == "promql":
        return rename_label(text, LABEL, label)
    return rules(text, label) if language == "yaml" else text
