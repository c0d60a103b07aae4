"""What tests of bad input share."""

import pytest

from cse import UserError


def refuses(message, call, *args, **options):
    """What a call says that fails with a `UserError`: it matches the message, has a fix, and is five lines at most."""
    with pytest.raises(UserError, match=message) as error:
        call(*args, **options)
    said = str(error.value)
    assert "\nfix: " in said
    assert len(said.splitlines()) <= 5
    return said
