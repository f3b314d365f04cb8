from pathlib import Path

import pytest
from pydantic import SecretStr

from settings import ConfigError, Secret, SecretError, Settings, load
from tests.support.configuration import ACTION_TYPES

RULE = """
rules:
  - name: hot
    topic: products
    key: product.name
    count: {at_least: 20, within: 5s}
    actions: [mail]
"""
MAIL = """
actions:
  mail:
    type: email
    host: localhost
    to: [support@example.com]
"""


def mail_of(settings: Settings):
    return settings.actions["mail"]


def message_of(load_text, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_text(text)
    [problem] = raised.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("setting", "text", "attribute", "value"),
    [
        ("port: {env: X}", "1025", "port", 1025),
        ("host: {env: X}", "1025", "host", "1025"),
        ("host: {env: X}", "true", "host", "true"),
        ("tls: {env: X}", "none", "tls", "none"),
        ("to: [{env: X}]", "a@example.com", "to", ("a@example.com",)),
        ("send: [opened, {env: X}]", "updated", "send", ("opened", "updated")),
    ],
)
def test_a_variable_becomes_what_the_setting_needs(load_text, monkeypatch, setting, text, attribute, value) -> None:
    monkeypatch.setenv("X", text)
    name = setting.partition(":")[0]
    mail = "\n".join(line for line in MAIL.splitlines() if not line.strip().startswith(name)) + f"\n    {setting}\n"
    assert getattr(mail_of(load_text(RULE + mail)), attribute) == value


@pytest.mark.parametrize(
    ("section", "read", "value"),
    [
        ("state: {retention: {env: X}}", lambda s: s.state.retention_ms, 7_200_000),
        ("topics: {products: {lateness: {env: X}}}", lambda s: s.topics["products"].lateness_ms, 7_200_000),
        ("state: {directory: {env: X}}", lambda s: s.state.directory, Path("2h")),
        ("kafka: {properties: {a: {env: X}}}", lambda s: s.kafka.client_properties()["a"], "2h"),
    ],
)
def test_a_reference_may_stand_for_any_scalar(load_text, monkeypatch, section, read, value) -> None:
    monkeypatch.setenv("X", "2h")
    assert read(load_text(RULE + MAIL + section + "\n")) == value


def test_a_rule_may_refer_to_its_parts_too(load_text, monkeypatch) -> None:
    monkeypatch.setenv("X", "products")
    monkeypatch.setenv("YY", "mail")
    monkeypatch.setenv("NN", "3")
    text = (
        RULE.replace("topic: products", "topic: {env: X}").replace("[mail]", "[{env: YY}]").replace("20", "{env: NN}")
    )
    rule = load_text(text + MAIL).rules[0]
    assert (rule.topic, rule.actions, rule.count.threshold) == ("products", ("mail",), 3)


def test_a_condition_takes_a_reference_as_text_but_a_field_called_env_is_a_field(load_text, monkeypatch) -> None:
    monkeypatch.setenv("X", "17")
    rule = load_text(RULE + "    where: {action: {env: X}}\n" + MAIL).rules[0]
    assert rule.where == {"action": ("17",)}
    for where in ("{env: X}", "{env: X, default: b}", "{file: X}"):
        names = [part.partition(":")[0] for part in where.strip("{}").split(", ")]
        assert list(load_text(RULE + f"    where: {where}\n" + MAIL).rules[0].where) == names


def test_without_the_variable_the_default_counts_with_the_type_it_is_written_in(load_text, monkeypatch) -> None:
    monkeypatch.delenv("X", raising=False)
    assert mail_of(load_text(RULE + MAIL + "    port: {env: X, default: 1025}\n")).port == 1025
    monkeypatch.setenv("X", "")  # compose files pass on what is not set as empty
    assert mail_of(load_text(RULE + MAIL + "    port: {env: X, default: 1025}\n")).port == 1025
    assert message_of(load_text, RULE + MAIL + '    port: {env: X, default: "1025"}\n') == (
        "tua.yaml:14:29: this must be a whole number, not the text '1025' (without quotes)"
    )
    assert "'012' is read as different numbers" in message_of(
        load_text, RULE + MAIL + "    port: {env: X, default: 012}\n"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "port: {env: X}",
            "14:11: the environment variable X is not set, or empty (set it, or give a default: {env: X, default: …})",
        ),
        ("port: {env: $X}", "14:17: '$X' is not replaced by the value of a variable"),
        ('port: {env: "a b"}', "14:17: this is not the name of an environment variable (the bare name"),
        ("type: {env: X}", "14:11: the environment variable X is not set"),
        ("password: {env: $X}", "14:21: '$X' is not replaced by the value of a variable"),
        (
            "port: {env: X, defualt: 1}",
            "14:11: this must be a whole number, not names with values (a reference is {env:",
        ),
        ("port: {file: none}", "14:11: the file none cannot be read: No such file or directory"),
        ("password: {env: X, file: y}", "14:15: this is no reference to a secret (write {env: NAME} to take it from"),
        ("password: {env: [a]}", "14:15: this is no reference to a secret (write {env: NAME} to take it from"),
    ],
)
def test_a_reference_to_nothing_says_so_where_it_stands(load_text, monkeypatch, setting, message) -> None:
    monkeypatch.delenv("X", raising=False)
    mail = MAIL.replace("    type: email\n", "    # the type is below\n") if setting.startswith("type") else MAIL
    assert message_of(load_text, RULE + mail + f"    {setting}\n").startswith("tua.yaml:" + message)


def test_a_wrong_value_from_elsewhere_names_where_it_comes_from_and_not_the_value(load_text, monkeypatch) -> None:
    monkeypatch.setenv("X", "hunter2")
    for setting, words in (("port", "a whole number"), ("tls", "one of: starttls, implicit, none")):
        assert message_of(load_text, RULE + MAIL + f"    {setting}: {{env: X}}\n") == (
            f"tua.yaml:14:{len(setting) + 7}: this must be {words}; the value comes from the environment variable X"
        )


def test_a_number_in_the_environment_is_judged_like_one_in_the_file(load_text, monkeypatch) -> None:
    for text, words in (("0", "must be at least 1"), ("012", "must be a whole number"), ("12.0", "a whole number")):
        monkeypatch.setenv("X", text)
        assert words in message_of(load_text, RULE + MAIL + "    port: {env: X}\n")


def test_a_file_is_read_beside_the_configuration_without_the_end_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("mail.example.com\n")
    (tmp_path / "password").write_text(" hunter2 \r\n")
    (tmp_path / "tua.yaml").write_text(
        RULE + MAIL.replace("localhost", "{file: host}") + "    password: {file: password}\n"
    )
    mail = mail_of(load(tmp_path / "tua.yaml", ACTION_TYPES))
    assert mail.host == "mail.example.com"
    assert mail.password.resolve() == SecretStr(" hunter2 ")


def test_the_brokers_of_the_environment_win(load_text, monkeypatch) -> None:
    text = RULE + MAIL + "kafka: {bootstrap_servers: one:9092}\n"
    assert load_text(text).kafka.bootstrap_servers == "one:9092"
    monkeypatch.setenv("TUA_BOOTSTRAP_SERVERS", "two:9092, three:9093")
    assert load_text(text).kafka.bootstrap_servers == "two:9092,three:9093"
    assert load_text(RULE + MAIL).kafka.bootstrap_servers == "two:9092,three:9093"
    monkeypatch.setenv("TUA_BOOTSTRAP_SERVERS", "two")
    assert "from the environment variable TUA_BOOTSTRAP_SERVERS" in message_of(load_text, text)


SECRETS = (
    RULE
    + MAIL
    + """
    password: {env: A}
  hook:
    type: webhook
    url: {env: U}
    secret: [{env: B}, {file: c}]
kafka: {properties: {sasl.password: {env: D}, security.protocol: SASL_SSL, socket.timeout.ms: 100, a: true}}
"""
)


def test_a_secret_is_not_resolved_when_the_configuration_is_loaded(load_text, monkeypatch) -> None:
    for name in "ABDU":
        monkeypatch.delenv(name, raising=False)
    settings = load_text(SECRETS)  # no variable is set and the file c is not there
    assert mail_of(settings).password.resolve() is None
    assert settings.actions["hook"].url.resolve() is None
    with pytest.raises(SecretError, match=r"sasl.password: the environment variable D is not set"):
        settings.kafka.client_properties()
    with pytest.raises(SecretError, match="the file c cannot be read"):
        settings.actions["hook"].secret[1].resolve()


def test_librdkafka_gets_its_properties_as_text_with_the_secrets(load_text, monkeypatch) -> None:
    monkeypatch.setenv("D", "hunter-d")
    assert load_text(SECRETS).kafka.client_properties() == {
        "bootstrap.servers": "localhost:29092,localhost:39092",
        "sasl.password": "hunter-d",
        "security.protocol": "SASL_SSL",
        "socket.timeout.ms": "100",
        "a": "true",
    }


def test_a_value_of_a_secret_is_in_nothing_that_is_printed(load_text, monkeypatch) -> None:
    for name in "ABDU":
        monkeypatch.setenv(name, f"hunter-{name}")
    Path("c").write_text("hunter-c")
    settings = load_text(SECRETS)
    secret = mail_of(settings).password
    resolved = [secret.resolve(), settings.actions["hook"].secret[1].resolve()]
    printed = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), repr(secret)]
    assert [value.get_secret_value() for value in resolved] == ["hunter-A", "hunter-c"]
    assert "hunter" not in " ".join([*printed, str(secret), str(vars(secret)), str(resolved)])


@pytest.mark.parametrize(
    "setting",
    [
        "    password: hunter2\n",
        "    password: 012\n",
        "    password: yes\n",
        "    pasword: hunter2\n",
        "    password: [hunter2]\n",
        "    password: {env: hunter2 hunter2}\n",
        "    password: {hunter2: hunter2}\n",
        "    port: {env: X, default: hunter2}\n    password: hunter2\n",
        "  hook: {type: webhook, url: https://x, secret: hunter2}\n",
        "  hook: {type: webhook, url: https://x, secret: [{env: B}, hunter2]}\n",
        "  hook: {type: webhook, url: [hunter2]}\n",
        "  hook: {type: webhook, url: http://example.com/hunter2}\n",
        "kafka: {properties: {sasl.password: hunter2}}\n",
        "kafka: {properties: {SASL.PASSWORD: hunter2}}\n",
        "kafka: {properties: {sasl.jaas.config: 'x password=hunter2'}}\n",
        "kafka: {properties: {ssl.key.password: 012}}\n",
        "kafka: {properties: {sasl.oauthbearer.client.secret: [hunter2]}}\n",
        "kafka: {properties: {ssl.key.pem: hunter2}}\n",
        "kafka: {bootstrap_servers: hunter2}\n",
    ],
)
def test_a_secret_in_the_file_is_an_error_that_does_not_repeat_it(load_text, monkeypatch, setting) -> None:
    monkeypatch.setenv("X", "hunter2")
    with pytest.raises(ConfigError) as raised:
        load_text(RULE + MAIL + setting)
    said = str(raised.value) + repr(raised.value.problems)
    assert "hunter2" not in said
    assert "012" not in said
    assert "yes" not in said


def test_a_literal_secret_is_told_how_to_be_written(load_text) -> None:
    assert message_of(load_text, RULE + MAIL + "    password: hunter2\n") == (
        "tua.yaml:14:15: a secret must not stand in the configuration"
        " (write {env: NAME} to take it from the environment, or {file: path} to read it from a file)"
    )


def test_a_default_of_null_is_none(load_text) -> None:
    assert mail_of(load_text(RULE + MAIL + "    password: {env: A, default: null}\n")).password == Secret(env="A")


def test_a_file_that_holds_no_secret_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    for file, words in ((empty, "is empty"), (binary, "is not UTF-8 text"), (tmp_path, "cannot be read")):
        with pytest.raises(SecretError, match=f"the file {file} {words}"):
            Secret(file=file).resolve()
