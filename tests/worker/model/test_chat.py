"""Chat templates render as the models expect, and refuse in words."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import tiny_gguf

from woolly_worker.contract.errors import InvalidRequest
from woolly_worker.gguf.reader import GGUFFile
from woolly_worker.model.chat import ChatTemplate
from woolly_worker.model.tokenizer import Tokenizer

USER = [{"role": "user", "content": "Do sheep knit?"}]


def render(source: str, **options: object) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(USER, **options)  # type: ignore[arg-type]


def test_real_templates_render_as_recorded(shared_data: Path) -> None:
    folder = shared_data / "chat-templates"
    cases = json.loads((folder / "expected.json").read_text())
    assert len(cases) == 54
    for case in cases:
        template = ChatTemplate(
            (folder / case["template"]).read_bytes().decode(), bos_token=case["bos_token"], eos_token=case["eos_token"]
        )
        options = {
            "tools": case["tools"],
            "add_generation_prompt": case["add_generation_prompt"],
            "now": datetime.fromisoformat(case["now"]),
            **case["extra"],
        }
        if case["error"] is None:
            assert template.render(case["messages"], **options) == case["expected"]
        else:
            with pytest.raises(InvalidRequest) as caught:
                template.render(case["messages"], **options)
            assert case["error"].removeprefix("TemplateError: ") in caught.value.message


def test_inline_templates_render_as_recorded(shared_data: Path) -> None:
    cases = json.loads((shared_data / "chat-templates" / "inline-cases.json").read_text())
    agreed = [case for case in cases if case["python_jinja2_agrees"]]
    assert len(agreed) == 17
    for case in agreed:
        template = ChatTemplate(case["template"], bos_token=case["bos_token"], eos_token=case["eos_token"])
        assert template.render(case["messages"]) == case["expected"]


def test_the_template_of_a_file(tiny_model: Path) -> None:
    with GGUFFile(tiny_model) as file:
        tokenizer = Tokenizer.from_gguf(file)
        template = ChatTemplate.from_gguf(file, tokenizer)
    assert template is not None
    prompt = template.render(USER)
    assert prompt == "<|im_start|>user\nDo sheep knit?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode_chat(prompt)
    assert [tokenizer.token_text(i) for i in ids if tokenizer.is_control(i)] == [
        "<s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


def test_a_file_without_a_template(tmp_path: Path) -> None:
    with GGUFFile(tiny_gguf.write(tmp_path / "a.gguf", chat_template=None)) as file:
        assert ChatTemplate.from_gguf(file, Tokenizer.from_gguf(file)) is None


def test_what_a_template_can_see() -> None:
    assert render("{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}") == "<s>|</s>|True"
    assert render("{{ add_generation_prompt }}", add_generation_prompt=False) == "False"
    assert render("{{ mood }}", mood="woolly") == "woolly"
    assert render("{{ tools is none }}{{ messages[0].content }}") == "TrueDo sheep knit?"
    assert render("{{ strftime_now('%d %b %Y') }}", now=datetime(2026, 2, 1)) == "01 Feb 2026"


def test_json_keeps_letters_and_order() -> None:
    tools = [{"name": "zählen", "args": {"b": 1, "a": "<é>"}}]
    assert render("{{ tools | tojson }}", tools=tools) == '[{"name": "zählen", "args": {"b": 1, "a": "<é>"}}]'
    assert render("{{ tools[0].args | tojson(indent=2) }}", tools=tools) == '{\n  "b": 1,\n  "a": "<é>"\n}'


def test_blocks_are_trimmed_and_loops_controlled() -> None:
    source = "{% for n in range(9) %}\n    {% if n == 3 %}\n        {% break %}\n    {% endif %}\n{{ n }}\n{% endfor %}"
    assert render(source) == "0\n1\n2\n"
    assert render("{% generation %}baa{% endgeneration %}") == "baa"


def test_a_refusal_carries_the_words_of_the_template() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequest) as caught:
        render("{{ raise_exception('baa' * 1000) }}")
    assert len(caught.value.message) < 600


def test_a_broken_template_is_told_when_a_chat_comes() -> None:
    template = ChatTemplate("{% for %}", bos_token="", eos_token="")
    assert template.problem is not None
    assert "line 1" in template.problem
    with pytest.raises(InvalidRequest, match="is broken"):
        template.render(USER)


def test_errors_do_not_quote_the_messages() -> None:
    with pytest.raises(InvalidRequest) as caught:
        render("{{ messages[0].content | int / 0 }}")
    assert "sheep" not in caught.value.message
    assert "ZeroDivisionError" in caught.value.message


def test_variables_of_our_own_cannot_be_replaced() -> None:
    with pytest.raises(InvalidRequest, match="'bos_token' cannot be given") as caught:
        render("{{ bos_token }}", bos_token="x")
    assert caught.value.param == "bos_token"


def test_messages_are_not_changed_by_the_template() -> None:
    with pytest.raises(InvalidRequest, match="unsafe"):
        render("{{ messages.append(1) }}")
    assert len(USER) == 1
