import altair as alt

from overparam.lab.charts.theme import end_labels, look_of, speed_colour
from overparam.lab.report.chart_table import chart_tables


def rows(**columns):
    return alt.Data(
        values=[dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )


def test_lines_become_columns_and_several_points_a_range():
    data = rows(x=[1, 1, 2, 1, 2], y=[3.0, 5.0, 0.25, 7.0, 8.0], by=["a", "a", "a", "b", "b"])
    line = alt.Chart(data, title="Panel").mark_line().encode(x="x:Q", y="y:Q", color="by:N")
    (table,) = chart_tables(line.to_dict())
    assert table.title == "Panel"
    assert table.header == ["X", "a", "b"]
    assert table.rows == [["1", "3 to 5", "7"], ["2", "0.25", "8"]]


def test_many_points_are_thinned_but_keep_their_ends():
    data = rows(x=list(range(1001)), y=list(range(1001)))
    line = alt.Chart(data).mark_line().encode(x=alt.X("x:Q", title="Step"), y="y:Q")
    (table,) = chart_tables(line.to_dict())
    assert table.header == ["Step", "Y"]
    assert len(table.rows) == 12
    assert (table.rows[0], table.rows[-1]) == (["0", "0"], ["1,000", "1,000"])


def test_a_map_keeps_its_rows_columns_and_panels():
    data = rows(m=["a", "b"], p=["one", "one"], v=[2.0, 0.5], d=["left", "left"])
    base = alt.Chart().encode(x="m:N", y="p:N")
    layers = alt.layer(
        base.mark_rect().encode(color=speed_colour("v")), base.mark_point(), data=data
    )
    (table,) = chart_tables(layers.facet("d:N").to_dict())
    assert table.header == ["D", "P", "a", "b"]
    assert table.rows == [["left", "one", "2", "0.5"]]


def test_labels_at_line_ends_are_no_numbers():
    labels = end_labels({"a": 1.0}, "x", 2.0, "y", {"a": look_of("gd")})
    assert chart_tables(alt.layer(labels).to_dict()) == []
