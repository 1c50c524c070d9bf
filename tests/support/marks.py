"""Marks for what takes long or needs a program, by fixture, by folder, and by what was measured; and its order.

`pytest -m "not slow"` is for use while you work: it ends within about a minute. It leaves out what starts processes,
browsers or servers, what takes more than about a second, and, marked `bulk` as well, what only does so together.
`-m "bulk or not slow"` is everything that needs no installed program, for another version of Python.
"""

from collections.abc import Mapping

import hypothesis
import pytest

# By fixture: whoever uses it, however indirectly, has these marks.
FIXTURES: Mapping[str, tuple[str, ...]] = {
    "browser": ("browser", "slow"),
    "control_planes": ("control_plane", "slow"),
    "demo": ("slow",),
    "gpuid": ("slow",),
    "helm": ("control_plane", "slow"),
    "postgres": ("postgres", "slow"),
    "postgres_server": ("postgres", "slow"),
    "prometheus_program": ("prometheus", "slow"),
    "promtool": ("prometheus",),
}

# A test's parameter that asks for a server only when it runs.
PARAMETERS: Mapping[object, tuple[str, ...]] = {"postgres": ("postgres", "slow")}

# Quick one by one, and minutes together: what opens stores and connections.
BULK_FIXTURES = {
    "collecting",
    "history_config",
    "plain_server",
    "serving",
    "settings",
    "simulator",
    "site",
    "sqlite_settings",
    "world",
}
BULK = (
    "tests/app/test_health_budget.py",
    "tests/checks/test_clusters.py",
    "tests/cli/test_completion.py",
    "tests/cli/test_contract.py",
    "tests/cli/test_demo_story.py",
    "tests/cli/test_grant.py",
    "tests/cli/test_hostile_answers.py",
    "tests/cli/test_main.py",
    "tests/cli/test_outbox.py",
    "tests/cli/test_print.py",
    "tests/cli/test_status.py",
    "tests/cli/test_store.py",
    "tests/cli/test_top_view.py",
    "tests/cli/test_where.py",
    "tests/collect/test_printed.py",
    "tests/collect/test_slice_watch.py",
    "tests/collect/test_slices.py",
    "tests/collect/test_smi_log.py",
    "tests/collect/test_watcher.py",
    "tests/control_plane/test_overlays.py",
    "tests/control_plane/test_reader.py",
    "tests/faults/test_link.py",
    "tests/faults/test_runs.py",
    "tests/fuzz/test_targets.py",
    "tests/inventory/test_claims.py",
    "tests/kube/test_bound_token.py",
    "tests/kube/test_budgets.py",
    "tests/kube/test_credential_plugin.py",
    "tests/kube/test_exec.py",
    "tests/kube/test_oidc.py",
    "tests/kube/test_plugin_slots.py",
    "tests/kube/test_redirects.py",
    "tests/kube/test_reflector.py",
    "tests/kube/test_session.py",
    "tests/kube/test_session_credentials.py",
    "tests/kube/test_token_renewal.py",
    "tests/kube/test_watch_health.py",
    "tests/mutation/test_mutants.py",
    "tests/simulator/test_wear_read_back.py",
    "tests/sinks/test_s3_proxy.py",
    "tests/sinks/test_webhook.py",
    "tests/store/test_codec.py",
    "tests/store/test_files.py",
    "tests/store/test_two_observers.py",
    "tests/store/test_versions.py",
    "tests/test_alone.py",
    "tests/test_dependencies.py",
    "tests/test_gc_freeze.py",
    "tests/test_kubernetes_recipe.py",
    "tests/test_redaction_encodings.py",
    "tests/test_sharding.py",
    "tests/views/problems/test_trouble.py",
    "tests/views/test_rows.py",
    "tests/views/test_terms.py",
    "tests/web/test_api_docs.py",
    "tests/web/test_connections.py",
    "tests/web/test_openapi.py",
)
# What stays all the same, so that every room is tried.
NOT_BULK = (
    "tests/delivery/",
    "tests/store/test_store.py",
    "tests/web/test_api.py",
)

# By the beginning of the test's name, as pytest prints it.
MEASURED = (
    "tests/app/test_absence.py",
    "tests/app/test_bad_contexts.py",
    "tests/app/test_damaged_store.py",
    "tests/app/test_distributions.py",
    "tests/app/test_duplicate_clusters.py",
    "tests/app/test_duplicate_proof.py",
    "tests/app/test_echoes.py",
    "tests/app/test_full_disk.py",
    "tests/app/test_labels.py",
    "tests/app/test_odd_outputs.py",
    "tests/app/test_once.py",
    "tests/app/test_page_problems.py",
    "tests/app/test_reload.py",
    "tests/app/test_replicas.py",
    "tests/app/test_service.py",
    "tests/app/test_shard_agreement.py",
    "tests/app/test_slices.py",
    "tests/benchmarks/",
    "tests/checks/test_clusters.py::TestConnection",
    "tests/cli/test_demo.py",
    "tests/cli/test_ls.py::TestTable",
    "tests/cli/test_main.py::TestSignalsAndPipes",
    "tests/cli/test_shortage.py",
    "tests/cli/test_signals.py::TestWhileItStarts",
    "tests/cli/test_simulate.py",
    "tests/cli/test_stopping.py",
    "tests/cli/test_terminal.py",
    "tests/collect/test_node_reader.py::TestFailedReadings",
    "tests/collect/test_printed_claims.py",
    "tests/collect/test_smi_log.py::TestBothMethods",
    "tests/collect/test_smi_log.py::TestClaims",
    "tests/collect/test_watcher.py::TestMisbehavingApiServer",
    "tests/collect/test_watcher.py::TestNodesThatGo",
    "tests/delivery/test_dead_letters.py",
    "tests/delivery/test_delivery.py::TestASinkThatTakesAll::test_a_young_batch_waits_for_its_age",
    "tests/delivery/test_delivery.py::TestAnOutboxThatCannotBeRead",
    "tests/grant/test_documents.py::test_every_document_round_trips",
    "tests/inventory/test_inventory.py::TestAgainstTheNaiveModel",
    "tests/faults/test_faults.py",
    "tests/fuzz/test_targets.py::test_any_input_is_decoded_or_refused_as_documented",
    "tests/kube/test_credential_plugin.py::TestChildren",
    "tests/kube/test_reflector.py::TestStartingOver",
    "tests/prometheus/test_rules.py::test_the_rules_do_what_their_tests_say",
    "tests/prometheus/test_rules.py::test_they_behave_the_same_with_another_label",
    "tests/reader/test_script.py",
    "tests/simulator/test_simulator.py",
    "tests/sinks/test_early_answer.py",
    "tests/sinks/test_s3.py",
    "tests/sinks/test_s3_answers.py",
    "tests/sinks/test_s3_credentials.py",
    "tests/store/test_agreement.py",
    "tests/store/test_history_writer.py::TestAFileThatIsTakenAway",
    "tests/store/test_kill.py",
    "tests/store/test_round_trip.py::test_a_change_is_the_same_everywhere",
    "tests/store/test_two_observers.py::test_takeovers_write_one_history",
    "tests/views/test_past.py::test_the_past_is_what_the_inventory_was_then",
    "tests/web/test_openapi.py::test_every_answer_matches_the_document",
)

# What takes longest is first, for the last files of a run on several cores must be short ones, or all but one idle.
LONGEST = (
    "tests/faults/",
    "tests/control_plane/",
    "tests/shards/",
    "tests/app/",
    "tests/benchmarks/",  # some are alone, and wait for the others' tests: so not while one of minutes runs
    "tests/store/",
)
# Their collectors and Prometheus run until the end, and would slow all that comes after them.
LAST = ("tests/prometheus/", "tests/grafana/")

# Not measured for coverage: they run for long what other tests have run.
NOT_MEASURED = ("tests/benchmarks/", "tests/faults/test_faults.py", "tests/shards/test_processes.py")

PATIENT_SECONDS = 900  # for tests that wait for servers and for what Prometheus has seen of them for a while
PATIENT_FIXTURES = {"control_planes", "prometheus", "troubled"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test, before -m selects among them, and put them in the order in which they take least time."""
    items.sort(key=_turn)
    for item in items:
        names: set[str] = {"slow"} if item.nodeid.startswith(MEASURED) else set()
        fixtures = set(getattr(item, "fixturenames", ()))
        for fixture in fixtures & FIXTURES.keys():
            names.update(FIXTURES[fixture])
        call = getattr(item, "callspec", None)
        for value in call.params.values() if call is not None else ():
            if isinstance(value, str):
                names.update(PARAMETERS.get(value, ()))
        bulk = fixtures & BULK_FIXTURES and not item.nodeid.startswith(NOT_BULK)
        if "slow" not in names and (bulk or item.nodeid.startswith(BULK)):
            names |= {"bulk", "slow"}
        for name in sorted(names):
            item.add_marker(name)
        if hypothesis.is_hypothesis_test(getattr(item, "obj", None)) or item.nodeid.startswith(NOT_MEASURED):
            item.add_marker("no_cover")  # measuring hundreds of examples takes twice as long, and finds the same lines
        if fixtures & PATIENT_FIXTURES or item.nodeid.startswith("tests/benchmarks/"):
            item.add_marker(pytest.mark.timeout(PATIENT_SECONDS))


def _turn(item: pytest.Item) -> int:
    if item.nodeid.startswith(LAST):
        return len(LONGEST) + 1
    return next((turn for turn, folder in enumerate(LONGEST) if item.nodeid.startswith(folder)), len(LONGEST))
