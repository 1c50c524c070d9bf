"""How soon a source of credentials that fails is asked again."""

from collector.kube.errors import CredentialPluginFailedError
from collector.kube.failure_backoff import FailureBackoff, LastFailure

FAILURE = LastFailure(CredentialPluginFailedError, " failed")


def test_the_first_attempt_and_one_after_success_are_allowed():
    pace = FailureBackoff()
    assert pace.recent(0) is None
    pace.failed(FAILURE, started=0, now=1)
    pace.succeeded()
    assert pace.recent(1) is None


def test_each_failure_doubles_the_pause_up_to_three_minutes():
    pace, now, pauses = FailureBackoff(), 0, []
    for _ in range(8):
        pace.failed(FAILURE, started=now, now=now)
        started = now
        while pace.recent(now) is FAILURE:
            now += 1
        pauses.append(now - started)
    assert pauses == [5, 10, 20, 40, 80, 160, 180, 180]


def test_failures_at_the_same_time_count_as_one():
    pace = FailureBackoff()
    for _ in range(8):
        pace.failed(FAILURE, started=0, now=1)
    assert pace.recent(5.9) is FAILURE
    assert pace.recent(6) is None


def test_each_kubeconfig_version_clears_failures_once():
    pace = FailureBackoff()
    pace.failed(FAILURE, started=0, now=0)
    pace.reset("one")
    assert pace.recent(0) is None
    pace.failed(FAILURE, started=0, now=0)
    pace.reset("one")
    assert pace.recent(0) is FAILURE
    pace.reset("two")
    assert pace.recent(0) is None
