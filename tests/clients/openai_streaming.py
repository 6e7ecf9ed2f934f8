"""OpenAI's Python client, streaming: thinking first, then the answer."""
import os

import openai

from example_tools import expect_words

client = openai.OpenAI(base_url=os.environ["TANDEM_BASE_URL"], api_key=os.environ["TANDEM_KEY"])
model = os.environ["TANDEM_MODEL"]

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "which one is bigger, 9.11 or 9.9? think carefully."}],
    temperature=1.0, seed=1,
    max_tokens=4096,
    stream=True,
)

thinking, answer, finish_reasons = "", "", []
for chunk in stream:
    if not chunk.choices:
        continue
    delta = chunk.choices[0].delta
    reasoning = getattr(delta, "reasoning_content", None)
    if reasoning:
        assert not answer, "thinking after the answer has begun"
        thinking += reasoning
        print(reasoning, end="", flush=True)
    if delta.content:
        if not answer:
            print("\n----")
        answer += delta.content
        print(delta.content, end="", flush=True)
    if chunk.choices[0].finish_reason:
        finish_reasons.append(chunk.choices[0].finish_reason)
print()

assert finish_reasons == ["stop"], finish_reasons
assert thinking, "no thinking was streamed"
assert "<think>" not in thinking + answer and "</think>" not in thinking + answer
expect_words("the answer", answer, "9.9 is bigger")
