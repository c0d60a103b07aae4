"""The tables of the documentation are what the committed results say."""

from eval import tables


def test_every_table_is_current():
    assert tables.write(check=True) == []  # `make tables` writes them anew


def test_the_pages_hold_their_tables():
    shown = {match[1] for page in tables.pages() for match in tables.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == set(tables.TABLES)


def test_a_block_is_replaced_and_the_rest_stays(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "one", lambda: "| 1 |\n")
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: one -->\n<!-- end -->\n"
    new = "<!-- table: one -->\n| 1 |\n<!-- end -->\n"
    assert tables.filled(text, "page") == f"a\n{new}b\n{new}"
