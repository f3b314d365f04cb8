import pytest

from settings.templates import MAX_BYTES, VARIABLES, compile_template, template_mistakes, trial


def test_a_template_is_rendered_with_its_values() -> None:
    template = compile_template("Product '{{ key['product.name'] }}' was ordered {{ count }} times within {{ window }}")
    assert template.render({"key": {"product.name": "Nokia"}, "count": 20, "window": "5 seconds"}) == (
        "Product 'Nokia' was ordered 20 times within 5 seconds"
    )


def test_what_comes_from_an_event_is_never_a_template() -> None:
    assert compile_template("{{ rule }}").render({"rule": "{{ 7 * 7 }}"}) == "{{ 7 * 7 }}"


def test_a_rendering_ends_at_4_kb_with_a_mark_and_whole_characters() -> None:
    text = compile_template("{{ rule }}").render({"rule": "é" * 5000})
    assert len(text.encode()) in (MAX_BYTES - 1, MAX_BYTES)
    assert text == "é" * (len(text) - 1) + "…"


def test_4_kb_exactly_are_not_cut() -> None:
    assert compile_template("{{ rule }}").render({"rule": "a" * MAX_BYTES}) == "a" * MAX_BYTES


def test_a_loop_without_an_end_is_cut_while_it_runs() -> None:
    looked_at = []

    def endless():
        while len(looked_at) < 100_000:  # so that this test ends, too, when it fails
            looked_at.append(None)
            yield "hot "

    text = compile_template("{% for word in key %}{{ word }}{% endfor %}").render({"key": endless()})
    assert text.startswith("hot hot ")
    assert len(looked_at) <= MAX_BYTES / len("hot ") + 2


@pytest.mark.parametrize(
    "text",
    [
        "{{ nobody }}",
        "{{ key['a'].b }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ key.update({}) }}",
        "{{ 1 / 0 }}",
        "{{ count + 'a' }}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_whatever_fails_in_a_rendering_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="the template failed: "):
        compile_template(text).render({"key": {"a": 1}, "count": 20})


def test_half_a_surrogate_pair_in_an_event_can_still_be_sent() -> None:
    assert compile_template("{{ rule }}").render({"rule": "a\ud83d"}) == "a?"


def test_a_syntax_error_names_the_line_of_a_text_of_several() -> None:
    with pytest.raises(ValueError, match="the template cannot be read in its line 2: "):
        compile_template("a\n{% if %}")
    with pytest.raises(ValueError, match=r"the template cannot be read: No filter named 'uper'$"):
        compile_template("{{ a | uper }}")


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_every_documented_variable_may_be_used(name: str) -> None:
    assert template_mistakes(compile_template(f"{{{{ {name} }}}}"), ("user_id",)) == ()


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("{{ key['product.name'] }} {{ key.user_id }} {{ key.values() | join }}", []),
        ("{% set total = count %}{{ total }}{% for k in key %}{{ key[k] }}{% endfor %}", []),
        ("{% for key in [{'a': 1}] %}{{ key['a'] }}{% endfor %}", []),
        ("{{ cuont }}", [("the message uses an unknown variable 'cuont'", "did you mean 'count'?")]),
        (
            "{{ key['user'] }}",
            [("the message uses key['user'], which is not in the rule's key", "did you mean 'user_id'?")],
        ),
        (
            "{{ key['product']['name'] }}{{ key.product.name }}",
            [
                (
                    "the message uses key['product'], which is not in the rule's key",
                    "write key['product.name']: a path is one name in the message",
                )
            ],
        ),
    ],
)
def test_what_a_template_asks_for_is_compared_with_the_rule(text: str, mistakes: list[tuple[str, str]]) -> None:
    assert list(template_mistakes(compile_template(text), ("product.name", "user_id"))) == mistakes


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"{{{{ {name} }}}}" for name in sorted(VARIABLES)),
        "{{ 1 // (count - 20) }}",
        "{{ 1 // (count - 23) }}",
        "{{ 1 // (count % 2) }}{{ 100 // (peak - threshold) }}",
        "{{ key.ip.split('.')[3] }} {{ key.user.upper() }}",
        "{{ key.ip + 1 }} {{ '%05d' % key.user }}",
        "{{ key.ip.split('/')[1] }} {{ key.user * 2 + 1 }}",
        "{{ {'17': 'Nokia', '18': 'iPhone'}[key.ip] }} {{ {1: 'a'}[key.user] }}",
        "{{ opened_at[11:19] }} {{ duration.split(' ')[1] }} {{ '*' * count }} {{ 2 ** 10 * 1.5 }}",
    ],
)
def test_a_template_that_works_for_some_alert_passes_the_trial(text: str) -> None:
    assert trial(compile_template(text), ("ip", "user"), 20, 5_000) is None


HUGE = {
    "loops in loops": "{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}",
    "loops over texts": "{% for a in key.ip %}{% for b in key.ip * 20 %}{% endfor %}{% endfor %}",
    "calls that call": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "a wide filter": "{{ 'x' | center(2000000000) }}",
    "a wide method": "{{ 'x'.ljust(2000000000) }}",
    "a wide indent": "{{ 'x' | tojson(indent=2000000000) }}",
    "many empty batches": "{{ [1] | slice(2000000000) | list }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide format by a filter": "{{ '%1000000000d' | format(1) }}",
    "a wide format by a method": "{{ '{:1000000000}'.format(1) }}",
    "a width that is worked out": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "a width from a star": "{{ '%*d' % (1000000000, 1) }}",
    "a text that doubles": "{% set a = 'x' * 8000 %}" + "{% set a = a ~ a %}" * 20 + "{{ a }}",
    "a sum that doubles": "{% set a = 'x' * 8000 %}" + "{% set a = a + a %}" * 20 + "{{ a }}",
    "a number that squares": "{% set a = 9 ** 999 %}" + "{% set a = a * a %}" * 20 + "{{ a }}",
    "bytes of a number": "{{ (1).to_bytes(2000000000) }}",
    "replacing each by many": "{{ ('x' * 8000).replace('x', 'y' * 8000) }}",
    "replacing each by many, by a filter": "{{ ('x' * 8000) | replace('x', 'y' * 8000) }}",
    "joining many": "{{ (['x' * 8000] * 8000) | join }}",
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_what_would_take_all_time_or_memory_is_refused_at_once(text: str) -> None:
    assert "OverflowError" in (trial(compile_template(text), ("ip",), 20, 5_000) or "")


def test_what_is_of_usual_size_is_not_refused() -> None:
    text = "{% for i in range(99) %}{{ ('x' ~ i).ljust(14) | indent(2) | center(20) }}{% endfor %}{{ '%05.1f' % 3 }}"
    assert trial(compile_template(text), ("ip",), 20, 5_000) is None
    long = compile_template("{{ key['ip'] | upper }} {{ key.values() | join(', ') }}")
    assert long.render({"key": {"ip": "a" * 1_000_000}}).startswith("AAA")


def test_html_has_every_value_escaped_and_what_the_template_says_itself_is_not() -> None:
    template = compile_template("<b>{{ rule }}</b>{{ '<i>' }}", html=True)
    assert template.render({"rule": "<script> & \"'"}) == "<b>&lt;script&gt; &amp; &#34;&#39;</b>&lt;i&gt;"
    assert compile_template("<b>{{ rule }}</b>").render({"rule": "<"}) == "<b><</b>"


@pytest.mark.parametrize(
    "text",
    [
        "{{ rule | safe }}",
        "{% filter safe %}{{ rule }}{% endfilter %}",
        "a\n{% autoescape false %}{{ rule }}{% endautoescape %}",
    ],
)
def test_html_has_no_way_to_a_value_that_is_not_escaped(text: str) -> None:
    with pytest.raises(ValueError, match="what came with an event is always escaped"):
        compile_template(text, html=True)


def test_nor_by_the_name_of_a_filter() -> None:
    with pytest.raises(ValueError, match="No filter named 'safe'"):
        compile_template("{{ [rule] | map('safe') | first }}", html=True).render({"rule": "<"})


def test_the_bound_is_the_templates_own() -> None:
    assert compile_template("{{ 'a' * 10000 }}", max_bytes=20_000).render({}) == "a" * 10_000
    assert len(compile_template("{{ 'a' * 30000 }}", max_bytes=20_000).render({}).encode()) == 20_000
    with pytest.raises(ValueError, match="too large"):
        compile_template("{{ 'a' * 10000 }}").render({})


def test_what_must_be_whole_fails_where_it_would_be_cut() -> None:
    template = compile_template("{{ rule }}")
    assert template.render({"rule": "a" * MAX_BYTES}, whole=True) == "a" * MAX_BYTES
    with pytest.raises(ValueError, match="the template failed: it makes more than 4 kB"):
        template.render({"rule": "a" * (MAX_BYTES + 1)}, whole=True)
