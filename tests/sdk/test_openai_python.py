# SPDX-License-Identifier: Apache-2.0
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
