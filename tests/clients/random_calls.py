"""Random logits in place of a model, functions of random schemas and of those that agents declare: every call that comes
about is valid by the judgement of the jsonschema package. TANDEM_RANDOM_CALLS says how many are made (default 200).
"""
import concurrent.futures
import glob
import http.client
import json
import os
import random
import sys
import urllib.parse

import jsonschema

NUM_CALLS = int(os.environ.get("TANDEM_RANDOM_CALLS", "200"))
NUM_CLIENTS = 4
FORMATS = ["date", "date-time", "uuid", "email", "ipv4", "uri"]
CAPTURES = os.path.join(os.environ["TANDEM_SHARED_DIR"], "serving", "captures")


class RandomSchema:
    """Schemas of all kinds that can be held to in full, so that `strict` takes them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def chance(self, one_of):
        return self.random.randrange(one_of) == 0

    def object(self, depth=0):
        names = self.random.sample(["a", "ab", "x y", "\u00e9t\u00e9", 'q"uote', "path", "\u4e2d", "z-1"],
                                   self.random.randrange(8 if depth == 0 else 4))
        schema = {"type": "object", "properties": {name: self.value(depth + 1) for name in names},
                  "required": [name for name in names if self.chance(2)]}
        kind = self.random.randrange(5)
        if kind == 0:
            schema["additionalProperties"] = False
        elif kind == 1:
            schema["additionalProperties"] = {"type": "integer"}
        elif kind == 2:
            schema["maxProperties"] = len(schema["required"]) + 1
        elif len(names) > 1:
            schema["minProperties"] = 1
        return schema

    def value(self, depth):
        kinds = [self.integer, self.number, self.string, self.string, self.listed, lambda: {"type": "boolean"},
                 lambda: {"type": ["string", "null"], "maxLength": 5}]
        if depth < 3:
            kinds += [lambda: self.array(depth), lambda: self.object(depth),
                      lambda: {"anyOf": [self.integer(), self.object(depth), {"type": "null"}]}]
        return self.random.choice(kinds)()

    def listed(self):
        return self.random.choice([{"enum": ["red", "gr\u00fcn", 3, None, True]}, {"const": {"kind": "x", "n": [1, 2]}}])

    def integer(self):
        low = self.random.randrange(-1000, 1000)
        schema = {"type": "integer"}
        if self.chance(2):
            schema["minimum"] = low
        if self.chance(2):
            schema["maximum"] = low + self.random.randrange(5000)
        return schema

    def number(self):
        low = self.random.randrange(-100_000, 100_000) / 1000
        schema = {"type": "number"}
        if self.chance(2):
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.chance(2):
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = low + 1 + self.random.randrange(1000) / 8
        return schema

    def string(self):
        return {"type": "string", **self.random.choice([
            {}, {"minLength": self.random.randrange(30), "maxLength": 30 + self.random.randrange(90)},
            {"pattern": "^[A-Z][a-z-]{2,8}(\\.txt)?$"}, {"pattern": "^(a|b\"|\\\\|\u00e9)+$"},
            {"format": self.random.choice(FORMATS)}])}

    def array(self, depth):
        schema = {"type": "array", "items": self.value(depth + 1)}
        if self.chance(2):
            schema["minItems"] = self.random.randrange(3)
        if self.chance(2):
            schema["maxItems"] = 3 + self.random.randrange(4)
        return schema


def captured_schemas():
    """What agents declare, whatever the dialect."""
    schemas = {}

    def collect(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("input_schema", "parameters") and isinstance(inner, dict) and inner.get("type") == "object":
                    schemas[json.dumps(inner, sort_keys=True)] = inner
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    for path in sorted(glob.glob(os.path.join(CAPTURES, "*.json"))):
        with open(path, encoding="utf-8") as file:
            collect(json.load(file))
    return list(schemas.values())


def post(body):
    """(status, parsed answer)"""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(os.environ["TANDEM_URL"]).netloc, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['TANDEM_KEY']}"})
    response = connection.getresponse()
    status, answer = response.status, json.loads(response.read())
    connection.close()
    return status, answer


def make_calls(job):
    """(complete calls, refused schemas) of one request; an assertion for a call that is invalid."""
    seed, captured = job
    kind = RandomSchema(seed)
    schemas = captured if captured else [kind.object() for _ in range(3)]
    tools = [{"type": "function", "function": {"name": f"tool_{idx}", "parameters": schema, "strict": not captured}}
             for idx, schema in enumerate(schemas)]
    status, answer = post({
        "model": os.environ["TANDEM_MODEL"], "messages": [{"role": "user", "content": "go"}], "tools": tools,
        "tool_choice": "required", "n": 8, "max_tokens": 1500, "seed": seed, "temperature": seed % 2,
        "thinking": {"type": "disabled"}})
    if status == 400 and not captured:  # minima above maxima and the like: strict says so
        return 0, 1
    assert status == 200, answer
    num_calls = 0
    for choice in answer["choices"]:
        calls = choice["message"].get("tool_calls") or []
        if choice["finish_reason"] == "length":
            calls = calls[:-1]  # the last was cut off
        for call in calls:
            schema = schemas[int(call["function"]["name"].removeprefix("tool_"))]
            jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(
                    json.loads(call["function"]["arguments"]))
            num_calls += 1
    return num_calls, 0


def main():
    captured = captured_schemas()
    num_calls = num_refused = num_requests = 0
    with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as pool:
        while num_calls < NUM_CALLS:
            jobs = [(num_requests + idx, [captured[(num_requests + idx) % len(captured)]] if captured and idx % 4 == 0 else [])
                    for idx in range(4 * NUM_CLIENTS)]
            for made, refused in pool.map(make_calls, jobs):
                num_calls += made
                num_refused += refused
            num_requests += len(jobs)
            assert num_refused < num_requests / 3, f"{num_refused} of {num_requests} refused"
    print(f"{num_calls} calls, all valid; {num_requests} requests, {num_refused} refused, "
          f"{len(captured)} schemas of agents")


if __name__ == "__main__":
    sys.exit(main())
