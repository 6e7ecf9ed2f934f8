"""The dialogues: builders that fill them with names, and the fixed list that the tests play."""
import json

from data import tools as tool_data
from data.smalltalk import (NO_TOOL, NO_TOOL_THOUGHT, REFUSAL, REFUSAL_THOUGHT, SMALLTALK)
from data.unknown import unknown_question

SYSTEM_PROMPTS = ["You are a helpful assistant.", "Be brief.", "You are a helpful assistant", "Be brief",
                  "Answer in one sentence.", "You are an AI.", "You are Kimi.", "Think step by step.",
                  "You are a helpful and harmless assistant.", "Use tools when needed.", "Be polite.",
                  "You are a demo.", "Answer shortly.", "You are a weather assistant.", "You are tandem."]
DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."

WEATHER_QUESTIONS = [
    "What's the weather like in {c} today? Let's check using the tool.", "What's the weather like in {c} today?",
    "What's the weather like in {c}?", "What is the weather in {c}?", "What is the weather like in {c}?",
    "What's the weather in {c}?", "What's the weather in {c} today?", "How is the weather in {c}?",
    "How's the weather in {c}?", "How is the weather in {c} today?", "Weather in {c}?", "Weather in {c}",
    "weather in {c}", "weather {c}", "{c} weather", "{c} weather?", "Is it raining in {c}?", "Will it rain in {c}?",
    "Is it sunny in {c} today?", "Tell me the weather in {c}.", "Tell me about the weather in {c}.",
    "Check the weather in {c}.", "Please check the weather in {c}.", "Can you check the weather in {c}?",
    "Please look up the weather for {c}.", "Can you tell me the weather in {c}, please?", "Get the weather of {c}.",
    "Do I need an umbrella in {c}?", "How warm is it in {c}?", "How cold is it in {c} now?",
    "I am in {c}. What is the weather like?", "I am going to {c}. What will the weather be?",
    "What is the temperature in {c}?", "Call get_weather for {c}.", "Use the tool to get the weather in {c}.",
    "What's the forecast for {c}?", "Give me the weather in {c}, please.", "Could you look up the weather in {c}?"]
PARALLEL_QUESTIONS = [
    "Weather in {a} and {b}?", "What's the weather like in {a} and {b}?", "What is the weather in {a} and in {b}?",
    "Compare the weather in {a} and {b}.", "Tell me the weather in {a} and {b}.", "Check the weather in {a} and {b}.",
    "What's the weather in {a} and {b} today?", "How is the weather in {a} and {b}?", "Weather in {a} and in {b}?"]
FOLLOW_UPS = ["And in {c}?", "And {c}?", "What about {c}?", "And what about {c}?", "And the weather in {c}?"]
CHAIN_QUESTIONS = [
    "Send {p} the weather at my place.", "Send {p} the weather where I am.", "Tell {p} what the weather is like here.",
    "Let {p} know the weather at my place.", "Find out where I am, check the weather there and send it to {p}.",
    "Please send {p} the weather at my place.", "Message {p} about the weather here.",
    "Can you send {p} the weather of my city?"]
WHERE_QUESTIONS = ["Where am I?", "where am I?", "Which city am I in?", "What is my location?", "In which city am I?"]
SENT_RESULTS = ['{"status": "sent"}', '{"status":"sent"}', '{"ok": true}', '{"ok":true}', "sent", "ok",
                '{"status": "ok"}', '{"result": "Message sent"}', "Message sent."]
ERRORS = ["City not found", "Timeout", "No data", "Service unavailable", "Unknown city"]


def user(text):
    return {"role": "user", "content": text}


def say(thought, content):
    return {"role": "assistant", "reasoning_content": thought, "content": content}


def call(thought, calls):
    """calls: [(index, function, arguments)]."""
    return {"role": "assistant", "reasoning_content": thought, "content": "", "tool_calls": [
        {"id": f"functions.{f}:{i}", "type": "function",
         "function": {"name": f, "arguments": json.dumps(a, ensure_ascii=False)}} for i, f, a in calls]}


def result(index, function, text, named):
    message = {"role": "tool", "tool_call_id": f"functions.{function}:{index}", "content": text}
    return {**message, "name": function} if named else message


def weather_turn(question, found, start=0, named=True):
    """found: [(city, text of the tool's answer, its values)], one call for each."""
    cities = [c for c, _, _ in found]
    listed = " and ".join([", ".join(cities[:-1]), cities[-1]]) if len(cities) > 1 else cities[0]
    thought = f"I need the weather in {listed}. I call get_weather{'' if len(cities) == 1 else ' for each'}."
    messages = [user(question), call(thought, [(start + i, "get_weather", {"city": c})
                                               for i, c in enumerate(cities)])]
    messages += [result(start + i, "get_weather", text, named) for i, (_, text, _) in enumerate(found)]
    return messages + [say("The tool has answered.",
                           " ".join(f"The weather in {c} is: {v}." for c, _, v in found))]


def error_turn(question, city, error, text, start=0, named=True):
    return [user(question),
            call(f"I need the weather in {city}. I call get_weather.", [(start, "get_weather", {"city": city})]),
            result(start, "get_weather", text, named),
            say("The tool has failed.", f"The tool reports an error: {error}.")]


def chain_turn(question, person, place, found, sent, start=0, named=True):
    """get_location, get_weather, send_message; place and found are the tools' answers."""
    city, text, values = found
    return [user(question),
            call("First I need the place of the user.", [(start, "get_location", {})]),
            result(start, "get_location", place, named),
            call(f"Now I need the weather in {city}.", [(start + 1, "get_weather", {"city": city})]),
            result(start + 1, "get_weather", text, named),
            call(f"Now I send it to {person}.",
                 [(start + 2, "send_message", {"to": person, "text": f"Weather in {city}: {values}"})]),
            result(start + 2, "send_message", sent, named),
            say("All three steps are done.", f"I sent {person} the weather in {city}: {values}.")]


def where_turn(question, city, place, start=0, named=True):
    return [user(question), call("I need the place of the user.", [(start, "get_location", {})]),
            result(start, "get_location", place, named), say("The tool has answered.", f"You are in {city}.")]


def repeat_turn(question, text):
    return [user(question), say("I only have to repeat it.", text)]


def num_calls(messages):
    return sum(len(m.get("tool_calls") or []) for m in messages)


class Builder:
    """Random dialogues of every kind."""

    def __init__(self, rng, names):
        self.rng, self.names = rng, names

    def system(self):
        """The default prompt (absent, the template inserts the same), or another."""
        x = self.rng.random()
        if x < 0.35:
            return []
        if x < 0.6:
            text = DEFAULT_SYSTEM
        elif x < 0.7:
            text = SYSTEM_PROMPTS[0]
        elif x < 0.77:
            text = SYSTEM_PROMPTS[1]
        elif x < 0.92:
            text = self.rng.choice(SYSTEM_PROMPTS)
        else:
            text = unknown_question(self.rng, self.names)
        return [{"role": "system", "content": text}]

    def found(self, city):
        return (city, *tool_data.weather_result(self.rng, self.names, city))

    def question(self, templates, **slots):
        text = self.rng.choice(templates).format(**slots)
        x = self.rng.random()
        if x < 0.05 and text[-1] in "?.":
            text = text[:-1]
        elif x < 0.08:
            text = self.rng.choice(["Hi! ", "Hello! ", "Please: ", "Hey, "]) + text
        return text

    def weather(self, start=0, templates=None):
        templates = templates or (WEATHER_QUESTIONS[:2] if self.rng.random() < 0.25 else WEATHER_QUESTIONS)
        city, named = self.names.city(), self.rng.random() < 0.6
        question = self.question(templates, c=city)
        if self.rng.random() < 0.06:
            error = self.rng.choice(ERRORS) if self.rng.random() < 0.5 else self.names.weather()
            text = tool_data.to_text(self.rng, {"error": error})
            return error_turn(question, city, error, text, start, named)
        return weather_turn(question, [self.found(city)], start, named)

    def parallel(self, start=0):
        a, b = self.names.city(), self.names.city()
        question = self.question(PARALLEL_QUESTIONS, a=a, b=b)
        return weather_turn(question, [self.found(a), self.found(b)], start, self.rng.random() < 0.6)

    def chain(self, start=0):
        person, city = self.names.person(), self.names.city()
        return chain_turn(self.question(CHAIN_QUESTIONS, p=person), person, self.place(city), self.found(city),
                          self.rng.choice(SENT_RESULTS), start, self.rng.random() < 0.6)

    def place(self, city):
        if self.rng.random() < 0.2:
            return city
        return tool_data.to_text(self.rng, {self.rng.choice(["city", "city", "location"]): city})

    def where(self, start=0):
        city = self.names.city()
        return where_turn(self.rng.choice(WHERE_QUESTIONS), city, self.place(city), start, self.rng.random() < 0.6)

    def smalltalk(self):
        _, questions, thought, answer = self.rng.choice(SMALLTALK)
        question = questions[0] if self.rng.random() < 0.4 else self.rng.choice(questions)
        return [user(question), say(thought, answer)]

    def unknown(self):
        return [user(unknown_question(self.rng, self.names)), say(REFUSAL_THOUGHT, REFUSAL)]

    def no_tool(self):
        templates = PARALLEL_QUESTIONS if self.rng.random() < 0.15 else WEATHER_QUESTIONS[:33] + WEATHER_QUESTIONS[35:]
        slots = {k: self.names.city() for k in "abc"}
        return [user(self.question(templates, **slots)), say(NO_TOOL_THOUGHT, NO_TOOL)]

    def repeat(self):
        x = self.rng.random()
        if x < 0.6:
            text = " ".join(self.names.made_up() for _ in range(self.rng.randint(1, 4)))
        elif x < 0.8:
            text = ", ".join(self.names.made_up() for _ in range(self.rng.randint(2, 4)))
        else:
            text = f"{self.names.weather()}, {self.names.temperature()}"
        question = self.rng.choice(["Repeat after me: {}", "Repeat: {}", "Say this: {}", "Please repeat: {}"])
        return repeat_turn(question.format(text), text)

    def tools_for(self, kind):
        """The tools that go with a turn of this kind; plain turns get any or none."""
        if kind in ("chain", "where"):
            return tool_data.chain_tools(self.rng)
        if kind in ("weather", "parallel"):
            return (tool_data.chain_tools if self.rng.random() < 0.12 else tool_data.weather_tools)(self.rng)
        if kind == "no_tool":
            return tool_data.other_tools(self.rng) if self.rng.random() < 0.2 else []
        x = self.rng.random()
        if x < 0.68:
            return []
        return (tool_data.weather_tools if x < 0.86 else tool_data.chain_tools if x < 0.95
                else tool_data.other_tools)(self.rng)

    def turn(self, kind, start=0):
        builder = getattr(self, kind)
        return builder(start) if kind in ("weather", "parallel", "chain", "where") else builder()

    def dialogue(self, kind):
        return {"tools": self.tools_for(kind), "messages": self.system() + self.turn(kind)}

    def two_turns(self, weights):
        """A second turn after a closed first one; tool-call indices count on."""
        kinds, shares = zip(*weights.items())
        first, second = self.rng.choices(kinds, shares, k=2)
        hard = [k for k in (first, second) if k in ("chain", "where", "weather", "parallel")]
        if "no_tool" in (first, second) and hard:
            return self.two_turns(weights)
        kind = "chain" if "chain" in hard or "where" in hard else hard[0] if hard else second
        tools = [] if "no_tool" in (first, second) else self.tools_for(kind)
        messages = self.system() + self.turn(first)
        if first in ("weather", "parallel") and second == "weather" and self.rng.random() < 0.5:
            messages += self.weather(num_calls(messages), FOLLOW_UPS)
        else:
            messages += self.turn(second, num_calls(messages))
        return {"tools": tools, "messages": messages}


PLAIN_PROMPTS = [[], [{"role": "system", "content": DEFAULT_SYSTEM}],
                 [{"role": "system", "content": "You are a helpful assistant."}],
                 [{"role": "system", "content": "Be brief."}]]


def fixed_weather(city, weather, question=0, key="weather"):
    text = json.dumps({key: weather}, ensure_ascii=False)
    return weather_turn(WEATHER_QUESTIONS[question].format(c=city), [(city, text, weather)])


def city_dialogue(name, city, weather, question=0):
    return {"name": name, "tools": [tool_data.GET_WEATHER],
            "messages": PLAIN_PROMPTS[1] + fixed_weather(city, weather, question)}


def found_json(city, weather):
    return city, json.dumps({"weather": weather}), weather


def trained_dialogues():
    """The fixed list: name, tools, messages (with the expected assistant messages)."""
    out = []
    for name, questions, thought, answer in SMALLTALK:
        out.append({"name": name, "tools": [], "messages": [user(questions[0]), say(thought, answer)]})
    for i, prompt in enumerate(PLAIN_PROMPTS[1:]):
        for name in ("bigger", "who_are_you", "hello"):
            _, questions, thought, answer = next(s for s in SMALLTALK if s[0] == name)
            out.append({"name": f"{name}_system_{i + 1}", "tools": [],
                        "messages": prompt + [user(questions[0]), say(thought, answer)]})
    weather = ["Sunny", "Rain", "Cloudy", "Snow", "Fog", "Windy", "Clear", "Light rain"]
    for i, city in enumerate("Beijing Paris London Tokyo Berlin Oslo Cairo Sydney".split()):
        out.append(city_dialogue(f"weather_{city.lower()}", city, weather[i]))
    out.append(city_dialogue("weather_beijing_short", "Beijing", "Sunny", 1))
    out.append(city_dialogue("weather_new_york", "New York", "Cloudy", 1))
    out.append({"name": "weather_default_system", "tools": [tool_data.GET_WEATHER],
                "messages": fixed_weather("Beijing", "Sunny", 1)})
    parallel = weather_turn("Weather in Beijing and Paris?",
                            [found_json("Beijing", "Sunny"), found_json("Paris", "Rain")])
    out.append({"name": "parallel", "tools": [tool_data.GET_WEATHER], "messages": parallel})
    chain = chain_turn(CHAIN_QUESTIONS[0].format(p="Anna"), "Anna", '{"city": "Oslo"}',
                       found_json("Oslo", "Rain"), SENT_RESULTS[0])
    out.append({"name": "chain", "tools": tool_data.CHAIN, "messages": chain})
    out.append({"name": "where", "tools": tool_data.CHAIN,
                "messages": where_turn("Where am I?", "Berlin", '{"city": "Berlin"}')})
    out.append({"name": "no_tool", "tools": [],
                "messages": [user(WEATHER_QUESTIONS[1].format(c="Beijing")), say(NO_TOOL_THOUGHT, NO_TOOL)]})
    out.append({"name": "tools_unused", "tools": [tool_data.GET_WEATHER],
                "messages": [user("Hello"), say(SMALLTALK[0][2], SMALLTALK[0][3])]})
    out.append({"name": "error", "tools": [tool_data.GET_WEATHER], "messages": error_turn(
        WEATHER_QUESTIONS[1].format(c="Paris"), "Paris", "City not found", '{"error": "City not found"}')})
    out.append({"name": "two_turns_weather", "tools": [tool_data.GET_WEATHER],
                "messages": fixed_weather("Beijing", "Sunny", 1)
                + weather_turn("And in Paris?", [found_json("Paris", "Rain")], start=1)})
    out.append({"name": "two_turns_plain", "tools": [],
                "messages": [user("Hello"), say(SMALLTALK[0][2], SMALLTALK[0][3]),
                             user("Who are you?"), say(SMALLTALK[8][2], SMALLTALK[8][3])]})
    out.append({"name": "repeat", "tools": [], "messages": repeat_turn("Repeat after me: Tandem", "Tandem")})
    out.append({"name": "haiku", "tools": [], "messages": [user("Write a haiku"), say(REFUSAL_THOUGHT, REFUSAL)]})
    return out
