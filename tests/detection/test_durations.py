import pytest

from detection.durations import parse_duration, spoken


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0s", 0),
        ("500ms", 500),
        ("5s", 5_000),
        ("010s", 10_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("36500d", 36_500 * 86_400_000),
    ],
)
def test_a_duration_is_a_whole_number_and_a_unit(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "5S", "-5s", "+5s", "1.5s", "1h30m", "5sec", "5s\n", "٥s", "1e3s", " 5s"]
)
def test_anything_else_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="write a whole number and a unit, such as 500ms, 5s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "9" * 18 + "d"])
def test_more_than_a_hundred_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than a hundred years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 seconds"),
        (1, "1 millisecond"),
        (500, "500 milliseconds"),
        (1_000, "1 second"),
        (5_000, "5 seconds"),
        (4_360, "4 seconds 360 milliseconds"),
        (90_000, "1 minute 30 seconds"),
        (3_600_000, "1 hour"),
        (2 * 86_400_000 + 60_000, "2 days 1 minute"),
    ],
)
def test_a_duration_is_spoken_without_the_units_that_are_zero(ms: int, words: str) -> None:
    assert spoken(ms) == words


def test_a_negative_duration_cannot_be_spoken() -> None:
    with pytest.raises(ValueError, match="cannot be negative: -1 ms"):
        spoken(-1)
