"""OpenAI's Python client on /v1/responses, streamed and not, tools, structured output, /v1/completions, Heavy Mode."""
import os

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["TANDEM_BASE_URL"], api_key=os.environ["TANDEM_KEY"])
model = os.environ["TANDEM_MODEL"]

response = client.responses.create(model=model, input="plain-question", instructions="Be brief.")
assert response.output_text == "plain-answer", response
assert response.status == "completed" and response.usage.total_tokens > 0, response
assert response.output[0].type == "reasoning", response

kinds = []
with client.responses.stream(model=model, input="plain-question") as stream:
    for event in stream:
        kinds.append(event.type)
    final = stream.get_final_response()
assert final.output_text == "plain-answer", final
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
assert "response.output_text.delta" in kinds and "response.reasoning_text.delta" in kinds, kinds

tools = [{"type": "function", "name": "get_weather", "strict": False, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]
history = [{"role": "user", "content": "tool-question"}]
with client.responses.stream(model=model, input=history, tools=tools) as stream:
    for _ in stream:
        pass
    turn = stream.get_final_response()
call = turn.output[-1]
assert (call.type, call.name) == ("function_call", "get_weather"), turn
assert call.arguments == '{"city": "Paris"}' and call.call_id == "functions.get_weather:0", call
history += [item.model_dump(exclude_none=True) for item in turn.output]
history.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"})
answer = client.responses.create(model=model, input=history, tools=tools)
assert answer.output_text == "It is sunny in Paris.", answer



class Answer(BaseModel):
    city: str
    n: int


parsed = client.responses.parse(model=model, input="schema-question", text_format=Answer)
assert parsed.output_parsed == Answer(city="Paris", n=1), parsed
chat = client.chat.completions.parse(
    model=model, messages=[{"role": "user", "content": "schema-question"}], response_format=Answer)
assert chat.choices[0].message.parsed == Answer(city="Paris", n=1), chat
demanded = client.responses.create(model=model, input="tool-question", tools=tools, tool_choice="required")
assert demanded.output[-1].name == "get_weather", demanded

try:
    client.responses.create(model=model, input="x", previous_response_id="resp_1")
    raise AssertionError("a stored response was found where nothing is stored")
except openai.BadRequestError as error:
    assert error.param == "previous_response_id", error.body

text = client.completions.create(model=model, prompt="Say hi there", echo=True, logprobs=1, max_tokens=2)
logprobs = text.choices[0].logprobs
assert text.choices[0].text.startswith("Say hi there"), text
assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[1], logprobs
assert len(logprobs.tokens) == text.usage.total_tokens, text
pieces = [chunk.choices[0].text for chunk in client.completions.create(
    model=model, prompt=["plain-question"], max_tokens=50, stream=True)]
assert "".join(pieces) == "<think>Hm.</think>plain-answer", pieces

heavy = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "plain-question"}],
    extra_body={"heavy": {"n": 2, "return_trajectories": True}})
assert heavy.choices[0].message.content == "plain-answer", heavy
assert len(heavy.model_extra["trajectories"]) == 2, heavy
