"""Completion in bash, which splits words at colons."""

import os
import shlex

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

__all__ = ["BashCompletion"]


@add_completion_class
class BashCompletion(BashComplete):
    """Completes words with colons, such as ARNs, where bash starts a new word, and quotes values with blanks."""

    source_template = BashComplete.source_template.replace(
        "$(env COMP_WORDS=", '$(env COMP_LINE="${COMP_LINE:0:$COMP_POINT}" COMP_WORDS='
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words of the line before the last, and the last."""
        line = os.environ.get("COMP_LINE")
        if not line:
            return super().get_completion_args()
        _program, *words = split_arg_string(line)
        self._incomplete = "" if _is_between_words(line) or not words else words.pop()
        return words, self._incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return the part of a value that replaces bash's own last word."""
        if item.type != "plain":
            return super().format_completion(item)
        typed = getattr(self, "_incomplete", "").rpartition("=")[2].rpartition(":")
        value = str(item.value).removeprefix(typed[0] + typed[1])
        return f"plain,{value if value == shlex.quote(value) or value.startswith('-') else shlex.quote(value)}"


def _is_between_words(line: str) -> bool:
    """Return whether the next character of a line begins a word: quoted or escaped blanks do not end one."""
    if not line[-1:].isspace():
        return False
    try:
        return shlex.split(line + "x", comments=False)[-1] == "x"
    except ValueError:  # a quote is open
        return False
