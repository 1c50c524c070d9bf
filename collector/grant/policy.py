"""The admission policies that limit what RBAC can only allow as a whole: commands, node changes and new tokens."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from collector.collect.node_labels import LABEL_FORM, LABEL_PREFIX, MAX_OWN_LABELS
from collector.collect.smi_command import command_for_one
from collector.config import PodSource
from collector.text import shell_word

__all__ = ["exec_policy", "label_policy", "token_policy"]

# A GPU for `nvidia-smi -i`: bus address, UUID or index; in RE2, the syntax of CEL.
_ONE_GPU = (
    r"^([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]"
    r"|GPU-[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
    r"|[0-9]{1,2})$"
)
# `object` is the PodExecOptions of the request, without unset fields.
_NO_INPUT = "!(has(object.stdin) && object.stdin) && !(has(object.tty) && object.tty)"
_HAS_COMMAND = "has(object.container) && has(object.command)"
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")


def exec_policy(user: str, sources: Iterable[PodSource]) -> dict[str, Any]:
    """Return the `spec` of a ValidatingAdmissionPolicy that lets `user` run only the sources' commands.

    Without sources it may run none, whatever other roles allow.
    """
    what = ("CONNECT", "pods/exec")
    rules = dict.fromkeys((source.namespace, source.container, source.command) for source in sources)
    if not rules:
        return _spec(user, what, [_validation("false", "gpuid may not run any command here")])
    admitted = "\n  || ".join(f"({_admits(*rule)})" for rule in rules)
    commands = "; ".join(
        f"{' '.join(map(shell_word, command))} in container {container} of namespace {namespace}"
        for namespace, container, command in rules
    )
    return _spec(
        user,
        what,
        [
            _validation(_NO_INPUT, "gpuid may use neither standard input nor a terminal"),
            _validation(f"{_HAS_COMMAND} && (\n  {admitted}\n)", f"gpuid may only run {commands}"),
        ],
    )


def label_policy(user: str) -> dict[str, Any]:
    """Return the `spec` of a ValidatingAdmissionPolicy that lets `user` change only our node labels."""
    unchanged = (("spec", "{}"), ("metadata.annotations", "{}"), ("metadata.finalizers", "[]"))
    same = "\n&& ".join(
        f"{_or_empty(f'object.{path}', empty)} == {_or_empty(f'oldObject.{path}', empty)}"
        for path, empty in (*unchanged, ("metadata.ownerReferences", "[]"))
    )
    now, before = (_or_empty(f"{one}.metadata.labels", "{}") for one in ("object", "oldObject"))
    ours = f"key.matches({_string(f'^{re.escape(LABEL_PREFIX)}({LABEL_FORM})$')})"
    labels = (
        f"{now}.all(key, {ours}\n  || key in {before}\n  && {now}[key] == {before}[key])"
        f"\n&& {before}.all(key, {ours} || key in {now})"
    )
    few = " ".join(
        (
            f"{now}.filter(key, {ours}).size() <= {MAX_OWN_LABELS}\n||",
            f"{now}.size() <= {before}.size()",  # so that excess labels can be removed
        )
    )
    message = f"gpuid may only change node labels {LABEL_PREFIX}…"
    return _spec(
        user,
        ("UPDATE", "nodes"),
        [
            _validation(same, message),
            _validation(labels, message),
            _validation(few, f"gpuid may set at most {MAX_OWN_LABELS} labels on a node"),
        ],
    )


def token_policy(user: str, audiences: Iterable[str], seconds: int) -> dict[str, Any]:
    """Return the `spec` of a policy that lets `user` create tokens only for the API server, of at most `seconds`.

    `audiences` are those of the API server, which it fills in before evaluating policies if a request names none.
    """
    within = f"object.spec.audiences.all(audience, audience in {_list(audiences)})"
    lasting = f"object.spec.expirationSeconds <= {seconds}"
    return _spec(
        user,
        ("CREATE", "serviceaccounts/token"),
        [
            _validation(within, "gpuid may only create tokens for the API server"),
            _validation(lasting, f"gpuid may only create tokens of at most {seconds} seconds"),
        ],
    )


def _spec(user: str, what: tuple[str, str], validations: list[dict[str, str]]) -> dict[str, Any]:
    """Return the `spec` of a policy for a user's operation on a resource.

    Fields that the server would default are written out, so that it can be compared with the server's object.
    """
    operation, resource = what
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
                    "operations": [operation],
                    "resources": [resource],
                    "scope": "*",
                }
            ],
        },
        # Nobody else is affected, even if this policy cannot be evaluated.
        "matchConditions": [{"name": "user", "expression": f"request.userInfo.username == {_string(user)}"}],
        "validations": validations,
    }


def _or_empty(path: str, empty: str) -> str:
    """Return the expression for a field that is omitted if empty."""
    return f"(has({path}) ? {path} : {empty})"


def _validation(expression: str, message: str) -> dict[str, str]:
    return {"expression": expression, "message": message, "reason": "Forbidden"}


def _admits(namespace: str, container: str, command: Sequence[str]) -> str:
    """Return the expression that allows a command in a container, for nvidia-smi also with one GPU."""
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
    """Return a text as a CEL literal, whose escapes are those of JSON except above U+FFFF."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
