"""The dashboard of gpuid itself: readings, deliveries, errors, and their cost."""

from grafana_foundation_sdk.builders.dashboard import Row

from grafana import navigation
from grafana.navigation import CLUSTER, DUPLICATE, NODE
from grafana.panels import NONE_IS_GOOD, Column, Panel, Query, curves, figure, listing

__all__ = ["dashboard"]

_IN = '{cluster=~"$cluster"}'
_OURS = "and on (job, instance) gpuid_build_info"  # series of processes that are gpuid


def dashboard() -> navigation.Dashboard:
    """Return the dashboard."""
    return navigation.dashboard(
        "gpuid-collector",
        "GPUs / Collector health",
        "Readings and deliveries of gpuid, their errors, and their cost.",
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
        figure("Collectors", "Collectors that Prometheus scrapes now.", "count(gpuid_build_info)", unit="none"),
        figure(
            "Clusters up",
            "Share of the clusters that some collector can watch, except duplicates in the configuration.",
            f"avg(max by (cluster) (gpuid_cluster_up{_IN}) unless on (cluster) {DUPLICATE})",
            unit="percentunit",
            thresholds=((None, "red"), (1.0, "green")),
        ),
        figure(
            "Oldest view",
            "How long ago the most outdated view of a cluster was last confirmed as current.",
            f"max(time() - max by (cluster) (gpuid_cluster_synced_timestamp_seconds{_IN}))",
            unit="s",
            thresholds=((None, "green"), (600.0, "orange"), (1800.0, "red")),
        ),
        figure(
            "Backlog",
            "Records waiting for sinks.",
            "sum(max by (sink) (gpuid_export_backlog_records))",
        ),
        figure(
            "Dead letters",
            "Batches rejected by sinks; they need manual action.",
            "sum(max by (sink) (gpuid_export_dead_letters))",
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Store",
            "Share of the collectors whose store accepts writes.",
            "avg(gpuid_store_up)",
            unit="percentunit",
            thresholds=((None, "red"), (1.0, "green")),
        ),
    )


def _reads() -> tuple[Panel, ...]:
    return (
        curves(
            "Readings",
            "Successful readings of nodes.",
            Query(f"sum by (cluster) (rate(gpuid_read_success_total{_IN}[$__rate_interval]))", "{{cluster}}"),
            unit="ops",
        ),
        curves(
            "Failed readings",
            "Failed readings by reason; the last good reading stays published.",
            Query(
                f"sum by (cluster, reason) (rate(gpuid_read_failure_total{_IN}[$__rate_interval])) > 0",
                "{{cluster}}: {{reason}}",
            ),
            unit="ops",
        ),
        curves(
            "Nodes that cannot be read",
            "Nodes whose last reading failed, by reason, including those that wait for a retry.",
            Query(
                f"max by (cluster, reason) (gpuid_read_failing_nodes{_IN}) > 0",
                "{{cluster}}: {{reason}}",
            ),
        ),
        curves(
            "Unread nodes",
            "GPU nodes that cannot be read now or have not been read yet, by reason; failed readings are among them.",
            Query(
                f"max by (cluster, reason) (gpuid_unread_nodes{_IN}) > 0",
                "{{cluster}}: {{reason}}",
            ),
        ),
        curves(
            "GPU pods",
            "Pods that each source selects; a source without any reads nothing.",
            Query(f"max by (cluster, source) (gpuid_source_pods{_IN})", "{{cluster}}: {{source}}"),
        ),
        curves(
            "Duration of readings",
            "From the start of the exec to the published result, 50th and 95th percentile.",
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
            "Watch restarts",
            "By cluster, resource and reason; a few a day are normal.",
            Query(
                f"sum by (cluster, resource, reason) (increase(gpuid_watch_restarts_total{_IN}[$__rate_interval]))",
                "{{cluster}}: {{resource}}, {{reason}}",
            ),
        ),
        curves(
            "Age of the views",
            "How long ago the view of each cluster was last proved current.",
            Query(
                f"time() - max by (cluster) (gpuid_cluster_synced_timestamp_seconds{_IN})",
                "{{cluster}}",
            ),
            unit="s",
        ),
        listing(
            "Nodes with the oldest readings",
            "How long ago each node was last read; a node is read again after `refresh`.",
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
            "Records delivered to each sink.",
            Query(f"sum by (sink) (rate(gpuid_export_success_total{_IN}[$__rate_interval]))", "{{sink}}"),
            unit="cps",
        ),
        curves(
            "Records not delivered",
            "Records in failed attempts, by reason; `rejected` ones become dead letters, all others are retried.",
            Query(
                f"sum by (sink, reason) (rate(gpuid_export_failure_total{_IN}[$__rate_interval]))",
                "{{sink}}: {{reason}}",
            ),
            unit="cps",
        ),
        curves(
            "Backlog by sink",
            "Records waiting for each sink.",
            Query("max by (sink) (gpuid_export_backlog_records)", "{{sink}}"),
        ),
        curves(
            "Age of the backlog",
            "Age of the oldest record waiting for each sink.",
            Query("time() - (min by (sink) (gpuid_export_oldest_timestamp_seconds > 0))", "{{sink}}"),
            unit="s",
        ),
        curves(
            "Dead letters by sink",
            "Batches rejected by each sink.",
            Query("max by (sink) (gpuid_export_dead_letters)", "{{sink}}"),
        ),
        curves(
            "Waiting for the store",
            "Changes and records waiting in memory, and intermediate changes that were dropped.",
            Query("gpuid_store_pending_records", "waiting, {{instance}}"),
            Query("gpuid_store_lost_records_total", "dropped, {{instance}}"),
        ),
    )


def _process() -> tuple[Panel, ...]:
    return (
        curves(
            "Duration of scrapes",
            "Time to prepare a scrape response, 99th percentile.",
            Query(
                "histogram_quantile(0.99, "
                "sum by (instance, le) (rate(gpuid_scrape_duration_seconds_bucket[$__rate_interval])))",
                "{{instance}}",
            ),
            unit="s",
        ),
        curves(
            "Bytes scraped",
            "Size of scrape responses as sent.",
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
            "CPU",
            "CPU cores used by each collector.",
            Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {_OURS}", "{{instance}}"),
        ),
        listing(
            "Versions",
            "Version of each collector, and its uptime.",
            (
                Column("instance", "Collector"),
                Column("version", "Version"),
                Column("Value", "Uptime", unit="s"),
            ),
            "max by (instance, version) "
            "((time() - process_start_time_seconds) * on (job, instance) group_left (version) gpuid_build_info)",
        ),
    )
