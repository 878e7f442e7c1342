"""Chat templates are rendered as transformers renders them, in a sandbox, and refuse in one line."""

import pytest

from edgepress.runtime.chat import render
from edgepress.runtime.errors import UsageError

from .tiny_decoders import CHAT

HELLO = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": 'Hi "there"\n{{ 7 * 7 }}'}]
# What real templates use: whitespace control, loop controls, macros, JSON, the begin of the text.
LONG = """{{- bos_token }}
{%- macro said(m) %}{{ m['role'] }}={{ m['content'] | tojson }}{% endmacro %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- continue %}
    {%- endif %}
    {% if loop.last %}
{{ said(message) }} {{ messages | length }}
    {% endif %}
{%- endfor %}
{{ "é😀" | tojson }}
{%- if add_generation_prompt %}[ANSWER]{% endif %}"""


@pytest.mark.parametrize("template", [CHAT, LONG])
def test_a_conversation_is_what_transformers_makes_of_it(template: str):
    from transformers.utils.chat_template_utils import render_jinja_template

    (expected,), _ = render_jinja_template(
        conversations=[HELLO], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert render(template, HELLO, bos="<s>", eos="</s>") == expected


def test_a_template_may_refuse_messages():
    with pytest.raises(UsageError, match="the model's chat template refuses these messages: no system role"):
        render("{{ raise_exception('no system\nrole') }}", HELLO)


def test_a_template_may_ask_for_the_date():
    assert len(render("{{ strftime_now('%Y') }}", HELLO)) == 4


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ messages[7].role.x }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include 'other' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10000000) | list }}",
        "{{ 'a'.x.y }}",
        "{{ undefined_function() }}",
    ],
)
def test_a_template_that_is_broken_or_made_to_harm_is_one_line(template: str):
    with pytest.raises(UsageError, match="the model's chat template cannot be used: ") as error:
        render(template, HELLO)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("messages", [[], "hello", {"role": "user", "content": "x"}])
def test_messages_are_a_list(messages):
    with pytest.raises(UsageError, match="messages is no list of messages; expected"):
        render(CHAT, messages)


@pytest.mark.parametrize("message", ["hi", {"role": "user"}, {"role": "user", "content": None}, {"content": "x"}])
def test_a_message_has_a_role_and_a_content(message):
    with pytest.raises(UsageError, match=r"message 1 is .*; expected \{'role': 'user', "):
        render(CHAT, [HELLO[0], message])
