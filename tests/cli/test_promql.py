"""A label is renamed in PromQL where it is one, and nothing else is."""

import pytest

from collector.cli.promql import rename_label


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("gpuid_cluster_up", "gpuid_cluster_up"),
        ("cluster", "cluster"),
        ("cluster > 0", "cluster > 0"),
        ("cluster{cluster='cluster'}", "cluster{k8s='cluster'}"),
        ('up{cluster="a",node=~"cluster"}', 'up{k8s="a",node=~"cluster"}'),
        ('up{ node!="n" , cluster !~ "a|b" }', 'up{ node!="n" , k8s !~ "a|b" }'),
        ('up{cluster!="a"}', 'up{k8s!="a"}'),
        ('{"up","cluster"="a"}', '{"up","k8s"="a"}'),
        ('{__name__="cluster"}', '{__name__="cluster"}'),
        ('up{clusters="a",my_cluster="b"}', 'up{clusters="a",my_cluster="b"}'),
        ('up{x="{cluster=\\"a\\"}"}', 'up{x="{cluster=\\"a\\"}"}'),
        ("cluster:up:sum{cluster=`a`}", "cluster:up:sum{k8s=`a`}"),
        ("sum by (cluster) (up)", "sum by (k8s) (up)"),
        ("sum(up) BY(node,cluster)", "sum(up) BY(node,k8s)"),
        ("sum without (\n  node,\n  cluster\n) (cluster)", "sum without (\n  node,\n  k8s\n) (cluster)"),
        ("a * on (cluster, node) group_left (cluster, x) b", "a * on (k8s, node) group_left (k8s, x) b"),
        ("a / ignoring(cluster) group_right() cluster", "a / ignoring(k8s) group_right() cluster"),
        ("a unless on (cluster) b and on () c", "a unless on (k8s) b and on () c"),
        ("sum by (\"cluster\", 'node') (up)", "sum by (\"k8s\", 'node') (up)"),
        ("sum by (x) (cluster) + cluster", "sum by (x) (cluster) + cluster"),
        ("max(cluster)", "max(cluster)"),
        (
            'label_replace(up{cluster="a"}, "cluster", "cluster", "cluster", "cluster")',
            'label_replace(up{k8s="a"}, "k8s", "cluster", "k8s", "cluster")',
        ),
        (
            'label_replace(label_replace(up, "x", "$1", "cluster", "(.+)"), "cluster", "$1", "x", "(.+)")',
            'label_replace(label_replace(up, "x", "$1", "k8s", "(.+)"), "k8s", "$1", "x", "(.+)")',
        ),
        (
            'label_replace(max by (a, b) (up), "cluster", "$1", "a", "(.+)")',
            'label_replace(max by (a, b) (up), "k8s", "$1", "a", "(.+)")',
        ),
        (
            'label_join(up, "x", "cluster", "node", "cluster", "cluster")',
            'label_join(up, "x", "cluster", "node", "k8s", "k8s")',
        ),
        ('count_values("cluster", up)', 'count_values("k8s", up)'),
        ('count_values by (cluster) ("cluster", up)', 'count_values by (k8s) ("k8s", up)'),
        ('sort_by_label(up, "node", "cluster")', 'sort_by_label(up, "node", "k8s")'),
        ('avg_over_time(up{cluster="a"}[5m:1m] offset 1h)', 'avg_over_time(up{k8s="a"}[5m:1m] offset 1h)'),
        ('up{cluster="a"} @ 1764000000 # by (cluster)', 'up{k8s="a"} @ 1764000000 # by (cluster)'),
        ('rate(up{cluster=~"$cluster"}[$__rate_interval])', 'rate(up{k8s=~"$cluster"}[$__rate_interval])'),
        ("up{cluster=~\"${cluster:regex}\"} offset $__range", "up{k8s=~\"${cluster:regex}\"} offset $__range"),
        ("timestamp(up)[$__range:15s] by (cluster)", "timestamp(up)[$__range:15s] by (k8s)"),
        ("sum by (cluster", "sum by (k8s"),
        ("}) ] cluster", "}) ] cluster"),
        ("", ""),
    ],
)  # fmt: skip
def test_only_labels_are_renamed(before: str, after: str) -> None:
    assert rename_label(before, "cluster", "k8s") == after
    assert rename_label(before, "cluster", "cluster") == before
