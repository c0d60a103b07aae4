"""The numbers of other programs: every file is read by a test and explained, and none tells of a machine."""

import re
from importlib import import_module

import pytest

from tests import cases
from tests.cases import ORACLES, OWN

pytestmark = pytest.mark.skipif(ORACLES != OWN, reason="CSE_ORACLES names another folder")

# Of methods that cse does not have, or not in this form: no test can read them.
WAITING = ("meru_", "mgda_", "mode_", "neighbours_", "phrases_", "positions_", "prototypes_", "block_b", "moe_block")
WAITING += ("distill_dse_pooler", "sg_opt_ablation")


def test_every_file_is_read_by_a_test():
    for path in OWN.parent.rglob("test_*.py"):
        if "from tests.cases import" in path.read_text(encoding="utf-8"):
            import_module(".".join(path.relative_to(OWN.parents[1]).with_suffix("").parts))
    stems = {path.stem for path in (*OWN.glob("*.npz"), *OWN.glob("*.pt"))}
    unread = {s for s in stems if not s.startswith((*cases.READ, "simcse_dist_in_"))}
    assert {s for s in unread if not s.startswith(WAITING)} == set()
    assert {waiting for waiting in WAITING if not any(s.startswith(waiting) for s in unread)} == set()


def test_the_readme_says_of_every_family_where_its_numbers_come_from():
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", (OWN / "README.md").read_text(), re.MULTILINE)))
    assert {path.stem for path in OWN.glob("*.json")} - {*named} == set()


def test_they_are_small_and_tell_of_no_machine():
    files = [path for path in OWN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6e6
    for path in files:
        assert not re.search(rb"/home/|/root/|/tmp/|/work/|/Users/", path.read_bytes()), path
