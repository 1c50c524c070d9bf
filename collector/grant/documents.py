"""Documents as YAML that Kubernetes' own programs read as they are: kubectl takes more for numbers than PyYAML does."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from collector.kube.go_values import BadYamlError, load_yaml

__all__ = ["dump"]


def dump(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return documents as YAML, each after a line `---` but the first."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes every list out: an anchor would puzzle the reader of a manifest."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Return True: nothing is written as a reference to what came before."""
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if _is_plain(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_plain(text: str) -> bool:
    """Return whether a text without quotes is read as itself."""
    try:
        return bool(load_yaml(text.encode()) == text)
    except BadYamlError:
        return False


_Dumper.add_representer(str, _text)
