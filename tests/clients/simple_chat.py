"""OpenAI's Python client, one answer at once; the content is a list of parts."""
import os

import openai

from example_tools import expect_words


def simple_chat(client: openai.OpenAI, model_name: str):
    messages = [
        {"role": "system", "content": "You are Kimi, an AI assistant created by Moonshot AI."},
        {"role": "user", "content": [
            {"type": "text", "text": "which one is bigger, 9.11 or 9.9? think carefully."}]},
    ]
    response = client.chat.completions.create(
        model=model_name, messages=messages, stream=False, temperature=1.0, seed=1, max_tokens=4096)
    print(f"answer: {response.choices[0].message.content}")
    print("===== below is the reasoning content =====")
    print(f"reasoning content: {response.choices[0].message.reasoning_content}")
    return response


response = simple_chat(
    openai.OpenAI(base_url=os.environ["TANDEM_BASE_URL"], api_key=os.environ["TANDEM_KEY"]),
    os.environ["TANDEM_MODEL"])

choice = response.choices[0]
assert choice.finish_reason == "stop", choice.finish_reason
assert choice.message.role == "assistant"
assert choice.message.reasoning_content, "no reasoning_content"
assert "think>" not in choice.message.content
usage = response.usage
assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens, usage
expect_words("the answer", choice.message.content, "9.9 is bigger")
