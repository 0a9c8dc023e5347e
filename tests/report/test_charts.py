"""Charts: marks lie where their values are, each has a hover title, colours are those of the page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import csr.report
from csr.report import charts, square_charts
from csr.report.charts import Mark

TEMPLATES = Path(csr.report.__file__).parent / "templates"


def drawn(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


def test_a_dot_plot_cuts_intervals_at_its_ends_and_hover_titles_have_the_whole_of_them():
    marks = [Mark(0.5, 0.25, 1.5, name="AUROC"), Mark(None, series=1), Mark(2.0, series=2, name="chance")]
    root = drawn(charts.dot_plot([("Cavity", marks)], title="t", low=0.0, high=1.0, reference=0.5))
    assert root.find(".//circle").get("cx") == root.find(".//line[@class='ideal']").get("x1")
    whisker = root.find(".//line[@class='whisker']")
    assert float(whisker.get("x2")) == charts.WIDTH - charts.RIGHT_PX
    titles = [title.text for title in root.iter("title")]
    assert "AUROC 0.500 (0.250 to 1.500)" in titles and "chance 2.000" in titles
    kinds = [group.get("class") for group in root.iter("g")]
    assert kinds == ["s2", "s0"], "no mark without a value; floors lie below"


def test_long_labels_are_cut_where_they_have_no_room_and_whole_in_a_balance_plot():
    name = "concepts and boxes, medians (doubtful)"
    texts = [e.text for e in drawn(charts.balance_plot([(name, 3, 1)], title="t")).iter("text")]
    assert name in texts and {"3", "1", "fixed", "broken"} <= set(texts)
    label = drawn(charts.dot_plot([(name, [Mark(0.5)])], title="t")).find("text[title]")
    assert label.text == name[:25] + "..." and label.find("title").text == name


def test_bars_are_as_long_as_their_counts():
    root = drawn(charts.balance_plot([("a", 4, 1), ("b", 0, 2)], title="t"))
    fixed = [float(bar.get("width")) for bar in root.findall("rect[@class='s0']")]
    broken = [float(bar.get("width")) for bar in root.findall("rect[@class='s1']")]
    assert fixed[1] == 0 and fixed[0] == 4 * broken[0] == 2 * broken[1]


def test_image_sizes_grow_with_their_number_and_the_scale_ends_at_a_round_value():
    chart = charts.size_plot({"train": [(100, 200, 9), (1000, 900, 1)], "test": [(50, 60, 1)]}, title="t")
    root = drawn(chart)
    small, large = (float(circle.get("r")) for circle in root.iter("circle"))
    assert small > large and len(list(root.iter("path"))) == 1, "another shape for the test images"
    ticks = [text.text for text in root.findall("text[@class='faint']")]
    assert ticks.count("1000") == 2 and "train: 9 images of 100 x 200" in chart


def test_a_heat_map_is_as_dark_as_the_share_and_names_its_counts():
    root = drawn(charts.heat_map(["a", "b"], [[4, 1], [1, 0]], title="t"))
    assert [cell.get("fill-opacity") for cell in root.iter("rect") if cell.get("class") == "heat"] == [
        "1.000",
        "0.250",
        "0.000",
        "0.000",
    ]
    assert "1 of 4 images with a have b (25%)" in [title.text for title in root.iter("title")]


def test_colours_are_classes_of_the_stylesheet_so_that_charts_follow_light_and_dark():
    style = (TEMPLATES / "style.css").read_text()
    assert "prefers-color-scheme: dark" in style
    for path in (TEMPLATES / "charts").iterdir():
        text = path.read_text()
        assert not re.search(r"fill=|stroke=|#[0-9a-f]{3,6}\b", text), path.name
        for name in re.findall(r'class="(\w+)"', text):
            assert f"svg.{name}" in style or f"svg.chart .{name}" in style, f"{path.name}: {name}"


def test_a_fitted_axis_holds_all_marks_in_round_steps_and_says_where_it_begins():
    for marks, begins, ends in (
        ([Mark(0.95, 0.86, 0.999)], 0.8, 1.0),
        ([Mark(0.975, 0.962, 0.981)], 0.95, 1.0),
        ([Mark(0.5, 0.31, 0.6), Mark(0.7)], 0.3, 0.8),
        ([Mark(0.1), Mark(0.9)], 0.0, 1.0),
        ([Mark(-0.3), Mark(0.4)], -0.4, 0.6),
        ([Mark(None)], 0.0, 1.0),
    ):
        root = drawn(charts.dot_plot([("a", marks)], title="t", fit=True, reference=0.5))
        texts = [text.text for text in root.findall("text[@class='faint']")]
        ticks = [float(text) for text in texts if "axis" not in text]
        assert (ticks[0], ticks[-1]) == (begins, ends) and len(ticks) == 6
        assert ("the axis begins at" in texts[-1]) == (begins != 0)
        assert (root.find("line[@class='ideal']") is not None) == (begins <= 0.5 <= ends)
        for circle in root.iter("circle"):
            assert charts.LABEL_PX <= float(circle.get("cx")) <= charts.WIDTH - charts.RIGHT_PX


def test_a_curve_passes_through_its_points_and_its_diamond_lies_where_decisions_are():
    points = [(0, 0), (0.25, 0.75), (1, 1)]
    axes = ("1 - specificity", "sensitivity")
    guess = ((0, 0), (1, 1))
    root = drawn(
        square_charts.square_curve(
            points, title="<x>", axes=axes, ideal=guess, mark=(0.5, 0.5), caption="here"
        )
    )
    left, top, side = square_charts.LEFT_PX, square_charts.TOP_PX, square_charts.SIDE_PX
    line = [tuple(map(float, pair.split(","))) for pair in root.find(".//polyline").get("points").split()]
    assert line == [(left + side * x, top + side * (1 - y)) for x, y in points]
    start = re.match(r"M([0-9.]+) ([0-9.]+)l", root.find(".//path").get("d"))
    assert float(start[1]) + 5.5 == left + side / 2 and float(start[2]) == top + side / 2
    assert [text.text for text in root.iter("text")][-2:] == list(axes)
    empty = square_charts.square_curve(points, title="t", axes=axes, ideal=guess, mark=None, caption="")
    assert drawn(empty).find(".//path") is None
