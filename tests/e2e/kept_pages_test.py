#!/usr/bin/env python3
"""KV pages that outlive the KV cache and the server: kept_pages_test.py TANDEM [unittest arguments]."""
import glob
import json
import os
import re
import resource
import shutil
import stat
import tempfile
import time
import unittest

from cli_case import TANDEM, CommandLineTest
from tandem_process import DIALOGUES, TandemServer, demo_model_is_here

PAGE_SIZE_TOKENS = 64


def tool_loop():
    """The longest dialogue that the demo model was trained on: three calls, and now it answers."""
    with open(DIALOGUES, encoding="utf-8") as file:
        return next(entry for entry in json.load(file) if entry["name"] == "chain/3")


class KeptPagesTest(CommandLineTest):
    def setUp(self):
        if not demo_model_is_here():
            self.skipTest("no demo model in server/demo/model")
        self.folder = os.path.join(tempfile.mkdtemp(dir=self.dir), "pages")

    def serve(self, *args, **kwargs):
        return TandemServer(TANDEM, "--gpus", "none", *args, **kwargs)

    def ask(self, server):
        """(the answer, its cached tokens)"""
        loop = tool_loop()
        answer = server.chat(messages=loop["messages"], tools=loop["tools"], temperature=0, max_tokens=400)
        usage = answer["usage"]
        self.num_pages = usage["prompt_tokens"] // PAGE_SIZE_TOKENS
        self.assertGreaterEqual(self.num_pages, 4)
        # The tests count pages: some of the prompt's last one is computed, and the answer does not fill it.
        self.assertGreater(usage["prompt_tokens"] % PAGE_SIZE_TOKENS, 0)
        self.assertEqual(usage["total_tokens"] // PAGE_SIZE_TOKENS, self.num_pages)
        return answer["choices"][0]["message"]["content"], usage["prompt_tokens_details"]["cached_tokens"]

    def answer_of(self, result):
        """The answer that was trained, of a prompt that was computed."""
        answer, cached = result
        self.assertEqual((answer, cached), (tool_loop()["expected"]["content"], 0))
        return answer

    def ask_once(self, *args):
        """The same of a server that is started for it and stopped."""
        with self.serve("--kv-disk", self.folder, *args) as server:
            result = self.ask(server)
            self.assertEqual(server.stop(), 0, server.output())
        return result

    def all_of_the_prompt(self):
        return self.num_pages * PAGE_SIZE_TOKENS

    def page_paths(self):
        return sorted(glob.glob(os.path.join(self.folder, "**", "*.kv"), recursive=True))

    def metric(self, server, name):
        text = server.request("GET", "/metrics")[2]
        return float(re.search(rf"(?m)^tandem:{name}\{{.*\}} (\S+)$", text)[1])

    def test_a_prompt_is_found_again_after_a_restart(self):
        answer = self.answer_of(self.ask_once())
        self.assertEqual(len(self.page_paths()), self.num_pages)
        with self.serve("--kv-disk", self.folder, "--kv-disk-gib", 1) as server:
            self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))
            self.assertEqual(self.metric(server, "external_prefix_cache_hits_total"), self.all_of_the_prompt())
            self.assertEqual(self.metric(server, "kv_disk_pages_read_total"), self.num_pages)
            self.assertEqual(self.metric(server, "kv_disk_failures_total"), 0)
            info = json.loads(server.request("GET", "/server_info")[2])
            self.assertEqual(info["kv_disk_limit_bytes"], 1 << 30)
            # What pages take on their way is in the memory map.
            self.assertRegex(server.output(), r"KV pages +\d\.\d+ GiB  on their way to disk and back \(--kv-disk\)")
            self.assertEqual(info["internal_states"][0]["restored_tokens"], self.all_of_the_prompt())
            # Now they are in the KV cache, and come back from nowhere.
            self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))
            self.assertEqual(self.metric(server, "external_prefix_cache_hits_total"), self.all_of_the_prompt())

    def test_what_was_written_survives_a_kill(self):
        with self.serve("--kv-disk", self.folder) as server:
            answer = self.answer_of(self.ask(server))
            deadline = time.monotonic() + 60
            while self.metric(server, "kv_disk_pages_written_total") < self.num_pages:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            server.process.kill()
            server.process.wait()
        self.assertEqual(self.ask_once(), (answer, self.all_of_the_prompt()))

    def test_a_folder_that_takes_no_page_ends_nothing(self):
        with self.serve("--kv-disk", self.folder) as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
            answer = self.answer_of(self.ask(server))
            self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))
            deadline = time.monotonic() + 60
            while self.metric(server, "kv_disk_failures_total") == 0:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            self.assertEqual(server.stop(), 0, server.output())
        self.assertEqual(self.page_paths(), [])

    def test_a_reset_forgets_what_is_in_the_folder(self):
        with self.serve("--kv-disk", self.folder) as server:
            answer = self.answer_of(self.ask(server))
            self.assertEqual(server.request("POST", "/reset_prefix_cache")[0], 200)
            self.assertEqual(self.ask(server), (answer, 0))
            self.assertEqual(server.request("POST", "/reset_prefix_cache")[0], 200)
            self.assertEqual(server.stop(), 0, server.output())
        self.assertEqual(self.page_paths(), [])
        self.assertEqual(self.ask_once(), (answer, 0))
        self.assertEqual(self.ask_once(), (answer, self.all_of_the_prompt()))

    def test_a_damaged_page_is_not_used(self):
        answer = self.answer_of(self.ask_once())
        with open(self.page_paths()[0], "r+b") as file:
            file.seek(os.path.getsize(file.name) // 2)
            damaged = bytes(byte ^ 0xff for byte in file.read(16))
            file.seek(-len(damaged), os.SEEK_CUR)
            file.write(damaged)
        with self.serve("--kv-disk", self.folder) as server:
            got, cached = self.ask(server)
            self.assertEqual(got, answer)
            self.assertLess(cached, self.all_of_the_prompt())
            self.assertEqual(cached % PAGE_SIZE_TOKENS, 0)
            self.assertGreater(self.metric(server, "kv_disk_failures_total"), 0)

    def test_a_page_that_was_cut_short_is_not_used(self):
        answer = self.answer_of(self.ask_once())
        paths = self.page_paths()
        self.assertEqual(len(paths), self.num_pages)
        for path in paths:
            os.truncate(path, os.path.getsize(path) // 2)
        self.assertEqual(self.ask_once(), (answer, 0))

    def test_pages_that_were_computed_otherwise_are_not_found(self):
        answer = self.answer_of(self.ask_once())
        self.assertEqual(self.ask_once("--expert-activations", "int8")[1], 0)
        self.assertEqual(self.ask_once(), (answer, self.all_of_the_prompt()))

    def test_the_folder_is_its_owners_alone(self):
        self.ask_once()
        self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)

    def test_a_limit_beyond_the_disk_is_warned_of(self):
        for gib in (1 << 20, 1):
            is_too_much = shutil.disk_usage(self.dir).free < gib << 30
            with self.serve("--kv-disk", self.folder, "--kv-disk-gib", gib) as server:
                self.assertEqual("--kv-disk-gib allows" in server.output(), is_too_much, server.output())

    def test_a_folder_in_use_is_refused_and_its_holder_goes_on(self):
        with self.serve("--kv-disk", self.folder) as server:
            answer = self.answer_of(self.ask(server))
            self.assert_fails("serve", "--port", 0, "--gpus", "none", "--kv-disk", self.folder,
                              says=["--kv-disk: ", self.folder])
            self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))

    def test_what_is_no_folder_is_refused_before_the_model_is_loaded(self):
        # A model that cannot be loaded: what is said first is what was looked at first.
        args = ["serve", "--port", 0, "--gpus", "99", "--kv-disk"]
        path = self.write("no_folder", "text")
        self.assert_fails(*args, path, says=["--kv-disk: ", path])
        self.assert_fails(*args, os.path.join(path, "below"), says=["--kv-disk: ", path])
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "text")

    def test_a_folder_that_cannot_be_written_is_refused(self):
        if os.geteuid() == 0:
            self.skipTest("root may write everywhere")
        os.mkdir(self.folder, 0o500)
        self.assert_fails("serve", "--port", 0, "--kv-disk", self.folder, says=["--kv-disk: ", self.folder])

    def test_a_sleeping_models_pages_wait_in_host_memory(self):
        with self.serve("--kv-host-gib", 1) as server:
            answer = self.answer_of(self.ask(server))
            for level in (1, 2):
                self.assertEqual(server.request("POST", f"/sleep?level={level}")[0], 200)
                self.assertEqual(server.request("POST", "/wake_up")[0], 200)
                self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))
            self.assertGreater(self.metric(server, "kv_host_limit_pages"), 0)
            self.assertEqual(self.metric(server, "external_prefix_cache_hits_total"), 2 * self.all_of_the_prompt())
            self.assertEqual(server.request("POST", "/sleep")[0], 200)
            self.assertEqual(server.request("POST", "/reset_prefix_cache")[0], 200)
            self.assertEqual(server.request("POST", "/wake_up")[0], 200)
            self.assertEqual(self.ask(server), (answer, 0))

    def test_pages_that_gave_way_in_the_kv_cache_come_back_from_host_memory(self):
        with self.serve("--kv-host-gib", 1, "--kv-cache-tokens", 2048, "--max-context", 1984) as server:
            answer = self.answer_of(self.ask(server))
            server.chat(messages=[{"role": "user", "content": "Hi"}], ignore_eos=True, max_tokens=1900)
            self.assertEqual(self.ask(server), (answer, self.all_of_the_prompt()))
            self.assertGreater(self.metric(server, "external_prefix_cache_hits_total"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
