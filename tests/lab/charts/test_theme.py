import itertools
import re

import altair as alt
import pytest

from overparam.lab.charts import theme
from overparam.lab.charts.theme import (
    DARK,
    Look,
    dark_rules,
    label_heights,
    labels_fit,
    log_ticks,
    look_of,
    looks_apart,
)

METHODS = ("gd", "momentum", "adam", "adagrad", "adadelta", "rule:2", "rule:3", "factors:2",
           "factors:3", "radial:2", "adam+factors:2", "adam+factors:3", "adam+rule:2")  # fmt: skip


def luminance(colour):
    """Of WCAG 2, from a colour as #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_optimizer_depth_and_kind_differ_in_something_other_than_colour():
    looks = {name: look_of(name) for name in METHODS}
    seen = {(tuple(look.dash), look.width, look.shape) for look in looks.values()}
    assert len(seen) == len(METHODS)


def test_a_method_looks_the_same_by_every_name():
    assert look_of("sgd(momentum=0.9)") == look_of("momentum")
    assert look_of("sgd+rule:2") == look_of("rule:2")
    assert look_of("adamw(weight_decay=0.1)+factors:3").colour == look_of("adam").colour
    assert look_of("my_own").colour == look_of("my_own+factors:2").colour in theme.PALETTE


def test_labels_and_lines_can_be_read_on_both_pages():
    text = (*theme.PALETTE, *(look_of(name).colour for name in METHODS), theme.INK, theme.SOFT)
    for colour in set(text):
        assert contrast(colour, "#ffffff") > 3, colour
        assert contrast(DARK[colour], "#14181d") > 3, colour


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_can_be_read_on_every_tile_of_a_map(dark):
    ink = DARK[theme.INK] if dark else theme.INK
    for tile in theme.MAP_COLOURS:
        assert contrast(ink, DARK[tile] if dark else tile) > 4.5 - 0.6 * dark, tile


def test_equal_looks_are_told_apart_by_their_dashes():
    apart = looks_apart({name: Look("#000000") for name in "abc"})
    assert len({tuple(look.dash) for look in apart.values()}) == 3


def test_labels_keep_their_order_and_distance():
    ends = {"a": 1.0, "b": 1.01, "c": 1.02, "d": 90.0}
    heights = label_heights(ends, (1.0, 100.0), 100, log=False)
    order = sorted(heights, key=heights.__getitem__)
    assert order == list("abcd")
    for low, high in itertools.pairwise(order):
        assert (heights[high] - heights[low]) * 100 / 99 >= 15.9
    assert heights["d"] == pytest.approx(90)
    assert labels_fit(6, 100)
    assert not labels_fit(8, 100)


def test_labels_stand_at_tiny_values_too():
    heights = label_heights({"a": 2e-14, "b": 1e-6}, (1e-14, 1e-5), 300, log=True)
    assert heights == pytest.approx({"a": 2e-14, "b": 1e-6})


def test_ticks_are_even():
    for low, high in ((1e-9, 1.0), (0.3, 4e4), (0.02, 0.7), (1.0, 1e6)):
        ticks = log_ticks(low, high)
        ratios = [b / a for a, b in itertools.pairwise(ticks)]
        assert len(ticks) <= 8
        assert max(ratios) <= 2.6 * min(ratios)


def test_every_colour_of_a_chart_has_a_dark_partner():
    chart = (
        alt.Chart(alt.Data(values=[{"x": 1, "y": 2}]))
        .mark_rect()
        .encode(x="x:Q", color=theme.speed_colour("y"))
    )
    spec = str(theme.styled(chart, "A chart.").to_dict())
    used = set(re.findall(r"#[0-9a-f]{6}", spec))
    assert used
    assert used <= set(DARK)
    assert f'.chart [fill="{theme.INK}"] {{ fill: {DARK[theme.INK]}; }}' in dark_rules(".chart")
