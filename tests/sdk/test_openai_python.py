# SPDX-License-Identifier: Apache-2.0
import json

import openai
import pytest

# A conversation that the model answers with the same words at any precision.
CHAT = [{"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"}]


@pytest.fixture
def client(chat_cluster):
    return openai.OpenAI(base_url=chat_cluster.endpoint + "/v1", api_key="unused", max_retries=0)


def test_chat(client):
    r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=0,
                                       max_tokens=40)
    assert "Ada" in r.choices[0].message.content
    assert r.choices[0].finish_reason == "stop"
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_streamed_chat_equals_the_whole(client):
    whole = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=0,
                                           max_tokens=40).choices[0].message.content
    text, reasons, usage = "", [], None
    for chunk in client.chat.completions.create(
            model="smollm2", messages=CHAT, temperature=0, max_tokens=40, stream=True,
            stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    assert text == whole and reasons == ["stop"]
    assert usage.completion_tokens > 0


def test_tools_may_be_offered(client):
    tools = [{"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
    r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=0,
                                       max_tokens=40, tools=tools)
    message = r.choices[0].message
    assert message.content or message.tool_calls
    assert (r.choices[0].finish_reason == "tool_calls") == bool(message.tool_calls)


def test_logprobs_and_choices(client):
    r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=0,
                                       max_tokens=5, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == 5
    for t in content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3
        assert t.top_logprobs[0].token == t.token
    r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=1, seed=5,
                                       n=3, max_tokens=12)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert len({c.message.content for c in r.choices}) > 1


def test_completions_and_models(client):
    r = client.completions.create(model="smollm2", prompt="The capital of France is",
                                  temperature=0, max_tokens=5)
    assert r.choices[0].text and r.usage.completion_tokens == 5
    assert "smollm2" in [m.id for m in client.models.list()]


def test_errors_are_the_sdks_own(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=CHAT)
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="smollm2", messages=CHAT, temperature=9)
    assert e.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "long " * 50000}])
    assert e.value.code == "context_length_exceeded"


def test_parsed_answers(client):
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=20)
        age: int = pydantic.Field(ge=0, le=120)
        tags: list[str] = pydantic.Field(max_length=2)

    for temperature in (0, 1):
        try:
            r = client.chat.completions.parse(
                model="smollm2", messages=CHAT, response_format=Person, temperature=temperature,
                frequency_penalty=0.5, seed=1, max_tokens=400)
        except openai.LengthFinishReasonError:
            continue  # a tag may be as long as it likes
        assert isinstance(r.choices[0].message.parsed, Person)
    r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=1, seed=2,
                                       max_tokens=20, extra_body={"guided_choice": ["Ada", "Bob"]})
    assert r.choices[0].message.content in ("Ada", "Bob")
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(
            model="smollm2", messages=CHAT, response_format={
                "type": "json_schema", "json_schema": {
                    "name": "x", "schema": {"type": "array", "unevaluatedItems": False}}})
    assert e.value.code == "invalid_json_schema" and "unevaluatedItems" in str(e.value)


def test_a_tool_may_be_required(client):
    tools = [{"type": "function", "function": {
        "name": "get_weather", "strict": True, "parameters": {
            "type": "object", "required": ["unit", "days"], "additionalProperties": False,
            "properties": {"unit": {"enum": ["C", "F"]},
                           "days": {"type": "integer", "minimum": 1, "maximum": 7}}}}},
        {"type": "function", "function": {"name": "stop", "parameters": {
            "type": "object", "properties": {}, "additionalProperties": False}}}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(10):
        for choice in ("required", named):
            r = client.chat.completions.create(model="smollm2", messages=CHAT, temperature=1,
                                               seed=seed, max_tokens=200, tools=tools,
                                               tool_choice=choice, parallel_tool_calls=False)
            assert r.choices[0].finish_reason == "tool_calls"
            (call,) = r.choices[0].message.tool_calls
            args = json.loads(call.function.arguments)
            if choice is named:
                assert call.function.name == "get_weather"
            if call.function.name == "get_weather":
                assert args["unit"] in ("C", "F") and 1 <= args["days"] <= 7
            else:
                assert call.function.name == "stop" and args == {}
    with client.chat.completions.stream(model="smollm2", messages=CHAT, temperature=1, seed=3,
                                        max_tokens=200, tools=tools, tool_choice=named) as s:
        final = s.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"
