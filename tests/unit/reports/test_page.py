import re

from geomae.reports.page import Figure, Html, Link, Page, Section, Table, link_run, shown, write_page

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
    assert '<td class="number" data-key="0.123456">0.123</td>' in text
    assert len(re.findall("<td></td>", text)) == 2


def test_large_figures_keep_their_digits_before_the_point():
    assert [shown(one) for one in (999.4, 999.6, 1234.5, 0.00012345)] == ["999", "1,000", "1,234", "0.000123"]


def test_a_model_is_linked_to_the_report_of_its_run_by_a_way_that_moves_along(tmp_path):
    model, probe, bare = (tmp_path / name for name in ("a run/model", "probed/probes/mine", "bare/model"))
    for folder in (model, probe, bare):
        folder.mkdir(parents=True)
    for run in (model.parent, probe.parents[1]):
        (run / "report.html").write_text("")
    assert link_run(f"mine={model}") == Link(f"mine={model}", model.parent / "report.html")
    assert link_run(str(probe)) == Link(str(probe), tmp_path / "probed" / "report.html")
    assert [link_run(one) for one in (str(bare), "timm:vit", "baseline:pixels", "")] == [
        str(bare), "timm:vit", "baseline:pixels", "",
    ]  # fmt: skip
    (tmp_path / "other").mkdir()
    write_page(tmp_path / "other" / "report.html", page(about={"model": link_run(str(model))}))
    assert '<a href="../a%20run/report.html">' in (tmp_path / "other" / "report.html").read_text(encoding="utf-8")


def test_the_command_that_follows_is_escaped(tmp_path):
    write_page(tmp_path / "report.html", page(following="geomae embed --dataset 'a<b'"))
    assert "<code>geomae embed --dataset &#39;a&lt;b&#39;</code>" in (tmp_path / "report.html").read_text()


def contrast(one, other):
    """The ratio of luminances of two colours `#rrggbb` (WCAG 2.2)."""

    def luminance(colour):
        colour = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_stand_out_by_day_and_by_night(tmp_path):
    write_page(tmp_path / "report.html", page())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", one)) for one in re.findall(r":root \{(.*?)\}", text))
    assert "prefers-color-scheme: dark" in text
    for colours in (light, dark):
        for words in ("ink", "soft", "accent"):
            for ground in ("page", "shade"):
                assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground, colours)


def test_what_scrolls_is_reached_by_keyboard(tmp_path):
    write_page(tmp_path / "report.html", page())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<figure") == text.count('<figure tabindex="0"') == 2


def test_a_page_without_about_has_no_such_section(tmp_path):
    write_page(tmp_path / "report.html", page(about={}))
    assert 'id="about"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_columns_without_any_value_are_not_shown(tmp_path):
    table = Table("areas", ("class", "hectares", "n"), (("crop", None, 3), ("water", float("nan"), None)))
    write_page(tmp_path / "report.html", page(sections=(Section("Areas", (), (table,)),)))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall('<button type="button">(.*?)</button>', text) == ["class", "n"]
    assert Table("none yet", ("a", "b"), ()).kept == [0, 1]


def test_a_remark_of_the_terminal_becomes_a_sentence(tmp_path):
    texts = ("no column of places", "It ends.", "Is it one?", "")
    write_page(tmp_path / "report.html", page(sections=(Section("Notes", texts),)))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall("<p>(.*?)</p>", text) == ["no column of places.", "It ends.", "Is it one?", ""]
