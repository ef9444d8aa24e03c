"""The TOML dialect: same model, native types, and positions that the parser does not give."""

from __future__ import annotations

import pytest

from ggaoe.config import parse

KEYFILE = """
[defaults]
queue-length = 16
merge-delay = 5ms
interfaces = eth*, san0
direct-io = false
ring-buffer-size = 8MiB
[acls]
lab = 02:00:00:00:00:01, more
more = 02:00:00:00:00:02
[eth0]
mtu = 1500
[disk 0]
path = /dev/sdb
shelf = 1
slot = 2
max-delay = 0.5
offset = 1MiB
length = 512
accept = lab
"""

TOML = """
acls.lab = ["02:00:00:00:00:01", "more"]
acls.more = ["02:00:00:00:00:02"]
interfaces = { eth0 = { mtu = 1500 } }

[defaults]
queue-length = 16
merge-delay = "5ms"
interfaces = [
    "eth*",  # a list may be long
    'san0',
]
direct-io = false
ring-buffer-size = 8192

[devices."disk 0"]
path = '/dev/sdb'
shelf = 1
slot = 0x2
max-delay = 0.5
offset = "1MiB"
length = 512
accept = ["lab"]
"""

DEVICE = '[devices.d]\npath = "/x"\nshelf = 1\nslot = 0\n'


def test_both_dialects_make_the_same_configuration():
    assert parse(TOML, "f.toml") == parse(KEYFILE, "f.conf")


def test_tables_of_devices_make_a_file_of_any_name_toml():
    assert parse(DEVICE, "ggaoed.conf").devices["d"].shelf == 1


def test_ending_makes_a_file_toml(problems):
    assert problems("[defaults]\ndirect-io = 1\n", "f.toml") == [
        "2:13: 1 is no boolean: write direct-io = true or false"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defaults]\nmtu = \n", "2:7: not TOML: Invalid value"),
        ("[defaults]\nmtu = 1\nmtu = 2\n", "3:8: not TOML: Cannot overwrite a value"),
        ("[defaults]\nmtu = [1", "2:9: not TOML: Unclosed array"),
        ("mtu = 3", "1:1: unknown table or option 'mtu': known are defaults, acls, interfaces,"),
        ("[device.d]\n", "1:1: unknown table or option 'device': did you mean 'devices'?"),
        ("defaults = 1", "1:1: defaults is a table: write [defaults]"),
        (
            "[devices]\nshelf = 1\n",
            "2:1: 'shelf' is no option of [devices]: write [devices.NAME] above",
        ),
        (
            "[[devices.d]]\nshelf = 1\n",
            "1:1: 'd' is no option of [devices]: write [devices.NAME] above",
        ),
        ("[defaults]\nqueue_length = 3\n", "2:1: unknown option 'queue_length': did you mean"),
        (
            '[defaults]\nqueue-length = "16"\n',
            "2:16: '16' is no whole number: queue-length can be 2 to 65535, without quotes",
        ),
        ("[defaults]\nqueue-length = 1.5\n", "2:16: 1.5 is no whole number: queue-length can be"),
        ("[defaults]\ndirect-io = 'yes'\n", "2:13: 'yes' is no boolean: write direct-io = true"),
        ("[defaults]\nmax-delay = nan\n", "2:13: nan is out of range: max-delay can be 0 to 1 s"),
        ("[defaults]\nmax-delay = [1]\n", "2:13: max-delay takes one value, not a list or table"),
        ("[defaults]\npid-file = 3\n", "2:12: 3 cannot be used: pid-file is a path; a relative"),
        (
            "[defaults]\ninterfaces = 'eth0'\n",
            '2:14: interfaces takes a list: write interfaces = ["…", "…"]',
        ),
        (
            '[defaults]\ninterfaces = [\n  \'eth0\', # \'one\'\n  """eth""", 2,\n]\n',
            "4:14: 2 cannot be used: interfaces is a list of interfaces, by name or glob pattern",
        ),
        ("[acls]\na = 'x'\n", '2:5: a takes a list: write a = ["…", "…"]'),
        ("[acls]\na = [3]\n", "2:6: 3 is no text: write a MAC address or a name in quotes"),
        ("[acls]\na = [[3]]\n", "2:6: [3] is no text: write a MAC address or a name in quotes"),
        ("x = " + "[" * 5000, "1:1: lists or tables are nested too deep"),
        ("[defaults]\nmtu = 1" + "0" * 5000 + "\n", "1:1: not TOML: Exceeds the limit"),
    ],
)
def test_problems(problems, text, message):
    (found,) = problems(text, "f.toml")
    assert found.startswith(message)


def test_positions_after_dotted_keys_inline_tables_and_long_strings(problems):
    text = (
        "acls.\"a b\" = [ '''\nx''' , \"02:00:00:00:00:01\" , 'y' ]\n"
        "devices.d = { path = '/x', shelf = 1, slot = 300 }\n"
        "[interfaces.eth0] # note\n"
        "mtu = 1979-05-27 07:32:00\n"
        "  ring-buffer-size = 'a = [' # ]\n"
    )
    assert [line.split(": ")[0] for line in problems(text, "f.toml")] == [
        "1:16",
        "2:30",
        "3:46",
        "5:7",
        "6:22",
    ]
