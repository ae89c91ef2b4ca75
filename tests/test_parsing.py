"""Text of users' files is read within limits, and what cannot be read is refused in one sentence that helps."""

import json

import pytest

from medvae.config import read_config
from medvae.errors import MedvaeError
from medvae.manifest import read_manifest
from medvae.parsing import LARGEST_TEXT, parse_json, parse_yaml, read_json_lines, read_rows, read_text
from medvae.schema import read_document

LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])
MERGES = "\n".join(["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.yaml"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, encoding):
    (tmp_path / name).write_bytes('{"name": "Zürich"}'.encode(encoding))
    assert read_document(tmp_path / name) == {"name": "Zürich"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("[" * 80 + "]" * 80, "nested"),
        ('{"a": ' + "9" * 5000 + "}", '"a": holds'),
        ('{"a": ' + "9" * 30 + "}", '"a": holds'),
        ('{"a": {"b": [1, 1e999]}}', '"a.b.1": holds'),
        ('{"a": NaN}', "not a number"),
        ('{"a": -Infinity}', "infinite"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ('{"a": "b\\u0000c"}', "control character '\\x00'"),
        ('{"a": ["\\u001b[2J"]}', '"a.0": holds the control'),
        ('{"a": "' + "x" * 70_000 + '"}', "70,000 characters"),
        ('{"' + "k" * 70_000 + '": 1}', "70,000 characters"),
        ('{"a": 1, "b": 2, "a": 3}', '"a" stands twice'),
        ('{"a": 1', "line 1, column 8"),
        ("", "line 1, column 1"),
    ],
)  # fmt: skip
def test_json_that_nobody_can_work_with_is_refused_in_one_line(text, told):
    with pytest.raises(MedvaeError, match=r"^cohort\.json: ") as caught:
        parse_json(text, "cohort.json")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "aliases"),
        (MERGES, "aliases"),
        ("a: &a [1, *a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("[" * 100_000, "nested"),
        ("- " * 300 + "a", "nested"),
        ("a: 2001-99-99", "cannot be read"),
        ("a: !!float x", "cannot be read"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!timestamp soon", "cannot be read"),
        ("a: !!bool x", "cannot be read"),
        ("a: .inf", "infinite"),
        ("a: " + "9" * 6000, "cannot be read"),
        ("a: " + "9" * 400, "64 bits"),
        ("a: 1" + ":59" * 200, "64 bits"),
        ('a: "\\uD800"', "surrogate"),
        ("a: 1\nb: 2\na: 3", '"a" stands twice'),
        ("training:\n  steps: 1\n  steps: 2", '"steps" stands twice'),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("a: 1\n" + "#" * 600_000, "characters"),
    ],
)  # fmt: skip
def test_yaml_that_nobody_can_work_with_is_refused_in_one_line(text, told):
    with pytest.raises(MedvaeError, match=r"^run\.yaml: ") as caught:
        parse_yaml(text, "run.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_and_merges_that_a_person_writes_are_read():
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nlist: [*base, *base]"
    base = {"a": 1, "b": 2}
    assert parse_yaml(text, "") == {"base": base, "mine": {"a": 1, "b": 3}, "list": [base, base]}


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path):
    (tmp_path / "people.csv").write_bytes("id,site\na,Bonn\nb,Zürich\n".encode("latin-1"))
    with pytest.raises(MedvaeError, match="line 3 is not UTF-8"):
        read_rows(tmp_path / "people.csv")
    (tmp_path / "run.yaml").write_bytes("name: a\nsite: Zürich\n".encode("latin-1"))
    with pytest.raises(MedvaeError, match="line 2 is not UTF-8"):
        read_config(tmp_path / "run.yaml")


def test_text_without_end_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "cohort.json", "wb") as stream:
        stream.truncate(LARGEST_TEXT + 2**40)
    with pytest.raises(MedvaeError, match="more than 64 MB"):
        read_manifest(tmp_path / "cohort.json")


@pytest.mark.parametrize("content", [b"", b"  \n"])
def test_an_empty_document_is_called_empty(tmp_path, content):
    for name in ("a.json", "a.yaml"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MedvaeError, match="empty"):
            read_document(tmp_path / name)


def test_a_name_that_no_file_can_have_is_refused():
    for name in ("a\0b.json", "x" * 5000 + ".json"):
        with pytest.raises(MedvaeError, match=r"cannot be read|no such file"):
            read_text(name)


def test_a_table_with_a_quotation_mark_that_is_never_closed_is_refused(tmp_path):
    (tmp_path / "people.tsv").write_text('id\tage\na\t"30\nb\t40\nc\t50\n')
    with pytest.raises(MedvaeError, match="never closed"):
        read_rows(tmp_path / "people.tsv")


def test_a_table_with_a_cell_like_a_book_is_refused(tmp_path):
    (tmp_path / "people.tsv").write_text("id\tage\na\t" + "3" * 200_000 + "\n")
    with pytest.raises(MedvaeError, match="after line 1"):
        read_rows(tmp_path / "people.tsv")


def test_tables_as_people_and_programs_write_them_are_read(tmp_path):
    table = tmp_path / "people.csv"
    table.write_bytes(b'\xef\xbb\xbfid;note\r\na;"two\r\nlines; and ""quotes"""\r\nb;5" scan\r\nc;x;too many\r\nd\r\n')
    assert read_rows(table) == [
        {"id": "a", "note": 'two\r\nlines; and "quotes"'},
        {"id": "b", "note": '5" scan'},
        {"id": "c", "note": "x"},
        {"id": "d", "note": ""},
    ]


def test_a_log_may_hold_numbers_that_are_not_finite_and_names_a_bad_line(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "kl": NaN}\n\n{"step": 2}\n')
    assert [line["step"] for line in read_json_lines(log)] == [1, 2]
    for bad in ('{"step": 3', "[1]", "[" * 5000):
        log.write_text('{"step": 1}\n' + bad)
        with pytest.raises(MedvaeError, match="line 2"):
            read_json_lines(log)


def test_an_override_is_read_within_the_same_limits():
    for value in ("[" * 5000, "2001-99-99", "&a [*a]", "[1"):
        with pytest.raises(MedvaeError, match=r"training\.steps"):
            read_config(None, [f"training.steps={value}"])


def test_what_medvae_writes_is_within_the_limits(tmp_path, repository):
    for path in [*repository.glob("configs/**/*.yaml"), *repository.glob("data_manifests/*.json")]:
        read_document(path)
    cases = [{"id": f"c{n}", "image": f"{n}.nii.gz", "split": "train"} for n in range(2000)]
    (tmp_path / "many.json").write_text(json.dumps({"name": "many", "modality": {"0": "T1"}, "cases": cases}))
    assert len(read_manifest(tmp_path / "many.json", files_must_exist=False).cases) == 2000
