import pytest

from tests.models import save_tiny


@pytest.fixture(scope="session")
def tiny(tiny_bert, tmp_path_factory):
    """A function that gives the folder of a tiny backbone of a kind, of two layers unless told; each is made once."""
    made: dict[str, str] = {}

    def folder(kind: str, **sizes) -> str:
        key = f"{kind}{sizes}"
        if key not in made:
            made[key] = save_tiny(kind, tiny_bert, tmp_path_factory.mktemp(kind), **sizes)
        return made[key]

    return folder
