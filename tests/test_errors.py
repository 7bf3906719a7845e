"""The error that users see."""

import pickle

from limner.errors import LimnerError, suggest


def test_an_error_is_three_lines():
    assert str(LimnerError("It broke.", why="A reason.", fix="Mend it.")) == "It broke.\nA reason.\nMend it."
    assert str(LimnerError("It broke.", fix="Mend it.")) == "It broke.\nMend it."


def test_an_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(LimnerError("It broke.", "A reason.", "Mend it.")))
    assert (error.problem, error.why, error.fix) == ("It broke.", "A reason.", "Mend it.")


def test_a_near_miss_is_suggested_and_the_known_words_are_listed():
    assert suggest("digit", ["faces", "digits"]) == "Did you mean 'digits'? There is: digits, faces."
    assert suggest("zzz", ["faces"]) == "There is: faces."
    assert suggest("zzz", []) == "There is none."
