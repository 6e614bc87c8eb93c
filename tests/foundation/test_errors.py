"""Messages a user can act on."""

from foundation.errors import UserError, nearest


def test_nearest_suggests_the_closest_name():
    assert nearest("epocs", ["epochs", "dim"]) == "did you mean 'epochs'?"


def test_nearest_lists_all_names_when_none_is_close():
    assert nearest("zzz", ["epochs", "dim"]) == "known: dim, epochs"


def test_a_user_error_reads_as_message_then_remedy():
    assert str(UserError("a.csv: no such file.", "Name another.")) == "a.csv: no such file.\nName another."
