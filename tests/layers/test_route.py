from overparam.layers import linear_view
from overparam.layers.route import route


def test_a_depth_that_changes_at_each_step_is_not_remembered():
    view = linear_view((2, 3))
    first, other = (route((2, 3), view, "auto", depth) for depth in (2.5, 2.6))
    assert first is other
    assert first.rule == "matrix"
    assert route((2, 3), view, "auto", 1.0).rule == "plain"
