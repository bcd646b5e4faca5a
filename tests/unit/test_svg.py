"""Plots as SVG: valid XML, points where their values are, gaps where there is none, round ticks."""

import xml.etree.ElementTree as ElementTree

import pytest

from rlloop.views.svg import Line, Panel, figure, ticks


def test_points_lie_where_their_values_are():
    """Of equal steps in x and y the drawn steps are equal; a larger y lies higher, which is a smaller number."""
    line = Line("reward <1>", [2.0, 0.0, 1.0], [0.4, 0.0, 0.2], [0.3, -0.1, None], [0.5, 0.1, None])
    root = ElementTree.fromstring(figure([Panel("reward & judge", [line]), Panel("empty", [])], "s"))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    (x0, y0), (x1, y1), (x2, y2) = sorted(circles)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1
    assert "reward & judge" in "".join(root.itertext())
    assert len([e for e in root.iter() if e.get("stroke-width") == "1.5"]) == 2  # one interval is unknown


def test_a_missing_value_is_a_gap():
    line = Line("reward", [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, None, 1.0, 2.0])
    root = ElementTree.fromstring(figure([Panel("reward", [line])], "s"))
    assert [len(p.get("points").split()) for p in root.iter("{http://www.w3.org/2000/svg}polyline")] == [2, 2]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-7, 18, [-5, 0, 5, 10, 15]), (3, 3.9, 5)]
)
def test_ticks_are_round(low, high, expected):
    found = ticks(low, high)
    assert len(found) == expected if isinstance(expected, int) else found == expected
