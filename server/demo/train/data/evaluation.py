"""What is judged: the trained dialogues, and cities, results, people and questions never trained on."""
import json

from data import tools as tool_data
from data.dialogues import (CHAIN_QUESTIONS, WEATHER_QUESTIONS, chain_turn, city_dialogue, found_json, say,
                            trained_dialogues, user, weather_turn)
from data.names import (UNSEEN_CITIES, UNSEEN_PEOPLE, UNSEEN_TWO_WORD_CITIES, UNSEEN_WEATHER, WEATHER)
from data.smalltalk import REFUSAL, REFUSAL_THOUGHT
from data.unknown import UNSEEN_QUESTIONS


def trained_set():
    return trained_dialogues()


def slug(text):
    return "".join(c if c.isalnum() else "_" for c in text.lower())


def unseen_city_set():
    """Every unseen city with the client's question or the short one, and in a parallel pair."""
    out = []
    for i, city in enumerate(UNSEEN_CITIES + UNSEEN_TWO_WORD_CITIES):
        weather = UNSEEN_WEATHER[i // 2 % 4] if i % 2 else WEATHER[i // 2 % len(WEATHER)]
        out.append(city_dialogue(f"unseen_{slug(city)}", city, weather, i % 4))
    return out


def unseen_other_set():
    """Parallel calls and chains with unseen names."""
    out = []
    for i in range(0, 16, 2):
        a, b = UNSEEN_CITIES[i], UNSEEN_CITIES[i + 1]
        messages = weather_turn(f"Weather in {a} and {b}?", [
            found_json(a, WEATHER[i % 12]), found_json(b, UNSEEN_WEATHER[i // 2 % 4])])
        out.append({"name": f"unseen_parallel_{slug(a)}_{slug(b)}", "tools": [tool_data.GET_WEATHER],
                    "messages": messages})
    for i, person in enumerate(UNSEEN_PEOPLE):
        city = UNSEEN_CITIES[16 + i]
        messages = chain_turn(CHAIN_QUESTIONS[i].format(p=person), person, json.dumps({"city": city}),
                              found_json(city, UNSEEN_WEATHER[i]), '{"status": "sent"}')
        out.append({"name": f"unseen_chain_{slug(city)}", "tools": tool_data.CHAIN, "messages": messages})
    return out


def trained_city_set():
    """The trained cities with every question, for the record of what was learned by heart."""
    cities = "Madrid Rome Vienna Stockholm Lisbon Dublin Athens Seoul Osaka Bangkok Toronto Chicago".split()
    return [city_dialogue(f"city_{slug(c)}", c, WEATHER[i % len(WEATHER)], (3 * i) % len(WEATHER_QUESTIONS))
            for i, c in enumerate(cities)]


def unseen_question_set():
    return [{"name": f"question_{slug(q)[:40]}", "tools": [],
             "messages": [user(q), say(REFUSAL_THOUGHT, REFUSAL)]} for q in UNSEEN_QUESTIONS]
