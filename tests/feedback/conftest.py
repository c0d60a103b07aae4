import pytest

from cse.feedback.job import Job
from cse.feedback.meter import Limits, Meter
from cse.feedback.store import Store
from tests.feedback.helpers import Rule


@pytest.fixture
def job(tmp_path):
    """A function that makes a job whose labeler answers by a rule."""
    stores = []

    def make(rule, **options):
        stores.append(Store(tmp_path / f"{len(stores)}.sqlite"))
        return Job(Rule(rule, **options), stores[-1], Meter(Limits()))

    yield make
    for store in stores:
        store.close()
