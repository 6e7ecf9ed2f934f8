"""Anthropic's Python client: an answer, thinking streamed, a tool runner, counts and errors."""
import os

import anthropic
from anthropic import beta_tool
from pydantic import BaseModel

client = anthropic.Anthropic(base_url=os.environ["TANDEM_URL"], api_key=os.environ["TANDEM_KEY"])
model = os.environ["TANDEM_MODEL"]
question = [{"role": "user", "content": "plain-question"}]

# Without `thinking` the first block is the answer, as in every quick start.
message = client.messages.create(model=model, max_tokens=1000, messages=question)
assert message.content[0].text == "plain-answer", message
assert message.stop_reason == "end_turn", message
assert message.usage.output_tokens > 0, message

events = []
with client.messages.stream(model=model, max_tokens=1000, messages=question,
                            thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
    for event in stream:
        events.append(event.type)
    final = stream.get_final_message()
assert [block.type for block in final.content] == ["thinking", "text"], final
assert final.content[0].thinking == "Hm." and final.content[0].signature, final
assert {"thinking", "signature", "text", "message_stop"} <= set(events), events

counted = client.messages.count_tokens(model=model, messages=question)
usage = message.usage
assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, (counted, usage)

asked = []


@beta_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    asked.append(city)
    return "Sunny"


for streamed in (False, True):
    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=1000, tools=[get_weather], stream=streamed,
        messages=[{"role": "user", "content": "tool-question"}])
    if streamed:
        for turn in runner:
            final = turn.get_final_message()
    else:
        final = runner.until_done()
    assert final.content[0].text == "It is sunny in Paris.", final
assert asked == ["Paris", "Paris"], asked



class Answer(BaseModel):
    city: str
    n: int


parsed = client.messages.parse(model=model, max_tokens=1000, output_format=Answer,
                               messages=[{"role": "user", "content": "schema-question"}])
assert parsed.parsed_output == Answer(city="Paris", n=1), parsed

try:
    client.messages.create(model="no-such-model", max_tokens=10, messages=question)
    raise AssertionError("no error for an unknown model")
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body
try:
    client.messages.create(model=model, max_tokens=10, messages=[])
    raise AssertionError("no error for no messages")
except anthropic.BadRequestError as error:
    assert "messages" in error.body["error"]["message"], error.body
print("models:", [entry.id for entry in client.models.list()])
