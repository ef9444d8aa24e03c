"""Whatever stands in a file, in either dialect, gives a configuration or a ConfigError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ggaoe.config import diff, effective, parse
from ggaoe.config.document import PROBLEMS_MAX
from ggaoe.config.schema import OPTIONS
from ggaoe.errors import ConfigError

KEYS = st.sampled_from([*(option.key for option in OPTIONS), "lab", "que-length", "acls"])
VALUES = (
    st.sampled_from(["1", "0", "2", "true", "yes", "0.5", "5ms", "4KiB", "eth*", "lab", "/x"])
    | st.sampled_from(["9" * 5000, "-1", "", "\\", "\\q", '"x"', "1 # c", "auto", "nan", "1e999"])
    | st.sampled_from(["4095", "٣", "lab, 2:0:0:0:0:1", "3:0:0:0:0:1"])
    | st.text(max_size=8)
)
HEADERS = (
    st.sampled_from(["[defaults]", "[acls]", "[eth0]", "[disk]", "[disk2]", "[default]", "["])
    | st.sampled_from(["[interfaces.eth0]", "[devices.disk]", "[[devices.disk]]", "[devices]"])
    | st.sampled_from(["[devices.'a b']", "# x", "; x"])
)
PAIRS = st.tuples(KEYS, VALUES).map(" = ".join)
NATIVE = (
    st.sampled_from(["1", "true", "'x'", '"5ms"', "0.5", "nan", "inf", "[]", "[['lab']]"])
    | st.sampled_from(["1979-05-27 07:32:00", "'''\nx'''", '"""a"b""""', "[\n1, # ]\n'2',\n]"])
    | st.sampled_from(["0x" + "f" * 40, "['lab', 3]", "{a = 1}", "['eth0', \"san*\"]"])
)
TOML_PAIRS = st.tuples(KEYS, NATIVE).map(" = ".join)
FILES = st.lists(HEADERS | PAIRS | TOML_PAIRS | st.text(max_size=10), max_size=30).map("\n".join)
# Repeated keys and tables are syntax errors of TOML, so these have none, to get beyond its parser
TABLES = st.dictionaries(
    st.sampled_from(["defaults", "acls", "interfaces.eth0", "devices.disk", "devices.'a b'", "x"]),
    st.dictionaries(KEYS, NATIVE, max_size=8),
).map(
    lambda tables: "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in pairs.items())])
        for name, pairs in tables.items()
    )
)


def check(text: str, source: str) -> None:
    try:
        config = parse(text, source)
    except ConfigError as error:
        problems = error.problems
    else:
        assert hash(config) == hash(parse(text, source))
        assert diff(config, parse(text, source)).empty
        assert len(effective(config)) == len(config.settings)
        return
    assert not all(problem.warning for problem in problems)
    assert len(problems) <= 2 * PROBLEMS_MAX + 1
    assert all(problem.line <= text.count("\n") + 1 for problem in problems)
    assert all("\n" not in str(problem) for problem in problems)


@settings(max_examples=300)
@given(st.text() | FILES)
def test_any_key_file(text):
    check(text, "f.conf")


@settings(max_examples=300)
@given(st.text() | FILES | TABLES)
def test_any_toml(text):
    check(text, "f.toml")
