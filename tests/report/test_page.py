"""Templates: every one renders, text is escaped, a missing value is an error; charts are well-formed XML."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import csr.report
from csr.report import charts, square_charts
from csr.report.charts import Mark
from csr.report.page import _environment, anchor, number, percent, render

TEMPLATES = Path(csr.report.__file__).parent / "templates"
CSR = Path(csr.report.__file__).parent.parent
SOURCES = sorted(CSR.rglob("*.py"))
HTML = re.compile(
    r"</?(a|body|div|figure|h[1-6]|html|img|li|nav|p|section|span|style|svg|table|td|th|tr|ul)[ >/]"
)
SCRIPTED = ("index.html", "concept.html")  # of an atlas, with the hash of their script
HOSTILE = "<b>\"x\" & 'y'</b>"


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.*")), ids=lambda p: str(p.relative_to(TEMPLATES)))
def test_every_template_compiles_and_nothing_in_it_escapes_the_escaping(path):
    _environment().get_template(str(path.relative_to(TEMPLATES)))
    text = path.read_text(encoding="ascii")
    assert "safe" not in text.replace("safely", "") and "autoescape" not in text
    assert "http:" not in text and "https:" not in text and ("<script" not in text or path.name in SCRIPTED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CSR)))
def test_html_is_written_in_templates_only(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if HTML.search(text)]


def report(**changed: object) -> str:
    values = {
        "title": HOSTILE,
        "facts": [HOSTILE],
        "notices": [HOSTILE],
        "tiles": [(1, HOSTILE)],
        "origin": HOSTILE,
        "sections": {},
    }
    return render("evaluation/page.html", **{**values, **changed})


def test_text_is_escaped_everywhere():
    page = report()
    assert HOSTILE not in page and page.count("&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt;") == 6


def test_a_value_that_is_not_there_is_an_error_and_not_an_empty_place():
    with pytest.raises(UndefinedError, match="tiles"):
        render("evaluation/page.html", title="t", facts=[], origin="", notices=[], sections={})


def test_names_that_are_no_text_are_spelled_out():
    assert "scan\\udcff.png" in report(title="scan\udcff.png").encode().decode()


def test_sections_are_linked_in_their_order():
    method = {"template": "evaluation/method.html", "bootstrap": 0, "seed": 1}
    page = report(sections={"How this was measured": method})
    assert 'href="#how-this-was-measured"' in page and 'id="how-this-was-measured"' in page
    assert "No resamples were asked for" in page and anchor("Where it looks") == "where-it-looks"


def test_numbers_have_fixed_decimals_and_none_is_a_dash():
    assert (number(0.12345), number(-0.5, 2), number(0.5, signed=True)) == ("0.123", "-0.50", "+0.500")
    assert (percent(0.125), percent(0.125, 1)) == ("12%", "12.5%")
    assert number(None) == percent(None) == Markup("&ndash;")


CHARTS = {
    "dots": lambda: charts.dot_plot(
        [(HOSTILE, [Mark(0.5, 0.4, 0.6, name=HOSTILE), Mark(None)])], title=HOSTILE
    ),
    "reliability": lambda: square_charts.reliability_plot([(3, 0.2, 0.5), (1, 0.9, 1.0)], title=HOSTILE),
    "balance": lambda: charts.balance_plot([(HOSTILE, 3, 1), ("none", 0, 0)], title=HOSTILE),
    "legend": lambda: charts.legend([(0, HOSTILE), (1, "b"), (2, "c"), (3, "d")]),
    "heat": lambda: charts.heat_map([HOSTILE, "b"], [[2, 1], [1, 0]], title=HOSTILE),
    "sizes": lambda: charts.size_plot({HOSTILE: [(100, 200, 3)], "test": [(50, 60, 1)]}, title=HOSTILE),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_well_formed_and_carry_every_text_as_text(name):
    drawn = CHARTS[name]()
    root = ElementTree.fromstring(str(drawn))
    assert isinstance(drawn, Markup) and root.tag == "svg" and "nan" not in drawn
    texts = [*(e.text or "" for e in root.iter()), root.get("aria-label", "")]
    assert any(HOSTILE in text for text in texts)


def test_a_point_lies_where_its_value_is_on_the_scale():
    root = ElementTree.fromstring(str(charts.dot_plot([("a", [Mark(0.25, 0.0, 1.0)])], title="t")))
    left, right = charts.LABEL_PX, charts.WIDTH - charts.RIGHT_PX
    assert float(root.find(".//circle").get("cx")) == pytest.approx(left + 0.25 * (right - left))
    whisker = root.find(".//line[@class='whisker']")
    assert (float(whisker.get("x1")), float(whisker.get("x2"))) == (left, right)
