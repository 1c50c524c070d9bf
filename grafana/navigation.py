"""The links between the dashboards, and their variables."""

from collections.abc import Iterable

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

from grafana.panels import DATASOURCE, Panel

__all__ = [
    "CLUSTER",
    "DUPLICATE",
    "FLEET",
    "HEALTH",
    "NODE",
    "NODE_OF_SERIES",
    "SERIAL",
    "UUID",
    "UUID_OF_SERIES",
    "Dashboard",
    "clusters",
    "dashboard",
    "datasource",
    "queried",
]

Dashboard = model.Dashboard
_SCHEMA_VERSION = 39  # of Grafana 11.0

_KEEP = "${datasource:queryparam}&${__url_time_range}"


def _link(title: str, uid: str, *variables: str) -> model.DashboardLink:
    return model.DashboardLink(title=title, url=f"/d/{uid}?{'&'.join((*variables, _KEEP))}")


# Clusters that are configured twice; `unless on (cluster)` leaves them out.
DUPLICATE = 'max by (cluster) (gpuid_cluster_state{state="duplicate"})'

# Links from a row of a table (`fields`) or a series of a graph (`labels`).
FLEET = _link("The fleet", "gpuid-fleet")
HEALTH = _link("The GPUs' health", "gpuid-health")
CLUSTER = _link("Fleet: this cluster", "gpuid-fleet", "var-cluster=${__data.fields.cluster}")
NODE = _link("This node", "gpuid-node", "var-cluster=${__data.fields.cluster}", "var-node=${__data.fields.node}")
NODE_OF_SERIES = _link(
    "This node", "gpuid-node", "var-cluster=${__field.labels.cluster}", "var-node=${__field.labels.node}"
)
SERIAL = _link("This serial", "gpuid-serial", "var-search=${__data.fields.serial}")
UUID = _link("This GPU", "gpuid-serial", "var-search=${__data.fields.uuid}")
UUID_OF_SERIES = _link("This GPU", "gpuid-serial", "var-search=${__field.labels.uuid}")


def datasource() -> build.DatasourceVariable:
    """Return the variable for the Prometheus data source."""
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def queried(
    name: str, label: str, query: str, *, multi: bool = False, all_value: str | None = None, regex: str = ""
) -> build.QueryVariable:
    """Return a variable with the results of a query: `label_values(…)` or `query_result(…)`."""
    kind = {"label_values": 1, "query_result": 3}[query.partition("(")[0]]
    variable = (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"qryType": kind, "query": query, "refId": name})
        .regex(regex)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi)
        .include_all(multi)
    )
    if multi:
        variable.current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable.all_value(all_value) if all_value else variable


def clusters(*, multi: bool = True) -> build.QueryVariable:
    """Return the variable for clusters."""
    query = "label_values(gpuid_cluster_up, cluster)"
    return queried("cluster", "Cluster", query, multi=multi, all_value=".*" if multi else None)


def dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Iterable[build.DatasourceVariable | build.QueryVariable | build.TextBoxVariable],
    panels: Iterable[Panel | build.Row],
    *,
    time: str = "now-24h",
) -> Dashboard:
    """Return a dashboard with its panels in reading order, and links to the other dashboards."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["gpuid"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("1m")
        .time(time, "now")
        .timezone("browser")
        .link(
            build.DashboardLink("gpuid")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["gpuid"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in (datasource(), *variables):
        made.with_variable(variable)
    for number, panel in enumerate(panels, start=1):
        if isinstance(panel, build.Row):
            made.with_row(panel.id(number))
        else:
            made.with_panel(panel.id(number))
    built = made.build()
    built.schema_version = _SCHEMA_VERSION
    return built
