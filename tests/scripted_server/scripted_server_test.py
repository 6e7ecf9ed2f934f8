#!/usr/bin/env python3
"""The scripted server from outside: scripted_server_test.py SCRIPTED_SERVER [unittest arguments]."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

from scripted_server import ScriptedServer

EXECUTABLE = ""
CALL = ('<think>I should look.</think>Looking.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0'
        '<|tool_call_argument_begin|>{"where": "here"}<|tool_call_end|><|tool_calls_section_end|>')
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Played(unittest.TestCase):
    def test_the_last_message_chooses_the_answer(self):
        script = [{"when": "weather", "say": "<think>sun?</think>It is sunny."}, {"say": "What?"}]
        with ScriptedServer(EXECUTABLE, script) as server:
            message = server.chat("How is the weather?")["choices"][0]["message"]
            self.assertEqual((message["reasoning_content"], message["content"]), ("sun?", "It is sunny."))
            history = [{"role": "user", "content": "weather"}, {"role": "assistant", "content": "weather"},
                       {"role": "user", "content": "thanks"}]
            _, _, text = server.request("POST", "/v1/chat/completions", {"messages": history})
            self.assertEqual(json.loads(text)["choices"][0]["message"]["content"], "What?")

    def test_a_tool_loop_is_played_to_its_end(self):
        script = [{"when": "## Return of", "say": "<think></think>Found."}, {"say": CALL}]
        with ScriptedServer(EXECUTABLE, script) as server:
            choice = server.chat("look", tools=TOOLS)["choices"][0]
            self.assertEqual(choice["finish_reason"], "tool_calls")
            call = choice["message"]["tool_calls"][0]
            self.assertEqual(call["function"], {"name": "look", "arguments": '{"where": "here"}'})
            history = [{"role": "user", "content": "look"}, choice["message"],
                       {"role": "tool", "tool_call_id": call["id"], "content": "a key"}]
            _, _, text = server.request("POST", "/v1/chat/completions", {"messages": history, "tools": TOOLS})
            self.assertEqual(json.loads(text)["choices"][0]["message"]["content"], "Found.")

    def test_texts_and_token_ids_mix_and_broken_utf8_loses_nothing(self):
        folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with open(os.path.join(folder, "server/demo/model/tiktoken.model"), encoding="ascii") as file:
            vocabulary = [line.split()[0] for line in file]
        lone_continuation = vocabulary.index("gA==")  # the byte 0x80
        with ScriptedServer(EXECUTABLE, [{"say": ["before ", lone_continuation, " after"]}]) as server:
            self.assertEqual(server.chat("?")["choices"][0]["message"]["content"], "before \ufffd after")

    def test_an_answer_repeats_until_its_limit(self):
        with ScriptedServer(EXECUTABLE, [{"say": "ab", "repeat": True, "tokens_per_step": 4}]) as server:
            answer = server.chat("?", max_tokens=25)
            self.assertEqual(answer["choices"][0]["finish_reason"], "length")
            self.assertEqual(answer["usage"]["completion_tokens"], 25)

    def test_random_logits_follow_their_seed(self):
        with ScriptedServer(EXECUTABLE, {"random": 7}) as server:
            answers = [server.chat("?", max_tokens=40, temperature=0, seed=1, ignore_eos=True) for _ in range(2)]
            messages = [answer["choices"][0]["message"] for answer in answers]
            self.assertEqual(messages[0], messages[1])
            self.assertEqual(answers[0]["usage"]["completion_tokens"], 40)


class Refused(unittest.TestCase):
    def error_of(self, text, *args):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(text)
            file.flush()
            done = subprocess.run([EXECUTABLE, "--script", file.name, *args], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_a_wrong_script_is_named_by_entry_key_and_value(self):
        for text, error in [
            ("[", "expected JSON"),
            ("3", "script: expected a list of answers, or one, got 3"),
            ('["a"]', 'script[0]: expected an object, got "a"'),
            ('[{"say": 3}]', "script[0].say: expected text, or a list of texts and ids, got 3"),
            ('[{"say": ["a", 640]}]', "script[0].say: expected text or a token id below 640, got 640"),
            ('[{"say": "a"}, {"when": "b"}]', "script[1]: expected one of say and random"),
            ('[{"say": "a", "random": 1}]', "script[0]: expected one of say and random"),
            ('[{"say": "a", "tokens_per_step": 0}]', "script[0].tokens_per_step: expected a whole number from 1 to"),
            ('[{"say": "a", "speed": 1}]', "script[0].speed: expected when, say, random"),
            ('[{"say": "", "repeat": true}]', "script[0].repeat: expected something to say"),
        ]:
            with self.subTest(text):
                self.assertIn(error, self.error_of(text))

    def test_a_folder_without_a_model_is_named(self):
        self.assertIn("config.json", self.error_of("[]", "--model", "/nowhere"))


if __name__ == "__main__":
    EXECUTABLE = sys.argv.pop(1)
    unittest.main()
