import pytest

from cse import Encoder
from tests.inference.helpers import lines


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return Encoder(tiny_bert, pooler="mean").eval()


@pytest.fixture
def file(tmp_path):
    """43 texts, one a line."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines(43)) + "\n")
    return path
