"""What is wrong with the collector itself, in words."""

from collector.store import LeadStatus, SinkBacklog, StoreStatus
from collector.store.damaged import SetAside
from collector.views.config_status import ConfigStatus
from collector.views.problems.collector_troubles import collector_troubles
from collector.views.problems.current import problem_of, ranked
from collector.views.problems.problem import Problem
from collector.views.problems.trouble import Troubles
from tests.web.conftest import Site


def problems(site: Site) -> list[Problem]:
    return ranked(map(problem_of, Troubles(collector_troubles(site.collector))))


def test_nothing_is_wrong_at_first() -> None:
    assert problems(Site()) == []


def test_severe_problems_come_first() -> None:
    site = Site()
    files = SetAside(files=2, bytes=1_500_000, newest="/data/gpuid.db.damaged-20261126T012345Z")
    site.collector.store_status = StoreStatus(up=False, since=5.0, message="disk full", set_aside=files)
    site.collector.lead_status = LeadStatus(leads=False, has_leader=False, holder="host-1")
    site.collector.config_status = ConfigStatus(error="bad", failing_since=6.0, restart=("server",), restart_since=7.0)
    told = [(one.severity, one.title, one.reason, one.since) for one in problems(site)]
    assert told == [
        ("critical", "The store does not accept writes; changes are held in memory", "disk full", 5.0),
        (
            "critical",
            "No collector is recording to the store or delivering to the sinks",
            "host-1 was the last leader",
            None,
        ),
        (
            "warning",
            "The store was damaged, and a new history was started",
            "2 damaged files (1.5 MB), newest: /data/gpuid.db.damaged-20261126T012345Z",
            None,
        ),
        ("warning", "The configuration file was rejected", "bad", 6.0),
        (
            "info",
            "Configuration changes require a restart",
            "changes to [server] take effect after a restart",
            7.0,
        ),
    ]


def test_a_failing_sink_quotes_the_receiver() -> None:
    site = Site()
    site.collector.sink_statuses.set_backlog("hook", SinkBacklog(records=3, oldest=1764000000.0, dead_letters=2))
    site.collector.sink_statuses.failed("hook", "unavailable", 8.0, "https://x: connection refused")
    failing, letters = problems(site)
    assert (letters.id, letters.title) == ("dead_letters:hook", "The sink hook has 2 dead letters")
    assert (failing.title, failing.since) == ("The sink hook is failing", 8.0)
    assert failing.reason == "https://x: connection refused; 3 records waiting, the oldest since 2025-11-24T16:00:00Z"


def test_a_sink_that_is_slow_is_behind() -> None:
    site = Site()
    site.collector.sink_statuses.set_backlog("hook", SinkBacklog(records=1, oldest=site.collector.time - 301.0))
    (problem,) = problems(site)
    assert (problem.kind, problem.title) == ("sink_behind", "The sink hook is behind")
