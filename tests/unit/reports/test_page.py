import re

from geomae.reports.page import Figure, Html, Page, Section, Table, write_page

PNG = b"\x89PNG\r\n\x1a\n"


def page(**changes):
    rows = (("<i>one</i>", 1234), ("two", 0.123456), ("three", None), ("four", float("nan")))
    parts = (
        Figure(PNG, "a picture of <b>"),
        Table("figures", ("name", "value"), rows),
        Html("<div id='mine'></div>"),
    )
    given = {"title": "A & B", "lead": "<script>alert(1)</script>", "sections": (Section("First", ("text",), parts),)}
    return Page(**(given | {"about": {"encoder": "a<b"}} | changes))


def test_everything_is_in_one_file_and_escaped(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    write_page(tmp_path / "report.html", page())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<i>one" not in text
    assert "a&lt;b" in text
    assert "<div id='mine'></div>" in text
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in text
    assert "http:" not in text.lower()
    assert "https:" not in text.lower()
    write_page(tmp_path / "report.html", page(sections=(Section("First", (), (Figure(picture, ""),)),)))
    assert "iVBORw0KGgo=" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_numbers_are_shown_short_and_sorted_in_full(tmp_path):
    write_page(tmp_path / "report.html", page())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="number" data-key="1234">1,234</td>' in text
    assert '<td class="number" data-key="0.123456">0.1235</td>' in text
    assert len(re.findall("<td></td>", text)) == 2


def test_a_page_without_about_has_no_such_section(tmp_path):
    write_page(tmp_path / "report.html", page(about={}))
    assert 'id="about"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
