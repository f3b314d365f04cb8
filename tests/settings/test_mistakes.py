"""Each case is a piece of YAML with ▸ where the problem must be reported, and words that the report must have."""

from pathlib import Path

import pytest

from settings import ConfigError, Problem, load
from tests.support.configuration import ACTION_TYPES


def rule(**changes: str) -> str:
    """The smallest rule, with lines of it replaced, added or (by an empty text) removed."""
    lines = {
        "name": "hot",
        "topic": "products",
        "key": "product.name",
        "count": "{at_least: 20, within: 5s}",
        "actions": "[log]",
    } | changes
    written = [f"{name}: {value}" for name, value in lines.items() if value]
    return "rules:\n  - " + "\n    ".join(written) + "\n"


def problems_of(load_text, text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as raised:
        load_text(text)
    return raised.value.problems


def mail(setting: str) -> str:
    """An e-mail action called `log`, with a setting."""
    return f"actions:\n  log:\n    type: email\n    host: localhost\n    to: [b@example.com]\n    {setting}\n"


def marked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and the places of the marks."""
    places, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.split("▸")
        places += [(number, len("".join(parts[:count])) + 1) for count in range(1, len(parts))]
        lines.append("".join(parts))
    return "\n".join(lines), places


SCALARS = [
    ("▸on", "'on' may be read as a boolean", 'write true, or "on" in quotes'),
    ("▸yes", "'yes' may be read as a boolean", 'write true, or "yes" in quotes'),
    ("▸off", "'off' may be read as a boolean", 'write false, or "off" in quotes'),
    ("▸No", "'No' may be read as a boolean", 'write false, or "No" in quotes'),
    ("▸y", "'y' may be read as a boolean", 'or "y" in quotes'),
    ("▸True", "'True' may be read as a boolean", "write true"),
    ("▸NULL", "'NULL' may be read as null or as text", "write null"),
    ("▸1:30", "'1:30' is read as a number in base 60", "such as 90s"),
    ("▸012", "'012' is read as different numbers", '"012" in quotes'),
    ("▸0x1F", "'0x1F' is read as different numbers", "plain decimal"),
    ("▸0o17", "'0o17' is read as different numbers", "plain decimal"),
    ("▸1_000", "'1_000' is read as different numbers", "plain decimal"),
    ("▸1e3", "'1e3' is read as different numbers", "plain decimal"),
    ("▸+5", "'+5' is read as different numbers", "plain decimal"),
    ("▸.5", "'.5' is read as different numbers", "plain decimal"),
    ("▸5.", "'5.' is read as different numbers", "plain decimal"),
    ("▸.inf", "'.inf' is read as different numbers", "plain decimal"),
    ("▸-.inf", "'-.inf' is read as different numbers", "plain decimal"),
    ("▸.NaN", "'.NaN' is read as different numbers", "plain decimal"),
    ("▸" + "9" * 400 + ".0", "is read as different numbers", "plain decimal"),
    ("▸" + "9" * 5000, "is read as different numbers", "plain decimal"),
    ("▸2026-01-31", "'2026-01-31' may be read as a date", '"2026-01-31" in quotes'),
    ("▸2026-01-31T10:00:00Z", "may be read as a date", "in quotes"),
    ("▸=", "'=' has a special meaning", "in quotes"),
    ("▸${ACTION}", "'${ACTION}' is not replaced by the value of a variable", "{env: NAME}"),
    ("▸$ACTION", "'$ACTION' is not replaced by the value of a variable", "{env: NAME}"),
    ("▸!!str 12", "tags, which start with !, are not supported", "in quotes"),
    ("▸!vault x", "tags, which start with !, are not supported", "remove it"),
    ("▸&a x", "anchors and aliases (&) are not supported", "write the value out"),
    ("▸*a", "anchors and aliases (*) are not supported", "write the value out"),
    ("▸{a: {b: c}}", "a condition is a value, or a list of values", "[add, order]"),
    ("▸[]", "this list is empty", "at least one value"),
    ("[add, ▸[b]]", "a condition is a value, or a list of values", "[add, order]"),
]


@pytest.mark.parametrize(("value", "words", "hint"), SCALARS, ids=[value[:20] for value, *_ in SCALARS])
def test_a_value_that_readers_of_yaml_disagree_on_is_an_error_where_it_stands(load_text, value, words, hint) -> None:
    text, places = marked(rule(where=f"\n      action: {value}"))
    [problem] = problems_of(load_text, text)
    assert ((problem.line, problem.column), problem.severity) == (places[0], "error")
    assert words in problem.message
    assert hint in (problem.hint or "")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("0", 0),
        ("-12", -12),
        ("1.50", 1.5),
        ("add", "add"),
        ("add to cart", "add to cart"),
        ("1.2.3", "1.2.3"),
        ("12a", "12a"),
        ("norway", "norway"),
        ('"on"', "on"),
        ("'012'", "012"),
        ('"1:30"', "1:30"),
        ('"true"', "true"),
        ('"12"', "12"),
        ('""', ""),
        ('"${HOME}"', "${HOME}"),
        ("|-\n        12", "12"),
    ],
)
def test_what_everybody_reads_the_same_keeps_its_json_type(load_text, written: str, value: object) -> None:
    [allowed] = load_text(rule(where=f"\n      action: {written}")).rules[0].where["action"]
    assert (allowed, type(allowed)) == (value, type(value))


MISTAKES = {
    # The file as a whole
    "empty file": ("▸", "the file is empty", "rules:"),
    "only comments": ("▸# nothing\n", "the file is empty", "rules:"),
    "a list": ("▸- a\n", "this is no list of settings", "rules:"),
    "a text": ("▸hello\n", "this is no list of settings", "rules:"),
    "no rules": ("▸kafka: {}\n", "there are no rules", "- name:"),
    "an empty list of rules": ("rules: ▸[]\n", "there are no rules", "- name:"),
    "rules as names": ("rules:\n  ▸hot: {}\n", "'rules' must be a list", "- name:"),
    "a rule that is text": ("rules: [▸hot]\n", "this must be names with values, not the text 'hot'", None),
    "a tab": ("rules:\n▸\t- name: hot\n", "there is a tab here", "spaces"),
    "an unclosed quote": ('kafka: {consumer_group: ▸"tua}\n', "this quote is not closed", "the file ends inside"),
    "an unclosed quote lines above the end": (
        'kafka:\n  consumer_group: ▸"tua\n' + rule(),
        "this quote is not closed",
        "the file ends inside",
    ),
    "an unclosed bracket": ("rules: ▸[a\nkafka: {}\n", "this [ is not closed, or a comma is missing", "quotes"),
    "an unclosed brace": ("kafka: ▸{topic_prefix: a\n" + rule(), "this { is not closed", "quotes"),
    "a missing comma": ("kafka: {topic_prefix: a consumer_group▸: b}\n", "a comma or } is missing", "quotes"),
    "a template with text behind it, without quotes": (
        rule(message="{{ rule }} ▸hit"),
        "more behind the value that starts with {",
        "the whole text in quotes",
    ),
    "a list with text behind it": (rule(message="[hot] ▸hit"), "starts with [", "the whole text in quotes"),
    "text that starts with a comma": (rule(actions="[▸,log]"), "a value is missing before this", "quotes"),
    "text that starts with an exclamation mark": (rule(where="{action: !=add▸}"), "tags, which start with !", "quotes"),
    "text that starts with an asterisk": (rule(topic="*▸"), "anchors and aliases are not supported", "quotes"),
    "text that starts with a greater-than sign": (rule(description=">▸x"), "text after | or >", "quotes"),
    "text that starts with a dash": (rule(description="▸- a"), "a list cannot start here", "quotes"),
    "text that starts with a question mark": (rule(description="▸? a"), "a ? is not allowed here", "quotes"),
    "an end of the file within it": (rule() + "...\n▸kafka: {}\n", "not part of the settings", "..."),
    "text with a colon": (rule(description="▸a: b").replace("▸a:", "a▸:"), "a colon is not allowed here", "quotes"),
    "text that starts with a percent sign": (rule(description="▸%5"), "a value cannot start with '%'", "quotes"),
    "wrong indentation": (rule() + "  ▸kafka: {}\n", "this does not fit the lines above it", "indentation"),
    "nothing after the colon": (rule(where="\n      action:▸"), "a value is missing", "null for nothing"),
    "two documents": (rule() + "▸---\nkafka: {}\n", "a second document starts here", "---"),
    "a character that YAML forbids": (
        rule(description="a▸\x07"),
        "a character here that YAML does not allow",
        "remove",
    ),
    "too deep": ("kafka: " + "[" * 29 + "▸[" + "]" * 30, "nested more than 30 levels", None),
    "a merge key": ("▸<<: {}\n" + rule(), "this is not the name of a setting", "before the colon"),
    "a template without quotes": (
        rule(message="▸{{ count }}"),
        "the name of a setting must be text",
        "needs quotes",
    ),
    "a setting twice": (
        "kafka:\n  topic_prefix: a\n  ▸topic_prefix: b\n" + rule(),
        "a second time, first in line 2",
        "",
    ),
    # Names
    "an unknown section": (rule() + "▸kafak: {}\n", "unknown setting 'kafak'", "did you mean 'kafka'?"),
    "an unknown section like nothing": (
        rule() + "▸x: 1\n",
        "unknown setting 'x'",
        "known: actions, delivery, intake, kafka, rules",
    ),
    "an unknown setting": (rule() + "state: {▸retntion: 1h}\n", "unknown setting 'retntion'", "'retention'?"),
    "a setting by its name in Python": (rule() + "state: {▸retention_ms: 1h}\n", "unknown setting", "'retention'?"),
    "an unknown setting of a rule": (rule(description="a\n    ▸sevrity: info"), "unknown setting", "'severity'?"),
    "an unknown setting deep down": (
        rule() + "actions: {log: {type: log, retry: {▸delay: [1s]}}}\n",
        "unknown setting 'delay'",
        "did you mean 'delays'?",
    ),
    "a misspelt setting that is needed": (rule(count="{▸at_lest: 20, within: 5s}"), "'at_lest'", "'at_least'?"),
    "an unknown topic": (rule(topic="▸product"), "there is no topic 'product'", "did you mean 'products'?"),
    "an unknown action": (rule(actions="[log, ▸lgo]"), "there is no action 'lgo'", "did you mean 'log'?"),
    "an unknown type of action": (rule() + "actions: {log: {type: ▸lug}}\n", "no type of action 'lug'", "'log'?"),
    "an action with a misspelt type": (rule() + "actions: {log: {▸typ: log}}\n", "setting 'typ'", "mean 'type'?"),
    "an unknown setting like one that is there": (
        rule(count="{▸at_most: 5, at_least: 2, within: 5s}"),
        "unknown setting 'at_most'",
        "known: at_least, within",
    ),
    "an unknown section like one that is there": (rule() + "▸rule: []\n", "unknown setting 'rule'", "known: actions"),
    "an action whose type is a url with a token": (
        rule() + "actions: {log: {type: ▸https://hooks.example.com/T0ken}}\n",
        "no type of action of that name",
        "known:",
    ),
    "a flood that is false": (rule() + mail("flood: ▸false"), "this must be names with values", "null for none"),
    "a time zone like none": (
        rule() + mail('quiet_hours: {from: "22:00", to: "07:00", timezone: ▸Wien}'),
        "there is no time zone 'Wien'",
        "such as Europe/Vienna",
    ),
    "a cooldown without a unit": (rule(cooldown="▸10"), "10 is a duration without a unit", "10s"),
    "a cooldown of nothing": (rule(cooldown="▸0s"), "this duration must be longer than 0", None),
    "a cooldown with a misspelt part": (rule(cooldown="{▸frist: 1m}"), "unknown setting 'frist'", "'first'?"),
    "a cap below the first cooldown": (rule(cooldown="{first: 1h, cap: ▸1m}"), "the cap is shorter than", "cap: 6h"),
    "a flood of nothing": (rule() + mail("flood: {more_than: ▸0}"), "this must be at least 1, not 0", None),
    "a flood of an action that may act": (rule() + "actions: {log: {type: log, ▸flood: null}}\n", "unknown", "known:"),
    "quiet hours in base 60": (rule() + mail('quiet_hours: {from: ▸22:00, to: "07:00"}'), "base 60", "in quotes"),
    "quiet hours as a number": (rule() + mail('quiet_hours: {from: ▸22, to: "07:00"}'), "time of day", "22:00"),
    "quiet hours of no time": (rule() + mail('quiet_hours: {from: "22:00", to: ▸"24:00"}'), "time of day", "22:00"),
    "quiet hours without an end": (rule() + mail('▸quiet_hours: {from: "22:00"}'), "'to' is missing", None),
    "quiet hours that are always": (rule() + mail('quiet_hours: ▸{from: "22:00", to: "22:00"}'), "the same", "a whole"),
    "quiet hours nowhere": (
        rule() + mail('quiet_hours: {from: "22:00", to: "07:00", timezone: ▸Europe/Berln}'),
        "there is no time zone 'Europe/Berln'",
        "did you mean 'Europe/Berlin'?",
    ),
    "an action that writes to what is read": (
        rule() + "topics: {products: {}}\nactions: {log: {type: topic, topic: ▸products}}\n",
        "'products' is read by the job itself",
        "another topic",
    ),
    "an action that writes to the job's own topic": (
        rule() + "actions: {log: {type: topic, topic: ▸tua.alerts}}\n",
        "'tua.alerts' is a topic of the job's own",
        "another topic",
    ),
    "a misspelt setting of delivery": (rule() + "delivery: {▸grace: 1s}\n", "unknown setting 'grace'", "known: ret"),
    "a retention of nothing": (rule() + "delivery: {retention: ▸0s}\n", "must be longer than 0", None),
    "an action without type": (rule() + "actions: {▸log: {}}\n", "'type' is missing", "one of: "),
    "an empty action": (rule() + "actions:\n  ▸log:\n", "'type' is missing", "one of: "),
    "an action whose type is no text": (rule() + "actions: {log: {type: ▸5}}\n", "one of: ", None),
    "a severity in other words": (rule(severity="▸warn"), "'warn' is not one of: info, warning", "'warning'?"),
    "a severity in capitals": (rule(severity="▸Critical"), "'Critical' is not one of", "did you mean 'critical'?"),
    "a severity in a list": (rule(severity="▸[warning]"), "this must be one of: info, warning, critical", None),
    "two rules of one name": (rule() + rule(name="▸hot").removeprefix("rules:\n"), "two rules are called 'hot'", ""),
    "an action twice in a rule": (rule(actions="[log, ▸log]"), "here a second time", "remove"),
    "a reserved action": (
        rule() + "actions: {log: {type: log}, ▸tua.alerts: {type: log}}\n",
        "'tua.alerts' is reserved",
        "the job's own",
    ),
    "an action with a space": (
        rule() + "actions: {log: {type: log}, ▸a b: {type: log}}\n",
        "'a b' cannot be the name of an action",
        "letters",
    ),
    "a topic that Kafka refuses": (
        rule() + "topics: {products: {}, ▸a/b: {}}\n",
        "'a/b' cannot be the name",
        "letters",
    ),
    "a topic of the job's own": (
        rule() + "topics: {products: {}, ▸tua.rejected: {}}\n",
        "'tua.rejected' is written by the job itself",
        "kafka.topic_prefix",
    ),
    "sections that are lists": (rule() + "topics: ▸[products]\n", "'topics' must hold names", "topics:"),
    # Values
    "a missing setting": (rule(count="").replace("- name", "- ▸name"), "'count' is missing", None),
    "a missing setting with a named parent": (
        rule(count="").rstrip() + "\n    ▸count: {at_least: 1}\n",
        "'within'",
        None,
    ),
    "null": (rule(name="▸null"), "a value is needed here, not null", None),
    "a threshold of 0": (rule(count="{at_least: ▸0, within: 5s}"), "must be at least 1, not 0", None),
    "a threshold in quotes": (rule(count='{at_least: ▸"20", within: 5s}'), "not the text '20'", "without quotes"),
    "a threshold with a fraction": (rule(count="{at_least: ▸20.0, within: 5s}"), "a whole number, not 20.0", None),
    "a threshold that is true": (rule(count="{at_least: ▸true, within: 5s}"), "a whole number, not true", None),
    "a threshold that is octal": (rule(count="{at_least: ▸020, within: 5s}"), "'020' is read", "a whole number"),
    "a threshold that is octal, in quotes": (rule(count='{at_least: ▸"020", within: 5s}'), "not the text '020'", None),
    "a threshold in other digits": (rule(count="{at_least: ▸２０, within: 5s}"), "not the text '２０'", None),
    "a threshold that is yes": (
        rule(count="{at_least: ▸yes, within: 5s}"),
        "'yes' may be read as a boolean",
        "this must be a whole number",
    ),
    "a threshold of many": (rule(count="{at_least: ▸10000001, within: 5s}"), "at most 10000000, not", None),
    "a threshold from ENV": (rule(count="{at_least: ▸{ENV: X}, within: 5s}"), "not names with values", "{env: NAME}"),
    "a window of 0": (rule(count="{at_least: 1, within: ▸0s}"), "must be longer than 0", None),
    "a window without unit": (rule(count="{at_least: 1, within: ▸5}"), "5 is a duration without a unit", "5s"),
    "a window in words": (rule(count="{at_least: 1, within: ▸5 sec}"), "'5 sec' is not a duration", "5s"),
    "a window in base 60": (rule(count="{at_least: 1, within: ▸1:30}"), "base 60", "such as 500ms"),
    "a name that is a number": (rule(name="▸12"), "this must be text, not 12", '"12" in quotes'),
    "an empty name": (rule(name='▸""'), "this is not a name", "letters"),
    "a path with a gap": (rule(key="▸product..name"), "'product..name' is not the path of a field", "product.name"),
    "a path with a quote": (rule(key="""▸'a"b'"""), "is not the path of a field that can be read", "without quotes"),
    "paths in one text": (
        rule(key="▸product.name, user_id"),
        "'product.name, user_id' is not the path of one field",
        "several are a list",
    ),
    "a path from the root": (rule(key="▸$.product.name"), "not the path of a field", "with dots between"),
    "a path with brackets": (rule(key='''▸"product['name']"'''), "not the path of a field", "with dots between"),
    "a path into an array": (rule(key="▸items[0].id"), "not the path of a field", "an array cannot be reached"),
    "a path through an array": (rule(where="{▸items.*.id: 1}"), "not the path of a field", "cannot be reached"),
    "a path in round brackets": (rule(key="▸(product.name)"), "not the path of a field", "with dots between"),
    "a path in quotes of a word processor": (rule(key="▸“product.name”"), "not the path", "with dots between"),
    "half of a character": (rule(key=r'▸"\ud83d"'), "half of a character", "write the character itself"),
    "a name with half of one": (rule(where=r'{▸"\ud83d": 1}'), "half of a character", "write the character itself"),
    "a path in a list": (rule(key="[user_id, ▸12]"), "this must be text, not 12", '"12" in quotes'),
    "a path twice": (rule(key="[ip, ▸ip]"), "here a second time", "remove"),
    "an empty key": (rule(key="▸[]"), "this list is empty", "at least one"),
    "a condition on no path": (rule(where="{▸a..b: 1}"), "'a..b' is not the path of a field", "product.name"),
    "a condition twice": (rule(where="{action: [add, 1, true, ▸add]}"), "here a second time", "remove"),
    "conditions as a list": (rule(where="▸[add]"), "names with values, not a list", None),
    "actions as text": (rule(actions="▸log"), "must be a list, not the text 'log'", "write [log]"),
    "a replication of 0": (rule() + "kafka: {replication_factor: ▸0}\n", "must be at least 1, not 0", None),
    "a replication beyond all clusters": (
        rule() + "kafka: {replication_factor: ▸99999999999}\n",
        "must be at most 1000",
        None,
    ),
    "partitions without end": (rule() + "topics: {products: {partitions: ▸100001}}\n", "at most 100000", None),
    "no partitions": (rule() + "topics: {products: {partitions: ▸0}}\n", "must be at least 1, not 0", None),
    "a broker without a port": (rule() + "kafka: {bootstrap_servers: ▸localhost}\n", "list of brokers", "host:port"),
    "a broker with a port too high": (
        rule() + "kafka: {bootstrap_servers: ▸a:65536}\n",
        "list of brokers",
        "host:port",
    ),
    "brokers with a space between": (
        rule() + "kafka: {bootstrap_servers: ▸a:1 b:2}\n",
        "number 1 in it is no host:port",
        "commas between",
    ),
    "a broker with the scheme of the web": (
        rule() + 'kafka: {bootstrap_servers: ▸"a:1,http://x:1"}\n',
        "number 2 in it is no host:port",
        "commas between",
    ),
    "a property that is code": (rule() + "kafka: {properties: {error_cb: ▸x}}\n", "'error_cb' is code", "remove"),
    "a property of ours in capitals": (
        rule() + "kafka: {properties: {Group.Id: ▸x}}\n",
        "'Group.Id' has a setting of its own",
        "consumer_group",
    ),
    "no directory": (rule() + 'state: {directory: ▸""}\n', "cannot be the directory", ".tua"),
    "the root as directory": (rule() + "state: {directory: ▸/}\n", "cannot be the directory", ".tua"),
    "the root by another name": (rule() + "state: {directory: ▸//tmp/..}\n", "cannot be the directory", ".tua"),
    "a directory with a NUL": (rule() + r'state: {directory: ▸"a\0b"}', "cannot be the directory", ".tua"),
    "a directory of nobody's": (rule() + "state: {directory: ▸~no such user/a}\n", "a name that is nobody's", ".tua"),
    "a file with a NUL": (rule() + r'state: {directory: {file: ▸"a\0b"}}', "not the path of a file", "text"),
    "a property of ours": (rule() + "kafka: {properties: {group.id: ▸x}}\n", "a setting of its own", "consumer_group"),
    "an event time in other words": (rule() + "topics: {products: {event_time: ▸now}}\n", "neither `record`", "{field"),
    "an event time without field": (
        rule() + "topics: {products: {▸event_time: {unit: s}}}\n",
        "'field' is missing",
        None,
    ),
    "an event time in days": (
        rule() + "topics: {products: {event_time: {field: at, unit: ▸d}}}\n",
        "'d' is not one of: ms, s, iso",
        None,
    ),
    "an event id as bare path": (rule() + "topics: {products: {event_id: ▸order_id}}\n", "neither `record`", "{field"),
    "a prefix that Kafka refuses": (
        rule() + "kafka: {topic_prefix: ▸a b}\n",
        "cannot be the name of a topic",
        "letters",
    ),
    "delays that end in 0": (
        rule() + "actions: {log: {type: log, retry: {delays: [1s, ▸0s]}}}\n",
        "longer than 0",
        "[0s, 5s]",
    ),
    "an action that sends nothing": (
        rule() + "actions: {log: {type: log, send: ▸[]}}\n",
        "this list is empty",
        "at least one",
    ),
    "an action that sends one thing twice": (
        rule() + "actions: {log: {type: log, send: [opened, ▸opened]}}\n",
        "here a second time",
        "remove",
    ),
    "a secret that is null": (
        rule() + "actions: {log: {type: log}, w: {type: webhook, url: https://x, secret: ▸null}}\n",
        "a value is missing",
        "{env: NAME}",
    ),
    "a secret that is left out": (
        rule() + "actions: {log: {type: log}, w: {type: webhook, url: https://x, secret:▸ }}\n",
        "a value is missing",
        "{env: NAME}",
    ),
    "a list of too few": (
        rule() + "actions: {log: {type: log}, m: {type: email, host: h, to: ▸[]}}\n",
        "list is empty",
        "at least one",
    ),
    "a list of enough with a mistake in it": (
        rule() + "actions: {log: {type: log}, m: {type: email, host: h, to: [▸1]}}\n",
        "this must be text, not 1",
        "quotes",
    ),
    "what an action's own model says": (
        rule() + "actions: {log: {type: log}, w: {type: webhook, url: ▸http://x}}\n",
        "the url must be https",
        "allow_insecure",
    ),
    # Templates
    "a template that cannot be read": (rule(message='▸"{{ count"'), "the template cannot be read", "Jinja2"),
    "a template with an unknown filter": (rule(message='▸"{{ count | uper }}"'), "No filter named 'uper'", "Jinja2"),
    "an empty message": (rule(message='▸" "'), "the message is empty", "write a text"),
    "a message that divides by nothing": (rule(message='▸"{{ count / 0 }}"'), "division by zero", "Jinja2"),
    "a message from a file": (rule(message="▸'{% include \"x\" %}'"), "no loader", "Jinja2"),
    "a message with a part of a text": (rule(message='▸"{{ opened_at.foo }}"'), "no attribute 'foo'", "Jinja2"),
    "a message with a range of a billion": (rule(message='▸"{{ range(10**9) | list }}"'), "Range too big", "Jinja2"),
    "a message with a billion letters": (rule(message="▸\"{{ 'a' * 10**9 }}\""), "too large for a message", "Jinja2"),
    "a message with a number without end": (rule(message='▸"{{ 9 ** (9 ** 9) }}"'), "too large", "Jinja2"),
    "a message that calls a number": (rule(message='▸"{{ count() }}"'), "'int' object is not callable", "Jinja2"),
    "a message with a part of the key": (rule(message='▸"{{ key[0] }}"'), "has no element 0", "Jinja2"),
    "an end that formats too much": (
        rule(resolved_message="""▸'{{ "%s" | format(count,1,2) }}'"""),
        "not all arguments converted",
        "Jinja2",
    ),
    "a template with an unknown variable": (
        rule(message='▸"{{ cuont }}"'),
        "variable 'cuont'",
        "did you mean 'count'?",
    ),
    "a template with another key": (
        rule(message="""▸"{{ key['product.nam'] }}" """),
        "key['product.nam'], which is not in the rule's key",
        "did you mean 'product.name'?",
    ),
    "a template with a key by its parts": (
        rule(resolved_message='▸"{{ key.product.name }}"'),
        "key['product']",
        "write key['product.name']",
    ),
}


@pytest.mark.parametrize(("text", "words", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_once_where_it_stands_with_the_way_to_mend_it(load_text, text, words, hint) -> None:
    text, places = marked(text)
    found = problems_of(load_text, text)
    assert [(problem.line, problem.column) for problem in found] == places, "\n".join(map(str, found))
    assert words in found[0].message
    assert found[0].hint is None if hint is None else hint in (found[0].hint or "")


def test_all_mistakes_of_a_file_come_at_once_in_its_order(load_text) -> None:
    text, places = marked("""
kafka: {▸consumer_grp: tua}
topics:
  products: {lateness: ▸10, partitions: ▸"2"}
rules:
  - name: hot
    topic: ▸product
    where: {action: ▸on}
    key: product.name
    count: {at_least: ▸0, within: ▸0s}
    severity: ▸warn
    message: ▸"{{ cuont }} {{ key.nam }}"
    actions: [▸lgo]
  - name: ▸hot
    topic: products
    key: user_id
    count: {▸at_laest: 5, within: 5s}
actions:
  log: {type: log, send: [▸open]}
  mail: {type: email, host: localhost, to: ▸a@example.com, password: ▸hunter2}
▸stat: {}
""")
    found = problems_of(load_text, text)
    assert sorted({(problem.line, problem.column) for problem in found}) == places
    assert [(problem.line, problem.column) for problem in found] == sorted(
        (problem.line, problem.column) for problem in found
    )
    assert len(found) == len(places) + 1  # the message has two mistakes in one place


def test_a_problem_prints_as_file_line_column_message_and_hint(load_text) -> None:
    with pytest.raises(ConfigError) as raised:
        load_text(rule(key="[]", severity="warn"))
    assert str(raised.value).splitlines() == [
        "tua.yaml:4:10: this list is empty (give at least one value)",
        "tua.yaml:7:15: 'warn' is not one of: info, warning, critical (did you mean 'warning'?)",
    ]


def test_what_a_problem_quotes_cannot_steer_the_terminal(load_text) -> None:
    [problem] = problems_of(load_text, rule(topic='"\\e[31m\\n"'))
    assert problem.message.isprintable()


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml:1:1: there is no such file \(.*--config"):
        load(tmp_path / "none.yaml", {})


def test_a_directory_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1:1: the file cannot be read"):
        load(tmp_path, {})


def test_bytes_that_are_not_utf_8_are_a_problem_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "tua.yaml"
    file.write_bytes("rules:\n  - name: ü".encode() + b"\xff\n")
    with pytest.raises(ConfigError, match=r"tua\.yaml:2:12: the file is not UTF-8 text here"):
        load(file, {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "tua.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + rule().encode())
    assert load(file, ACTION_TYPES).rules[0].name == "hot"
