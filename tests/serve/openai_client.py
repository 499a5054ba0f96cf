"""OpenAI's own Python client against three servers: openai_client.py URL FREE_URL CLOSED_URL KEY.
The second has no guard (a question too long for its model is an error), the third wants the key.

Prints "ok" and exits with 0 if the client understands everything it gets, answers and errors."""

import sys

import openai

url, free_url, closed_url, key = sys.argv[1:]
question = [{"role": "user", "content": "Wo kann ich mich ummelden?"}]


def client_of(base_url, api_key):
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=api_key, max_retries=0)


client = client_of(url, "not-needed")
assert [model.id for model in client.models.list()] == ["muni"]
assert client.models.retrieve("muni").owned_by == "muni-engine"

plain = client.chat.completions.create(model="muni", messages=question, seed=1, max_tokens=40)
choice = plain.choices[0]
assert choice.message.role == "assistant" and choice.message.content, plain
assert choice.finish_reason in ("stop", "length"), plain
assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
assert plain.muni["office"]["id"] == "einwohnermeldeamt", plain.muni

raw = client.chat.completions.with_raw_response.create(model="muni", messages=question)
assert raw.headers["x-ai-generated"] == "true"

text, finish, usage, about = "", None, None, None
stream = client.chat.completions.create(
    model="muni", messages=question, seed=1, max_tokens=40, stream=True, stream_options={"include_usage": True}
)
for chunk in stream:
    about = getattr(chunk, "muni", None) or about
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
assert plain.choices[0].message.content in text, (plain.choices[0].message.content, text)
assert finish in ("stop", "length") and usage.completion_tokens > 0
assert about["verdict"] in ("passed", "replaced"), about

completion = client.completions.create(model="muni", prompt="Frage: Wo kann ich mich ummelden?\nAntwort:", max_tokens=20)
assert completion.choices[0].text and completion.object == "text_completion"
pieces = client.completions.create(model="muni", prompt="Wo kann ich mich ummelden?", max_tokens=20, stream=True)
assert "".join(piece.choices[0].text for piece in pieces)


def refused(error, call, **arguments):
    arguments = {"model": "muni", "messages": question} | arguments
    try:
        call.chat.completions.create(**arguments)
    except error as caught:
        assert caught.body["message"], caught
        return caught
    raise AssertionError(f"no {error.__name__} for {arguments}")


assert refused(openai.NotFoundError, client, model="gpt-4o").code == "model_not_found"
assert refused(openai.BadRequestError, client, temperature=3).param == "temperature"
assert refused(openai.BadRequestError, client, n=2).param == "n"
assert refused(openai.BadRequestError, client, messages=[]).param == "messages"
long = [{"role": "user", "content": "Wo kann ich mich ummelden? " * 200}]
known = client.chat.completions.create(model="muni", messages=long)
assert known.muni["verdict"] == "knowledge" and known.choices[0].message.content, known
free = client_of(free_url, "not-needed")
assert refused(openai.BadRequestError, free, messages=long).code == "context_length_exceeded"
wrong = client_of(closed_url, "wrong-key-0123456789")
assert refused(openai.AuthenticationError, wrong).code == "invalid_api_key"
assert client_of(closed_url, key).chat.completions.create(model="muni", messages=question).choices[0].message.content
print("ok")
