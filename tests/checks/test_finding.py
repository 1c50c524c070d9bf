"""The finding of one check."""

from collector.checks.finding import Finding, Problem, Subject


def test_without_problems_it_is_ok_with_a_summary():
    finding = Finding(subject=Subject.STORE, name="store", summary="ready")
    assert (finding.ok, finding.text) == (True, "ready")


def test_problems_become_one_line_with_their_hints():
    finding = Finding(subject=Subject.CLUSTER, name="prod", summary="ready")
    finding.add_problem("may not\nlist nodes", "grant\tit")
    finding.add_problem(ValueError("no pods"))
    assert not finding.ok
    assert finding.problems == [Problem("may not list nodes", "grant it"), Problem("no pods")]
    assert finding.text == "may not list nodes (grant it); no pods"
