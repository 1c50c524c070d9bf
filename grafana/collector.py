"""The collector itself: what it reads and hands on, what it could not, and what that costs."""

from grafana_foundation_sdk.builders.dashboard import Row

from grafana import navigation
from grafana.navigation import CLUSTER, DUPLICATE, NODE
from grafana.panels import NONE_IS_GOOD, Column, Panel, Query, curves, figure, listing

__all__ = ["dashboard"]

_IN = '{cluster=~"$cluster"}'
_OURS = "and on (job, instance) gpuid_build_info"  # a process's series, if the process is a gpuid


def dashboard() -> navigation.Dashboard:
    """Make it."""
    return navigation.dashboard(
        "gpuid-collector",
        "GPUs / Collector health",
        "What gpuid reads and hands on, what it could not, and what that costs.",
        (navigation.clusters(),),
        (
            *_figures(),
            Row("Clusters"),
            *_reads(),
            Row("History and sinks"),
            *_exports(),
            Row("Scrapes and the process"),
            *_process(),
        ),
    )


def _figures() -> tuple[Panel, ...]:
    return (
        figure("Collectors", "Collectors that are scraped now.", "count(gpuid_build_info)", unit="none"),
        figure(
            "Clusters followed",
            "The share of the clusters that some collector can follow, those left out that are configured twice.",
            f"avg(max by (cluster) (gpuid_cluster_up{_IN}) unless on (cluster) {DUPLICATE})",
            unit="percentunit",
            thresholds=((None, "red"), (1.0, "green")),
        ),
        figure(
            "Oldest view",
            "How long ago the view of the cluster that is furthest behind was last proved current.",
            f"max(time() - max by (cluster) (gpuid_cluster_synced_timestamp_seconds{_IN}))",
            unit="s",
            thresholds=((None, "green"), (600.0, "orange"), (1800.0, "red")),
        ),
        figure(
            "Backlog",
            "Records that sinks are still owed.",
            "sum(max by (sink) (gpuid_export_backlog_records))",
        ),
        figure(
            "Dead letters",
            "Batches that a sink refused for good; a person has to look at them.",
            "sum(max by (sink) (gpuid_export_dead_letters))",
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Store",
            "The share of the collectors' stores that take what happens.",
            "avg(gpuid_store_up)",
            unit="percentunit",
            thresholds=((None, "red"), (1.0, "green")),
        ),
    )


def _reads() -> tuple[Panel, ...]:
    return (
        curves(
            "Readings",
            "Readings of nodes that succeeded.",
            Query(f"sum by (cluster) (rate(gpuid_read_success_total{_IN}[$__rate_interval]))", "{{cluster}}"),
            unit="ops",
        ),
        curves(
            "Readings that fail",
            "Failed tries by reason; the last good reading stays published.",
            Query(
                f"sum by (cluster, reason) (rate(gpuid_read_failure_total{_IN}[$__rate_interval])) > 0",
                "{{cluster}}: {{reason}}",
            ),
            unit="ops",
        ),
        curves(
            "Nodes that cannot be read",
            "Nodes whose last try failed, by reason; one that is not tried meanwhile still counts.",
            Query(
                f"max by (cluster, reason) (gpuid_read_failing_nodes{_IN}) > 0",
                "{{cluster}}: {{reason}}",
            ),
        ),
        curves(
            "Time of a reading",
            "From the exec to the published result, 50th and 95th percentile.",
            *(
                Query(
                    f"histogram_quantile({share}, "
                    f"sum by (le) (rate(gpuid_read_duration_seconds_bucket{_IN}[$__rate_interval])))",
                    name,
                )
                for share, name in ((0.5, "p50"), (0.95, "p95"))
            ),
            unit="s",
        ),
        curves(
            "Watches that start over",
            "By cluster, resource and reason; a few a day are normal.",
            Query(
                f"sum by (cluster, resource, reason) (increase(gpuid_watch_restarts_total{_IN}[$__rate_interval]))",
                "{{cluster}}: {{resource}}, {{reason}}",
            ),
        ),
        curves(
            "Age of the views",
            "How long ago each cluster's view was last proved current, by an event or a bookmark.",
            Query(
                f"time() - max by (cluster) (gpuid_cluster_synced_timestamp_seconds{_IN})",
                "{{cluster}}",
            ),
            unit="s",
        ),
        listing(
            "Nodes not read for longest",
            "When each node was last read; a node is read again when `refresh` has passed.",
            (
                Column("cluster", "Cluster", CLUSTER),
                Column("node", "Node", NODE),
                Column("Value", "Read ago", unit="s"),
            ),
            f"topk(20, time() - max by (cluster, node) (gpuid_node_read_timestamp_seconds{_IN}))",
            width=24,
        ),
    )


def _exports() -> tuple[Panel, ...]:
    return (
        curves(
            "Records delivered",
            "Records that each sink took.",
            Query(f"sum by (sink) (rate(gpuid_export_success_total{_IN}[$__rate_interval]))", "{{sink}}"),
            unit="cps",
        ),
        curves(
            "Records not delivered",
            "Records in tries that failed, by reason; `rejected` goes to the dead letters, the rest is tried again.",
            Query(
                f"sum by (sink, reason) (rate(gpuid_export_failure_total{_IN}[$__rate_interval]))",
                "{{sink}}: {{reason}}",
            ),
            unit="cps",
        ),
        curves(
            "Backlog by sink",
            "Records that each sink is still owed.",
            Query("max by (sink) (gpuid_export_backlog_records)", "{{sink}}"),
        ),
        curves(
            "Age of the backlog",
            "How long ago the oldest record that a sink is owed happened.",
            Query("time() - (min by (sink) (gpuid_export_oldest_timestamp_seconds > 0))", "{{sink}}"),
            unit="s",
        ),
        curves(
            "Dead letters by sink",
            "Batches that each sink refused for good.",
            Query("max by (sink) (gpuid_export_dead_letters)", "{{sink}}"),
        ),
        curves(
            "Waiting for the store",
            "Changes and records that wait in memory, and single changes that were given up.",
            Query("gpuid_store_pending_records", "waiting, {{instance}}"),
            Query("gpuid_store_lost_records_total", "given up, {{instance}}"),
        ),
    )


def _process() -> tuple[Panel, ...]:
    return (
        curves(
            "Time of a scrape",
            "How long the collector takes to make an answer ready, 99th percentile.",
            Query(
                "histogram_quantile(0.99, "
                "sum by (instance, le) (rate(gpuid_scrape_duration_seconds_bucket[$__rate_interval])))",
                "{{instance}}",
            ),
            unit="s",
        ),
        curves(
            "Bytes scraped",
            "What the answers to scrapes weigh as sent.",
            Query(
                "sum by (instance, encoding) (rate(gpuid_scrape_body_bytes_sum[$__rate_interval]))",
                "{{instance}} {{encoding}}",
            ),
            unit="Bps",
        ),
        curves(
            "Memory",
            "Resident memory of each collector.",
            Query(f"process_resident_memory_bytes {_OURS}", "{{instance}}"),
            unit="bytes",
        ),
        curves(
            "Processor",
            "Cores that each collector keeps busy.",
            Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {_OURS}", "{{instance}}"),
        ),
        listing(
            "Versions",
            "Which version each collector runs, and for how long.",
            (
                Column("instance", "Collector"),
                Column("version", "Version"),
                Column("Value", "Running for", unit="s"),
            ),
            "max by (instance, version) "
            "((time() - process_start_time_seconds) * on (job, instance) group_left (version) gpuid_build_info)",
        ),
    )
