"""Tool declarations in varying words, and the results that tools give."""
import json


def function(name, description, properties, required=None):
    parameters = {"type": "object", "properties": properties}
    if required is not None:
        parameters = {"type": "object", "required": required, "properties": properties}
    out = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {k: v for k, v in out.items() if v is not None}}


# The declaration of the published client example.
GET_WEATHER = function(
    "get_weather", "Get weather information. Call this tool when the user needs to get weather information",
    {"city": {"type": "string", "description": "City name"}}, ["city"])
GET_LOCATION = function("get_location", "Get the city in which the user is", {}, [])
SEND_MESSAGE = function(
    "send_message", "Send a message to a person",
    {"to": {"type": "string", "description": "Name"}, "text": {"type": "string", "description": "Message"}},
    ["to", "text"])
CHAIN = [GET_LOCATION, GET_WEATHER, SEND_MESSAGE]

_DESCRIPTIONS = ["Get weather information.", "Get the weather", "Returns the current weather of a city.",
                 "Look up the weather in a city", "Get the current weather in a given city", "Weather lookup",
                 "Current weather for a location.", None]
_CITY_TEXTS = ["City name", "The city", "Name of the city", "The name of the city, e.g. Paris", "city", None]
_OTHER_TOOLS = [
    function("get_time", "Get the current time", {"zone": {"type": "string"}}, ["zone"]),
    function("search", "Search the web", {"query": {"type": "string", "description": "Query"}}, ["query"]),
    function("add", "Add two numbers", {"a": {"type": "number"}, "b": {"type": "number"}}, ["a", "b"]),
    function("read_file", "Read a file", {"path": {"type": "string"}}),
    function("run_code", None, {"code": {"type": "string", "description": "Code to run"}}, ["code"]),
]


def weather_tool(rng):
    """get_weather, mostly as in the client example, else in other words and with other keys."""
    if rng.random() < 0.5:
        return GET_WEATHER
    city = {"type": "string"}
    text = rng.choice(_CITY_TEXTS)
    if text:
        city["description"] = text
    properties = {"city": city}
    if rng.random() < 0.15:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    tool = function("get_weather", rng.choice(_DESCRIPTIONS), properties,
                    ["city"] if rng.random() < 0.8 else None)
    if rng.random() < 0.1:
        tool["function"]["strict"] = rng.random() < 0.5
    return tool


def weather_tools(rng):
    """A list that holds get_weather, alone or among others."""
    tools = [weather_tool(rng)]
    if rng.random() < 0.15:
        tools += rng.sample(_OTHER_TOOLS, rng.randint(1, 2))
        rng.shuffle(tools)
    return tools


def other_tools(rng):
    return rng.sample(_OTHER_TOOLS, rng.randint(1, 2))


def chain_tools(rng):
    if rng.random() < 0.5:
        return CHAIN
    tools = [GET_LOCATION, weather_tool(rng), SEND_MESSAGE]
    rng.shuffle(tools)
    return tools


def to_text(rng, value):
    """JSON with or without blanks."""
    separators = (", ", ": ") if rng.random() < 0.65 else (",", ":")
    return json.dumps(value, ensure_ascii=False, separators=separators)


def weather_result(rng, names, city):
    """(text of the tool's answer, what the assistant makes of it: the values in their order)."""
    weather = names.weather()
    kind = rng.random()
    if kind < 0.6:
        return to_text(rng, {rng.choice(["weather", "weather", "weather", "condition"]): weather}), weather
    if kind < 0.7:
        return weather, weather
    if kind < 0.78:
        return to_text(rng, {"city": city, "weather": weather}), weather
    degrees = names.temperature()
    if rng.random() < 0.4:
        degrees = f"{degrees}°C"
    items = [(rng.choice(["weather", "condition"]), weather), (rng.choice(["temperature", "temp"]), degrees)]
    if rng.random() < 0.3:
        items.reverse()
    return to_text(rng, dict(items)), ", ".join(str(v) for _, v in items)
