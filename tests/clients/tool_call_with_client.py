"""OpenAI's Python client: a loop of tool calls until the model answers."""
import json
import os

import openai

from example_tools import TOOLS, TOOL_MAP, expect_words


def tool_call_with_client(client: openai.OpenAI, model_name: str):
    messages = [
        {"role": "system", "content": "You are Kimi, an AI assistant created by Moonshot AI."},
        {"role": "user", "content": "What's the weather like in Beijing today? Let's check using the tool."},
    ]
    called = []
    finish_reason = None
    while finish_reason is None or finish_reason == "tool_calls":
        completion = client.chat.completions.create(
            model=model_name, messages=messages, temperature=1.0, seed=1, tools=TOOLS, tool_choice="auto")
        choice = completion.choices[0]
        finish_reason = choice.finish_reason
        if finish_reason == "tool_calls":
            messages.append(choice.message)
            for tool_call in choice.message.tool_calls:
                name = tool_call.function.name
                arguments = json.loads(tool_call.function.arguments)
                result = TOOL_MAP[name](**arguments)
                print("tool call:", tool_call.id, name, arguments, "->", result)
                called.append((name, arguments))
                messages.append({"role": "tool", "tool_call_id": tool_call.id, "name": name,
                                 "content": json.dumps(result)})
            assert len(messages) < 12, "the model never stops to call"
    print("-" * 40)
    print(choice.message.content)
    return choice, called


choice, called = tool_call_with_client(
    openai.OpenAI(base_url=os.environ["TANDEM_BASE_URL"], api_key=os.environ["TANDEM_KEY"]),
    os.environ["TANDEM_MODEL"])

assert choice.finish_reason == "stop", choice.finish_reason
assert not choice.message.tool_calls
expect_words("the calls", str(called), "get_weather", "Beijing")
expect_words("the answer", choice.message.content, "Beijing", "Sunny")
