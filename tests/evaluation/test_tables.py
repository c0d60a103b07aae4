"""The tables of the documentation are what the committed results say."""

import pytest

from cse.errors import UserError
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: nothing -->\n<!-- end -->\n", "README.md: there is no table 'nothing'"),
        ("<!-- table: speed -->\n", "README.md: a table has no end"),
        ("<!-- table: speed -->\n<!-- table: results -->\n<!-- end -->\n", "README.md: a table has no end"),
    ],
)
def test_what_a_page_cannot_say(text, message):
    with pytest.raises(UserError, match=message):
        tables.filled(text, "README.md")
