"""The rule that no log ever says a secret holds here too."""

from tests.support.kubernetes import nothing_says_a_secret

__all__ = ["nothing_says_a_secret"]
