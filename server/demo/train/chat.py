"""The chat format of Kimi-K2-Thinking as plain rules (the template's default system message,
emptied reasoning in the history, tool calls and results)."""
import json

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."


def sort_keys(value):
    if isinstance(value, dict):
        return {k: sort_keys(value[k]) for k in sorted(value)}
    return [sort_keys(v) for v in value] if isinstance(value, list) else value


def render_calls(calls):
    body = "".join(f"<|tool_call_begin|>{c['id']}<|tool_call_argument_begin|>"
                   f"{c['function']['arguments']}<|tool_call_end|>" for c in calls)
    return f"<|tool_calls_section_begin|>{body}<|tool_calls_section_end|>" if calls else ""


def render_output(message, reasoning=True):
    """What the assistant generates after the generation prompt, including <|im_end|>."""
    thought = message.get("reasoning_content") or "" if reasoning else ""
    return (f"<think>{thought}</think>{message.get('content') or ''}"
            f"{render_calls(message.get('tool_calls') or [])}<|im_end|>")


def render_message(message, reasoning):
    role = message["role"]
    name = message.get("name") or role
    opener = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}.get(role, "<|im_system|>")
    if role == "assistant":
        return f"{opener}{name}<|im_middle|>{render_output(message, reasoning)}"
    head = f"## Return of {message['tool_call_id']}\n" if role == "tool" else ""
    return f"{opener}{name}<|im_middle|>{head}{message.get('content') or ''}<|im_end|>"


def render_prompt(tools, messages):
    """The prompt up to and including the generation prompt."""
    out = ""
    if tools:
        declaration = json.dumps(sort_keys(tools), ensure_ascii=False, separators=(",", ":"))
        out += f"<|im_system|>tool_declare<|im_middle|>{declaration}<|im_end|>"
    if not messages or messages[0]["role"] != "system":
        out += f"<|im_system|>system<|im_middle|>{DEFAULT_SYSTEM}<|im_end|>"
    last = max((i for i, m in enumerate(messages)
                if m["role"] == "assistant" and not m.get("tool_calls")), default=-1)
    for i, message in enumerate(messages):
        out += render_message(message, reasoning=i > last)
    return out + "<|im_assistant|>assistant<|im_middle|>"


def target_indices(messages):
    """The assistant messages after the last user message: what a play has to produce."""
    last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
    return [i for i, m in enumerate(messages) if i > last_user and m["role"] == "assistant"]


def to_segments(dialogue):
    """[(text, is_target)] of one dialogue; segments meet only at special tokens."""
    messages = dialogue["messages"]
    targets = target_indices(messages)
    segments, done = [], ""
    for i in targets:
        prompt = render_prompt(dialogue["tools"], messages[:i])
        assert prompt.startswith(done)
        segments.append((prompt[len(done):], False))
        output = render_output(messages[i])
        segments.append((output, True))
        done = prompt + output
    return segments
