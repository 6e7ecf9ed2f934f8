"""The one tool of the published tool-call example, and what the checks of a client end with."""
import sys

TOOLS = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get weather information. Call this tool when the user needs to get weather information",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {"city": {"type": "string", "description": "City name"}},
        },
    },
}]


def get_weather(city):
    return {"weather": "Sunny"}


TOOL_MAP = {"get_weather": get_weather}

WRONG_WORDS = 3  # exit status: the exchange went well, the model said something else


def expect_words(what, text, *words):
    """The model answers by chance: the runner gives it a second try for this status, and only this."""
    missing = [word for word in words if word not in (text or "")]
    if missing:
        print(f"{what} is {text!r}: expected {missing} in it")
        sys.exit(WRONG_WORDS)
