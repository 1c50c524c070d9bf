"""The admission policy that limits an exec to the commands of the sources: RBAC can only allow every command."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from collector.collect.smi_command import command_for_one
from collector.config import PodSource
from collector.text import shell_word

__all__ = ["policy_spec"]

# What names one GPU to `nvidia-smi -i`: its bus address, its UUID or its index; in RE2, which CEL matches with.
_ONE_GPU = (
    r"^([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]"
    r"|GPU-[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
    r"|[0-9]{1,2})$"
)
# `object` is the PodExecOptions of the request; what is not set is left out of it.
_NO_INPUT = "!(has(object.stdin) && object.stdin) && !(has(object.tty) && object.tty)"
_HAS_COMMAND = "has(object.container) && has(object.command)"
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")


def policy_spec(user: str, sources: Iterable[PodSource]) -> dict[str, Any]:
    """Return the `spec` of a ValidatingAdmissionPolicy by which `user` may run the commands of sources, nothing else.

    What the server would fill in is written out, so that it can be compared with what the server has.
    """
    rules = dict.fromkeys((source.namespace, source.container, source.command) for source in sources)
    admitted = "\n  || ".join(f"({_admits(*rule)})" for rule in rules)
    commands = "; ".join(
        f"{' '.join(map(shell_word, command))} in container {container} of namespace {namespace}"
        for namespace, container, command in rules
    )
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CONNECT"],
                    "resources": ["pods/exec"],
                    "scope": "*",
                }
            ],
        },
        # Nobody else is concerned, even if this policy cannot be evaluated.
        "matchConditions": [{"name": "user", "expression": f"request.userInfo.username == {_string(user)}"}],
        "validations": [
            _validation(_NO_INPUT, "gpuid may use neither standard input nor a terminal"),
            _validation(f"{_HAS_COMMAND} && (\n  {admitted}\n)", f"gpuid may only run {commands}"),
        ],
    }


def _validation(expression: str, message: str) -> dict[str, str]:
    return {"expression": expression, "message": message, "reason": "Forbidden"}


def _admits(namespace: str, container: str, command: Sequence[str]) -> str:
    """Return the expression that is true for a command in a container; also for one GPU, if nvidia-smi can do that."""
    runs = f"object.command == {_list(command)}"
    argument = f"object.command[{len(command) + 1}]"  # after `-i`
    if command_for_one(command, argument) is not None:
        single = f"{_list([*command, '-i'])[:-1]}, string({argument})]"
        size = len(command) + 2
        runs = (
            f"({runs}\n    || object.command.size() == {size} && object.command == {single}"
            f"\n    && {argument}.matches({_string(_ONE_GPU)}))"
        )
    return f"request.namespace == {_string(namespace)} && object.container == {_string(container)}\n    && {runs}"


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, texts))}]"


def _string(text: str) -> str:
    """Return a text as a literal of CEL, whose escapes are those of JSON, but for characters above U+FFFF."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
