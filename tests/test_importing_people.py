"""Ages, sexes and sites from the tables of people that data sets come with."""

import json

import pytest

from medvae.importing.people import age_of, read_people, sex_of


def table(folder, text, dictionary=None, encoding="utf-8"):
    path = folder / "participants.tsv"
    path.write_bytes(text.replace(" ", "\t").encode(encoding))
    if dictionary is not None:
        path.with_suffix(".json").write_text(json.dumps(dictionary), encoding=encoding)
    return read_people(path)


@pytest.mark.parametrize(
    ("units", "age", "years"),
    [
        ("months", "6", 0.5), ("Months", "36", 3), ("month", "18", 1.5), ("weeks", "52", 52 * 7 / 365.25),
        ("days", "730.5", 2), ("years", "34", 34), ("year", "34", 34), (None, "34", 34), ("months", "n/a", None),
        ("months", "89+", None), ("years", "89+", None), ("months", "2y", 2), ("moons", "6", None),
    ],
)  # fmt: skip
def test_ages_are_brought_to_years(tmp_path, units, age, years):
    dictionary = {"Age": {"Description": "at scan", "Units": units}} if units else {"age": {"Description": "x"}}
    people, notes = table(tmp_path, f"participant_id age\nsub-1 {age}\n", dictionary)
    assert age_of(people.row("1")) == (None if years is None else pytest.approx(years, rel=1e-4))
    assert any(str(units).lower() in note for note in notes) == (units not in (None, "years", "year"))


@pytest.mark.parametrize(
    ("column", "cell", "years"),
    [
        ("age_months", "6", 0.5),
        ("age_at_scan", "40", 40),
        ("age", "045Y", 45),
        ("age", "006M", 0.5),
        ("age", "40,5", 40.5),
    ],
)
def test_columns_and_cells_that_name_their_unit(tmp_path, column, cell, years):
    people, _ = table(tmp_path, f"participant_id {column}\nsub-1 {cell}\n")
    assert age_of(people.row("1")) == pytest.approx(years)


def test_a_data_dictionary_that_is_broken_or_has_a_byte_order_mark(tmp_path):
    sexes = {"Levels": {"1": "Male", "2": {"Description": "female person"}}}
    dictionary = {"age": {"Units": "months"}, "sex": sexes}
    people, _ = table(tmp_path, "participant_id age sex\nsub-1 6 1\nsub-2 6 2\n", dictionary, "utf-8-sig")
    assert age_of(people.row("1")) == 0.5
    assert [sex_of(people.row(name)) for name in "12"] == ["M", "F"]
    (tmp_path / "participants.json").write_text("{")
    people, notes = read_people(tmp_path / "participants.tsv")
    assert age_of(people.row("1")) == 6
    assert "participants.json" in notes[0]


def test_names_are_found_without_sub_zeros_and_capitals(tmp_path):
    text = "participant_id  age\r\n 1 30\r\nSub-02 31\r\nmüller 32\r\n07 33\r\n7 34\r\n\r\n"
    path = tmp_path / "participants.tsv"
    path.write_bytes(
        ("\ufeff" + text.replace(" ", "\t").replace("\t\tage", " \tage").replace("\n\t1", "\n 1")).encode()
    )
    people, _ = read_people(path)
    names = ("sub-01", "02", "Mu\u0308ller", "007", "07", "3")
    assert [age_of(people.row(name)) for name in names] == [30, 31, 32, None, 33, None]
    assert "as 3" in people.missing(["01", "3"])[0]
