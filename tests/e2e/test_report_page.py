"""The page in a real browser: no complaints, tables that sort and search, weights that can be chosen, figures of the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import graphs
import pytest
from browsers import chromium, complaints
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

import onnxquant
from onnxquant import Report
from onnxquant.report import html, rows

HOSTILE = "</script><b>bold</b>'\"&"
MANY, MOST_BYTES = 300, 3_000_000


class Reader(HTMLParser):
    """The embedded JSON, the cells of the table of weights, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.cells, self.fetched = "", list[str](), list[str]()
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._inside = tag == "script" and values.get("id") == "data"
        self.fetched += [str(v) for k, v in attrs if k in ("src", "href") and not str(v).startswith(("#", "data:"))]
        if tag == "td" and "data-v" in values:
            self.cells.append(str(values["data-v"]))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("page")
    w = {
        HOSTILE: graphs.weight(64, 96),
        "second": graphs.weight(96, 48, seed=5),
        "third": graphs.weight(48, 32, seed=6),
    }
    steps = [("x", HOSTILE, "h"), ("h", "second", "r"), ("r", "third", "y")]
    nodes = [graphs.node("MatMul", [a, b], [c]) for a, b, c in steps]
    source = graphs.model(nodes, {"x": ("float32", ["batch", 64])}, {"y": "float32"}, w)
    return onnxquant.quantize(source, folder / "out.onnx", format="q4_0", target="custom", samples=1, threads=1)


@pytest.fixture(scope="module")
def many(report: Report) -> Report:
    """A report of a model that has 300 weights in 8 bits, half of them left in float."""
    data = report.to_dict()
    (site,) = [s for s in data["sites"] if s["name"] == "second"]
    drawn = {**data["proof"]["distributions"]["second"], "codes": [1000 + i for i in range(256)]}
    names = [f"encoder.layer.{i}.attention.self.query.weight" for i in range(MANY)]
    data["sites"] = [{**site, "name": n} for n in names]
    data["proof"]["weights"] = dict.fromkeys(names, data["proof"]["weights"]["second"])
    data["proof"]["distributions"] = dict.fromkeys(names, drawn)
    data["sha256"]["original"] = {f"{'long' * 15}.onnx": 64 * "0"}
    data["source"] = "/a/folder" + 9 * "/and_another_one"
    return Report.from_dict(data)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as driven:
        yield driven


def show(browser: Chrome, page: str, folder: Path) -> None:
    path = folder / "page.html"
    path.write_text(page)
    browser.get(path.as_uri())


def test_the_page_holds_the_figures_of_the_report(report: Report) -> None:
    reader = read(html.render(report))
    data = report.to_dict()
    assert json.loads(reader.data) == data
    assert reader.fetched == []
    assert "#0102" not in html.render(report)  # what plots are drawn in, before they take the page's colours
    keys = [key for key, _, _ in rows.used_columns(rows.sites(report))]
    wide = len(keys)
    shown = [reader.cells[i : i + wide] for i in range(0, len(reader.cells), wide)]
    assert len(shown) == len(data["sites"])
    for cells, site in zip(shown, data["sites"], strict=True):
        row = dict(zip(keys, cells, strict=True))
        error = site["error"]
        expected = {
            "name": site["name"], "format": site["format"], "bytes": site["bytes"], "bits": site["bits_per_weight"],
            "sqnr_db": error["sqnr_db"], "max_error": error["max_error"], "mean_error": error["mean_error"],
            "sum_test": error["sum_test"]["relative_error"], "gradient_test": error["gradient_test"]["z"],
            "kernel": site["kernel"], "target": site["target"], "solver": site["solver"],
        }  # fmt: skip
        assert {k: row[k] for k in expected} == {k: str(v) for k, v in expected.items()}


def test_a_large_report_stays_small(many: Report) -> None:
    page = html.render(many)
    assert len(page.encode()) < MOST_BYTES
    assert len(read(page).cells) == MANY * len(rows.used_columns(rows.sites(many)))


def column(browser: Chrome, key: str) -> list[str]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"#sites td.{key}")
    return [str(f.get_attribute("data-v")) for f in cells if f.is_displayed()]


def test_readers_sort_search_and_choose(browser: Chrome, report: Report, tmp_path: Path) -> None:
    show(browser, html.render(report), tmp_path)
    assert complaints(browser) == []
    assert report.verdict.next in browser.find_element(By.CSS_SELECTOR, ".next").text
    assert column(browser, "name")[0] == HOSTILE
    assert not [b for b in browser.find_elements(By.TAG_NAME, "b") if b.text == "bold"]
    header = browser.find_element(By.CSS_SELECTOR, "#sites th.bytes")
    header.click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(browser, "bytes") == [str(b) for b in sorted(s.decision.nbytes for s in report.sites)]
    header.click()
    assert column(browser, "bytes") == [str(b) for b in sorted((s.decision.nbytes for s in report.sites), reverse=True)]
    search = browser.find_element(By.ID, "search")
    search.send_keys("THIRD q4_0")
    assert column(browser, "name") == ["third"]
    assert browser.find_element(By.ID, "count").text == f"1 of {len(report.sites)}"
    search.clear()
    search.send_keys(" ")
    for name in ("third", HOSTILE):
        next(b for b in browser.find_elements(By.CSS_SELECTOR, "#sites button") if b.text == name).click()
        assert browser.find_element(By.ID, "weight").text == name
        assert report.proof
        drawn = report.proof.distributions[name]
        assert drawn
        titles = browser.find_elements(By.CSS_SELECTOR, "#values rect title")
        assert [int(str(t.get_attribute("textContent")).rsplit(": ")[1]) for t in titles] == drawn.decoded
        titles = browser.find_elements(By.CSS_SELECTOR, "#codes rect title")
        assert [int(str(t.get_attribute("textContent")).rsplit(": ")[1]) for t in titles] == drawn.codes
    assert complaints(browser) == []


def test_dark_narrow_and_large(browser: Chrome, many: Report, tmp_path: Path) -> None:
    show(browser, html.render(many), tmp_path)
    colors = []
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        body = browser.find_element(By.TAG_NAME, "body")
        text = browser.find_element(By.CSS_SELECTOR, "figure.plot svg text")
        point = browser.find_element(By.CSS_SELECTOR, "figure.plot svg use")
        fills = [e.value_of_css_property("fill") for e in (text, point)]
        colors.append([body.value_of_css_property("background-color"), *fills])
    assert all(light != dark for light, dark in zip(*colors, strict=True))
    size: dict[str, Any] = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    show(browser, html.render(many), tmp_path)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert complaints(browser) == []
