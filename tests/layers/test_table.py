"""The table that the doors print."""

from overparam.layers import packed_view
from overparam.layers.table import COLUMNS, PLAIN, WeightTable, weight_row

VIEW = packed_view((6, 4), 3, "attention")


def test_a_chosen_weight_shows_its_matrices_and_depth_and_a_plain_one_does_not() -> None:
    chosen = weight_row("a", (6, 4), VIEW, 2.5, "matrix", ["chosen by kind", "tied"])
    assert tuple(chosen) == COLUMNS
    assert (chosen["matrices"], chosen["depth"]) == ("3 x (2, 4)", "2.5")
    assert chosen["reason"] == "chosen by kind; tied"
    plain = weight_row("a", (6, 4), VIEW, 2.5, PLAIN, ["excluded"])
    assert (plain["kind"], plain["matrices"], plain["depth"]) == ("attention", "", "")


def test_what_a_door_knows_better_replaces_what_the_view_says() -> None:
    row = weight_row("a", (6, 4), VIEW, 2, "row", [], matrices="6 x (4,)", kind="mine")
    assert (row["matrices"], row["kind"], row["reason"]) == ("6 x (4,)", "mine", "")


def test_columns_line_up_in_print() -> None:
    table = WeightTable(
        [
            weight_row("a", (6, 4), VIEW, 2, "matrix", ["chosen by kind"]),
            weight_row("a.long.name", (6,), None, 2, PLAIN, ["it acts entry by entry"]),
        ]
    )
    assert len(table) == 2
    header, first, second = str(table).splitlines()
    place = header.index("reason")
    assert first[place:] == "chosen by kind"
    assert second[place:] == "it acts entry by entry"
