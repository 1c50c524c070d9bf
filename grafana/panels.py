"""The kinds of panels in the dashboards, for the data source that the user selects."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "DATASOURCE",
    "HERE",
    "NONE_IS_GOOD",
    "Column",
    "Panel",
    "Query",
    "bars",
    "curves",
    "figure",
    "listing",
    "mapped",
    "timeline",
]

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
NONE_IS_GOOD = ((None, "green"), (1.0, "red"))  # thresholds: (from this value on, colour)

Panel = bargauge.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel
Thresholds = Sequence[tuple[float | None, str]]
_Form = TypeVar("_Form", bargauge.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)


class Query(NamedTuple):
    """PromQL, and the name of each resulting series in the legend."""

    expr: str
    legend: str = ""


class Column(NamedTuple):
    """A column of a table: a label, or `Value` (`Value #B` with several queries), and how to show it."""

    field: str
    title: str
    link: model.DashboardLink | None = None
    unit: str | None = None
    mappings: Sequence[model.ValueMapping] = ()
    thresholds: Thresholds = ()  # for the colour of the cell


def figure(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "locale",
    width: int = 4,
    thresholds: Thresholds = ((None, "blue"),),
    mappings: Sequence[model.ValueMapping] = (),
    link: model.DashboardLink | None = None,
) -> stat.Panel:
    """Return a panel with one number, the present result of a query."""
    panel = (
        _common(stat.Panel(), title, description, unit, thresholds, width, 4)
        .with_target(_instant(Query(expr), "A"))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .graph_mode(shown.BigValueGraphMode.NONE)
        .color_mode(shown.BigValueColorMode.VALUE)
        .mappings(list(mappings))
        .no_value("none")
    )
    return panel.data_links([_plain(link)]) if link else panel


def bars(title: str, description: str, query: Query, *, unit: str = "locale", width: int = 12) -> bargauge.Panel:
    """Return a panel with a bar for each present result of a query."""
    return (
        _common(bargauge.Panel(), title, description, unit, ((None, "blue"),), width, 8)
        .with_target(_instant(query, "A"))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .orientation(shown.VizOrientation.HORIZONTAL)
        .display_mode(shown.BarGaugeDisplayMode.BASIC)
        .min(0)
    )


def curves(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "locale",
    width: int = 12,
    link: model.DashboardLink | None = None,
) -> timeseries.Panel:
    """Return a graph of queries over the time range."""
    panel = (
        _common(timeseries.Panel(), title, description, unit, ((None, "green"),), width, 8)
        .targets([_range(query, ref) for query, ref in zip(queries, _REFS, strict=False)])
        .legend(
            common.VizLegendOptions()
            .display_mode(shown.LegendDisplayMode.TABLE)
            .placement(shown.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(shown.TooltipDisplayMode.MULTI).sort(shown.SortOrder.DESCENDING))
        .line_width(1)
        .fill_opacity(8)
        .show_points(shown.VisibilityMode.NEVER)
    )
    return panel.data_links([_plain(link)]) if link else panel


def timeline(
    title: str,
    description: str,
    query: Query,
    *,
    width: int = 24,
    thresholds: Thresholds = ((None, "blue"),),
    mappings: Sequence[model.ValueMapping] = (),
    link: model.DashboardLink | None = None,
) -> statetimeline.Panel:
    """Return a panel with a band for each series, while it exists."""
    panel = (
        _common(statetimeline.Panel(), title, description, "none", thresholds, width, 8)
        .with_target(_range(query, "A"))
        .merge_values(True)
        .show_value(shown.VisibilityMode.AUTO)
        .row_height(0.8)
        .mappings(list(mappings))
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().show_legend(False).display_mode(shown.LegendDisplayMode.LIST).calcs([]))
    )
    return panel.data_links([_plain(link)]) if link else panel


def listing(
    title: str,
    description: str,
    columns: Sequence[Column],
    *exprs: str,
    width: int = 24,
    height: int = 8,
    sort: tuple[str, bool] | None = None,
) -> table.Panel:
    """Return a table of the present results of queries, with a row for each set of labels and only these columns.

    `sort` is the title of the column to sort by, and whether the greatest comes first.
    """
    fields = [column.field for column in columns]
    values = ["Value"] if len(exprs) == 1 else [f"Value #{ref}" for ref, _ in zip(_REFS, exprs, strict=False)]
    hidden = {field: True for field in ("Time", *values) if field not in fields}
    panel = (
        _common(table.Panel(), title, description, "none", ((None, "text"),), width, height)
        .targets([_instant(Query(expr), ref, PromQueryFormat.TABLE) for expr, ref in zip(exprs, _REFS, strict=False)])
        .filterable(True)
        .show_header(True)
        .no_value("none")
    )
    if sort is not None:
        panel.sort_by([common.TableSortByFieldState().display_name(sort[0]).desc(sort[1])])
    if len(exprs) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    order = {field: index for index, field in enumerate(fields)}
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize", options={"excludeByName": hidden, "indexByName": order, "renameByName": {}}
        )
    )
    for column in columns:
        panel.override_by_name(column.field, list(_properties(column)))
    return panel


def mapped(values: Mapping[str, tuple[str, str]]) -> list[model.ValueMapping]:
    """Return mappings that show values as texts with colours: value -> (text, colour)."""
    results = {
        value: model.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(values.items())
    }
    return [model.ValueMap(options=results)]


HERE = mapped({"1": ("here", "blue")})
_REFS = "ABCDEFGH"


def _common(
    panel: _Form, title: str, description: str, unit: str, thresholds: Thresholds, width: int, height: int
) -> _Form:
    return (
        panel.title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .thresholds(_thresholds(thresholds))
        .span(width)
        .height(height)
    )


def _thresholds(thresholds: Thresholds) -> build.ThresholdsConfig:
    steps = [model.Threshold(value=value, color=color) for value, color in thresholds]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _instant(query: Query, ref: str, form: PromQueryFormat = PromQueryFormat.TIME_SERIES) -> prometheus.Dataquery:
    return _target(query, ref).instant().format(form)


def _range(query: Query, ref: str) -> prometheus.Dataquery:
    return _target(query, ref).range()


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(DATASOURCE)
    return target.legend_format(query.legend) if query.legend else target


def _properties(column: Column) -> list[model.DynamicConfigValue]:
    properties: dict[str, Any] = {"displayName": column.title}
    if column.link:
        properties["links"] = [{"title": column.link.title, "url": column.link.url}]
    if column.unit:
        properties["unit"] = column.unit
    if column.mappings:
        properties["mappings"] = list(column.mappings)
    if column.thresholds:
        properties["thresholds"] = _thresholds(column.thresholds).build()
    if column.thresholds or column.mappings:
        properties["custom.cellOptions"] = {"type": "color-text"}
    return [model.DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]


def _plain(link: model.DashboardLink) -> build.DashboardLink:
    return build.DashboardLink(link.title).type(model.DashboardLinkType.LINK).url(str(link.url))
