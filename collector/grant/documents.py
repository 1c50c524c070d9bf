"""Writes YAML that Kubernetes' programs read correctly: kubectl treats more values as numbers than PyYAML."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from collector.kube.go_values import BadYamlError, load_yaml

__all__ = ["dump"]


def dump(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return documents as YAML, separated by `---` lines."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


_OTHER_BREAKS = frozenset("\x85\u2028\u2029")  # which a block may give back as \n


class _Dumper(yaml.SafeDumper):
    """Writes out every list: anchors in a manifest would confuse readers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Return True: nothing is written as an alias."""
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    if "\n" in text and not _OTHER_BREAKS & {*text}:
        return "|"
    return None if "\n" not in text and _is_plain(text) else '"'


def _is_plain(text: str) -> bool:
    """Return whether an unquoted text is read as the same text."""
    try:
        return bool(load_yaml(text.encode()) == text)
    except BadYamlError:
        return False


_Dumper.add_representer(str, _text)
