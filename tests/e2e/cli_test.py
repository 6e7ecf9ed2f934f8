#!/usr/bin/env python3
"""The command line from outside: cli_test.py TANDEM [unittest arguments]."""
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from safetensors_file import largest_difference, median_row_error, production_tolerance, read_tensor
from tandem_process import SOURCE_DIR, TandemServer, demo_model_is_here, run

TANDEM = ""
GOLDENS = os.path.join(SOURCE_DIR, "tests/data/goldens")
COMMANDS = ["serve", "chat", "check", "logits", "bench", "make-checkpoint", "version"]


class EndlessServer:
    """Answers every question with a word for ever, or `num_events` times and then with `last`."""

    def __init__(self, num_events=10 ** 9, last=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                body = b'{"data": [{"id": "endless"}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for _ in range(num_events):
                        self.event('{"choices": [{"index": 0, "delta": {"content": "word "}}]}')
                        time.sleep(0.01)
                    if last:
                        self.event(last)
                except OSError:
                    pass  # the client has gone, as it should

            def event(self, text):
                self.wfile.write(f"data: {text}\n\n".encode())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def golden_names():
    return sorted(name for name in os.listdir(GOLDENS)
                  if os.path.isfile(os.path.join(GOLDENS, name, "golden.safetensors")))


class CommandLineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="tandem-cli-")
        cls.checkpoint = os.path.join(cls.dir, "made")
        status, out, err = run(TANDEM, "make-checkpoint", cls.checkpoint, "--layers", 2, "--seed", 7)
        assert status == 0, out + err
        cls.made_output = out

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def assert_fails(self, *args, status=1, says=(), **kwargs):
        """Exit status, nothing on stdout that looks like success, one clear line on stderr."""
        got, out, err = run(TANDEM, *args, **kwargs)
        self.assertEqual(got, status, out + err)
        errors = [line for line in err.splitlines() if line.startswith("tandem: error: ")]
        self.assertEqual(len(errors), 1, err)
        for words in says:
            self.assertIn(str(words), errors[0])
        return err


class HelpTest(CommandLineTest):
    def test_without_a_command_the_help_lists_every_command(self):
        status, out, _ = run(TANDEM)
        self.assertEqual(status, 0)
        for command in COMMANDS:
            self.assertRegex(out, rf"(?m)^  {command} ")
        self.assertIn("Examples:", out)

    def test_every_command_has_a_help_within_100_columns(self):
        for command in COMMANDS:
            for flag in ("--help", "-h"):
                status, out, err = run(TANDEM, command, flag)
                self.assertEqual((status, err), (0, ""), command)
                self.assertTrue(out.strip(), command)
                self.assertLessEqual(max(map(len, out.splitlines())), 100, out)
            self.assertIn(f"  tandem {command}", out.split("Examples:")[1])

    def test_wrong_usage_has_status_2_and_names_what_is_wrong(self):
        self.assert_fails("fly", status=2, says=["fly", "--help"])
        self.assert_fails("serve", "--no-such-option", status=2, says=["--no-such-option", "serve --help"])
        self.assert_fails("serve", "--port", "70000", status=2, says=["--port", "70000"])
        self.assert_fails("serve", "--attention", "flash", status=2, says=["--attention", "flash", "absorbed"])
        self.assert_fails("serve", "--expert-activations", "int4", status=2, says=["--expert-activations", "int4", "bf16"])
        self.assert_fails("serve", "--max-sequences", "0", status=2, says=["--max-sequences"])
        self.assert_fails("logits", "--model", self.dir, status=2, says=["--tokens"])
        self.assert_fails("check", status=2, says=["DIR"])
        self.assert_fails("make-checkpoint", self.path("x"), "--preset", "huge", status=2, says=["huge", "tiny"])
        self.assert_fails("chat", "--url", "http://x:1", "--model", "y", status=2, says=["--url", "--model"])

    def test_version_names_compiler_and_instruction_sets(self):
        status, out, _ = run(TANDEM, "version")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^tandem \d+\.\d+\.\d+\n")
        status, out, _ = run(TANDEM, "version", "--json")
        facts = json.loads(out)
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            has_avx2 = " avx2 " in cpuinfo.read()
        self.assertEqual("avx2" in facts["cpu_isa"], has_avx2)
        self.assertTrue(facts["compiler"])
        self.assertEqual(run(TANDEM, "--version")[1].strip(), "tandem " + facts["version"])


class CheckpointTest(CommandLineTest):
    def check_json(self, folder):
        status, out, err = run(TANDEM, "check", folder, "--json")
        self.assertEqual(err, "")
        return status, json.loads(out)

    def copy_of_golden(self, golden, name):
        """A golden with a vocabulary beside it, which makes it a whole checkpoint."""
        folder = self.path(name)
        shutil.copytree(os.path.join(GOLDENS, golden), folder)
        shutil.copy(os.path.join(self.checkpoint, "tiktoken.model"), folder)
        os.remove(os.path.join(folder, "golden.safetensors"))
        return folder

    def test_a_made_checkpoint_is_whole_and_as_large_as_announced(self):
        status, out, _ = run(TANDEM, "check", self.checkpoint)
        self.assertEqual(status, 0, out)
        status, report = self.check_json(self.checkpoint)
        self.assertEqual((status, report["ok"], report["problems"]), (0, True, []))
        self.assertEqual(report["config"]["num_hidden_layers"], 2)
        announced = re.search(r"([\d.]+) (KiB|MiB) to write", self.made_output)
        announced_bytes = float(announced[1]) * {"KiB": 1024, "MiB": 1024 ** 2}[announced[2]]
        written_bytes = sum(os.path.getsize(os.path.join(self.checkpoint, name))
                            for name in os.listdir(self.checkpoint) if name.endswith(".safetensors"))
        self.assertAlmostEqual(written_bytes / announced_bytes, 1, delta=0.1)

    def test_every_dimension_of_a_made_checkpoint_is_the_one_asked_for(self):
        wanted = {"layers": 4, "dense-layers": 2, "experts": 8, "experts-per-token": 3, "hidden": 192,
                  "moe-intermediate": 96, "heads": 3, "q-lora-rank": 0, "shared-experts": 2}
        args = [text for name, value in wanted.items() for text in ("--" + name, value)]
        status, out, err = run(TANDEM, "make-checkpoint", self.path("odd"), *args)
        self.assertEqual(status, 0, out + err)
        with open(os.path.join(self.path("odd"), "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        got = [config[key] for key in (
            "num_hidden_layers", "first_k_dense_replace", "n_routed_experts", "num_experts_per_tok",
            "hidden_size", "moe_intermediate_size", "num_attention_heads", "q_lora_rank", "n_shared_experts")]
        self.assertEqual(got, [4, 2, 8, 3, 192, 96, 3, None, 2])
        self.assertEqual(self.check_json(self.path("odd"))[0], 0)

    def test_the_same_seed_makes_the_same_bytes(self):
        for name, seed in (("same_a", 5), ("same_b", 5), ("other", 6)):
            self.assertEqual(run(TANDEM, "make-checkpoint", self.path(name), "--layers", 2, "--seed", seed)[0], 0)

        def shards(name):
            folder = self.path(name)
            contents = []
            for file_name in sorted(os.listdir(folder)):
                if file_name.endswith(".safetensors"):
                    with open(os.path.join(folder, file_name), "rb") as file:
                        contents.append(file.read())
            return contents

        self.assertEqual(shards("same_a"), shards("same_b"))
        self.assertNotEqual(shards("same_a"), shards("other"))

    def test_making_a_checkpoint_does_not_write_over_another_unless_forced(self):
        self.assertEqual(run(TANDEM, "make-checkpoint", self.path("twice"), "--layers", 2)[0], 0)
        self.assert_fails("make-checkpoint", self.path("twice"), "--layers", 2, says=[self.path("twice"), "--force"])
        self.assertEqual(run(TANDEM, "make-checkpoint", self.path("twice"), "--layers", 3, "--force")[0], 0)
        self.assertEqual(self.check_json(self.path("twice"))[1]["config"]["num_hidden_layers"], 3)

    def test_dimensions_that_fit_no_model_are_refused_by_name(self):
        self.assert_fails("make-checkpoint", self.path("bad"), "--experts", 4, "--experts-per-token", 5,
                          says=["num_experts_per_tok"])
        self.assertFalse(os.path.exists(os.path.join(self.path("bad"), "config.json")))

    def test_every_golden_with_a_vocabulary_is_whole(self):
        for golden in golden_names():
            with self.subTest(golden):
                status, report = self.check_json(self.copy_of_golden(golden, "whole_" + golden))
                self.assertEqual((status, report["problems"]), (0, []))

    def test_a_missing_vocabulary_is_a_problem(self):
        status, report = self.check_json(os.path.join(GOLDENS, golden_names()[0]))
        self.assertEqual(status, 1)
        self.assertTrue(any("tiktoken.model" in problem for problem in report["problems"]), report)

    def test_a_truncated_shard_is_named(self):
        folder = self.copy_of_golden("k2_thinking", "cut")
        shard = "model-00002-of-000002.safetensors"
        with open(os.path.join(folder, shard), "r+b") as file:
            file.truncate(os.path.getsize(os.path.join(folder, shard)) // 2)
        status, report = self.check_json(folder)
        self.assertEqual((status, report["ok"]), (1, False))
        self.assertTrue(any(shard in problem for problem in report["problems"]), report["problems"])
        status, out, _ = run(TANDEM, "check", folder)
        self.assertEqual(status, 1)
        self.assertIn(shard, out)
        self.assert_fails("serve", "--port", 0, "--model", folder, says=[shard])

    def test_a_misshapen_tensor_is_named_with_both_shapes(self):
        folder = self.copy_of_golden("k2_thinking", "shape")
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["intermediate_size"] *= 2
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        status, report = self.check_json(folder)
        self.assertEqual(status, 1)
        named = [problem for problem in report["problems"] if "mlp.gate_proj" in problem]
        self.assertTrue(named, report["problems"])
        self.assertIn(str(config["intermediate_size"]), named[0])
        self.assertIn(str(config["intermediate_size"] // 2), named[0])

    def test_a_folder_that_is_no_checkpoint_is_said_to_be_none(self):
        self.assert_fails("check", self.path("nowhere"), says=["nowhere", "no such folder"])
        os.makedirs(self.path("empty"))
        status, report = self.check_json(self.path("empty"))
        self.assertEqual(status, 1)
        self.assertTrue(any("config.json" in problem for problem in report["problems"]), report)
        self.assert_fails("serve", "--port", 0, "--model", self.path("empty"), says=["config.json"])
        self.assert_fails("serve", "--port", 0, "--model", self.path("nowhere"), says=["nowhere"])


class LogitsTest(CommandLineTest):
    def logits(self, model, token_ids, name, *args):
        ids = self.write(name + ".json", json.dumps(token_ids))
        out_path = self.path(name + ".safetensors")
        status, out, err = run(TANDEM, "logits", "--model", model, "--tokens", ids, "--out", out_path, *args)
        self.assertEqual(status, 0, out + err)
        return read_tensor(out_path, "logits")

    def test_both_paths_agree_with_the_goldens(self):
        for golden in golden_names():
            with self.subTest(golden):
                folder = os.path.join(GOLDENS, golden)
                with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
                    config = json.load(file)
                config = config.get("text_config", config)
                token_ids = list(read_tensor(os.path.join(folder, "golden.safetensors"), "input_ids")[1])
                shape, wanted = read_tensor(os.path.join(folder, "golden.safetensors"), "logits")
                got_shape, reference = self.logits(folder, {"input_ids": token_ids}, golden + "_ref", "--reference")
                self.assertEqual(got_shape, shape)
                self.assertLess(largest_difference(reference, wanted), 5e-5)
                if "quantization_config" not in config:  # BF16 experts: the fast path rounds them
                    wanted = self.logits(folder, token_ids, golden + "_int4", "--reference", "--experts-int4")[1]
                got_shape, production = self.logits(folder, token_ids, golden, "--chunk", 48)
                self.assertEqual(got_shape, shape)
                self.assertLess(median_row_error(production, wanted, shape[1]),
                                production_tolerance(config["num_hidden_layers"]))

    def test_production_agrees_with_the_reference_on_a_made_checkpoint(self):
        token_ids = [(token_idx * 37 + 11) % 256 for token_idx in range(130)]
        shape, reference = self.logits(self.checkpoint, token_ids, "made_ref", "--reference")
        for form in ("absorbed", "expanded"):
            _, production = self.logits(self.checkpoint, token_ids, "made", "--attention", form)
            self.assertLess(median_row_error(production, reference, shape[1]), production_tolerance(2), form)

    def test_eight_bit_activations_of_the_experts_are_off_by_their_rounding(self):
        token_ids = [(token_idx * 37 + 11) % 256 for token_idx in range(130)]
        shape, faithful = self.logits(self.checkpoint, token_ids, "faithful")
        _, lossy = self.logits(self.checkpoint, token_ids, "lossy", "--expert-activations", "int8")
        error = median_row_error(lossy, faithful, shape[1])
        self.assertGreater(error, 0)
        self.assertLess(error, 8e-3)

    def test_chunking_and_threads_change_no_bit(self):
        token_ids = [(token_idx * 53 + 5) % 256 for token_idx in range(100)]
        _, whole = self.logits(self.checkpoint, token_ids, "whole", "--chunk", 100)
        for args in (["--chunk", 1], ["--chunk", 33], ["--chunk", 100, "--threads", 1]):
            self.assertEqual(self.logits(self.checkpoint, token_ids, "cut", *args)[1], whole, args)

    def test_wrong_token_files_are_refused_and_leave_nothing_behind(self):
        out_path = self.path("none.safetensors")
        for text, says in (("[1, 2", "not JSON"), ("[]", "not empty"), ("{}", "input_ids"),
                           ('[1, "a"]', "entry 1"), ("[1, -1]", "-1"), ("[1, 99999999]", "99999999")):
            ids = self.write("wrong.json", text)
            self.assert_fails("logits", "--model", self.checkpoint, "--tokens", ids, "--out", out_path,
                              says=["wrong.json", says])
        self.assert_fails("logits", "--model", self.checkpoint, "--tokens", self.path("missing.json"),
                          "--out", out_path, says=["missing.json"])
        ids = self.write("right.json", "[1, 2]")
        self.assert_fails("logits", "--model", self.checkpoint, "--tokens", ids,
                          "--out", self.path("no/such/folder/x"), says=["no/such/folder/x"])
        self.assertEqual([name for name in os.listdir(self.dir) if name.startswith("none")], [])


class BenchTest(CommandLineTest):
    ARGS = ["--prompt-tokens", "20,70", "--batch", "1,3", "--context", "0,65", "--decode-tokens", 4,
            "--repeats", 2, "--bandwidth-mib", 64]

    def test_every_case_is_measured_beside_the_bandwidth(self):
        status, out, err = run(TANDEM, "bench", "--model", self.checkpoint, "--json", *self.ARGS)
        self.assertEqual(status, 0, err)
        report = json.loads(out)
        self.assertEqual([row["prompt_tokens"] for row in report["prefill"]], [20, 70])
        self.assertEqual([(row["context_tokens"], row["batch"]) for row in report["decode"]],
                         [(0, 1), (0, 3), (65, 1), (65, 3)])
        self.assertGreater(report["read_bandwidth_gb_per_s"], 0)
        self.assertGreater(report["peak_memory_bytes"], 0)
        for row in report["decode"]:
            self.assertAlmostEqual(row["tokens_per_s"] * row["median_step_ms"] / 1e3, row["batch"])
            self.assertLessEqual(row["p10_step_ms"], row["median_step_ms"])
            self.assertLessEqual(row["median_step_ms"], row["p90_step_ms"])
            self.assertGreater(row["read_bytes_per_step"], 0)
            self.assertAlmostEqual(row["share_of_bandwidth"] * report["read_bandwidth_gb_per_s"],
                                   row["read_bytes_per_step"] / row["median_step_ms"] / 1e6)
        self.assertGreater(report["decode"][1]["read_bytes_per_step"],
                           report["decode"][0]["read_bytes_per_step"])

    def test_the_table_has_a_row_for_each_case(self):
        status, out, err = run(TANDEM, "bench", "--model", self.checkpoint, *self.ARGS)
        self.assertEqual(status, 0, err)
        self.assertEqual(len(re.findall(r"(?m)^ +\d+ +[\d.]+ +[\d.]+$", out)), 2, out)
        self.assertEqual(len(re.findall(r"(?m)^ +\d+ +\d+ +[\d.]+ +[\d.]+-[\d.]+ .* %$", out)), 4, out)
        self.assertRegex(out, r"bandwidth +[\d.]+ GB/s")
        self.assertRegex(out, r"peak memory +[\d.]+ (MiB|GiB)")

    def test_the_memory_alone_is_measured_by_node_without_a_model(self):
        args = ["--stream", "--model", self.path("no-model"), "--bandwidth-mib", 32]
        status, out, err = run(TANDEM, "bench", *args, "--json")
        self.assertEqual(status, 0, err)
        report = json.loads(out)
        nodes = [row["node"] for row in report["bandwidth"]]
        self.assertEqual(nodes[-1], "all")
        self.assertEqual(len(nodes), 1 if report["numa_nodes"] == 1 else report["numa_nodes"] + 1)
        for row in report["bandwidth"]:
            self.assertGreater(row["read_gb_per_s"], 0)
            self.assertGreater(row["copy_gb_per_s"], 0)
        status, out, err = run(TANDEM, "bench", *args, "--threads", 1)
        self.assertEqual(status, 0, err)
        self.assertRegex(out, r"(?m)^ +all +1 +[\d.]+ +[\d.]+$")

    def test_more_tokens_than_the_model_takes_are_refused(self):
        self.assert_fails("bench", "--model", self.checkpoint, "--prompt-tokens", 1000000, says=["1000000"])


class ServeTest(CommandLineTest):
    def serve(self, *args, **kwargs):
        return TandemServer(TANDEM, "--model", self.checkpoint, *args, **kwargs)

    def test_start_up_says_where_it_listens_and_what_to_try(self):
        with self.serve("--served-model-name", "some-name") as server:
            self.assertEqual(server.model, "some-name")
            self.assertEqual(server.request("GET", "/health")[0], 200)
            models = json.loads(server.request("GET", "/v1/models")[2])
            self.assertEqual(models["data"][0]["id"], "some-name")
            server.wait_for_line(r"^or: tandem chat --url " + re.escape(server.url))
            self.assertIn(f"curl -N {server.url}/v1/chat/completions", server.output())

    def test_the_curl_line_that_is_printed_works_as_it_stands(self):
        if not shutil.which("curl"):
            self.skipTest("no curl here")
        with self.serve() as server:
            server.wait_for_line(r"^or: tandem chat")
            command = re.search(r"(?m)^  (curl -N (?:.*\\\n)*.*)$", server.output()).group(1)
            command += ' | head -c 300'
            done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, timeout=60)
            self.assertTrue(done.stdout.startswith("data: {"), done.stdout + done.stderr)

    def test_an_idle_server_uses_less_than_a_hundredth_of_a_core(self):
        def cpu_s(pid):
            with open(f"/proc/{pid}/stat") as stat:
                user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        with self.serve() as server:
            body = {"model": server.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 200)
            time.sleep(0.5)
            before = cpu_s(server.process.pid)
            time.sleep(3)
            # One tick of the clock is a third of what is allowed.
            self.assertLess(cpu_s(server.process.pid) - before, 0.03 + 1e-6)

    def test_the_model_is_named_after_its_folder(self):
        with self.serve() as server:
            self.assertEqual(server.model, "made")

    def test_a_port_in_use_is_said_in_one_line(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assert_fails("serve", "--model", self.checkpoint, "--port", port, says=[port, "in use"])

    def test_cards_that_are_not_there_are_refused_with_the_reason(self):
        self.assert_fails("serve", "--model", self.checkpoint, "--gpus", "99", says=["--gpus 99"])
        self.assert_fails("bench", "--model", self.checkpoint, "--gpus", "first", says=["--gpus first", "expected none"])

    def test_the_model_is_served_from_one_and_from_two_devices(self):
        for gpus in ("none", "none,none"):
            with self.serve("--gpus", gpus) as server:
                self.assertEqual(server.request("GET", "/health")[0], 200)

    def test_experts_lie_on_the_device_when_asked_for(self):
        with self.serve("--gpus", "none", "--gpu-expert-layers", "1") as server:
            body = {"model": server.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 200)
        self.assert_fails("serve", "--model", self.checkpoint, "--gpus", "none", "--gpu-expert-layers", "99",
                          says=["--gpu-expert-layers 99", "MoE layers", "expected at most"])
        self.assert_fails("serve", "--model", self.checkpoint, "--gpu-expert-layers", "all", says=["--gpu-expert-layers", "all"], status=2)

    def test_a_model_sleeps_wakes_says_what_it_said_and_ends_asleep(self):
        body = {"temperature": 0, "max_tokens": 40, "messages": [{"role": "user", "content": "hi"}]}
        for args in ((), ("--gpus", "none,none", "--gpu-expert-layers", "1")):
            with self.serve(*args) as server:
                before = server.chat(**body)["choices"]
                for level in (1, 2):
                    self.assertEqual(server.request("POST", f"/sleep?level={level}")[0], 200)
                    self.assertEqual(server.request("GET", "/is_sleeping")[2], '{"is_sleeping":true}')
                    self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 503)
                    self.assertEqual(server.request("POST", "/wake_up")[0], 200)
                    self.assertEqual(server.chat(**body)["choices"], before)
                self.assertEqual(server.request("POST", "/sleep")[0], 200)
                self.assertEqual(server.stop(), 0)

    def test_a_request_wakes_the_model_where_it_may(self):
        with self.serve("--wake-on-request") as server:
            self.assertEqual(server.request("POST", "/sleep")[0], 200)
            server.chat(max_tokens=4, messages=[{"role": "user", "content": "hi"}])
            self.assertEqual(server.health()["sleep_state"], "awake")

    def test_an_idle_model_sleeps_by_itself_where_it_may(self):
        with self.serve("--sleep-after", "1") as server:
            for _ in range(2):
                deadline = time.monotonic() + 120
                while server.health()["sleep_state"] != "asleep":
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.1)
                server.chat(max_tokens=4, messages=[{"role": "user", "content": "hi"}])

    def test_keys_are_asked_for_when_given_by_option_or_environment(self):
        with self.serve("--api-key", "one", "--api-key", "two") as server:
            self.assertEqual(server.request("GET", "/v1/models")[0], 401)
            for key in ("one", "two"):
                headers = {"Authorization": "Bearer " + key}
                self.assertEqual(server.request("GET", "/v1/models", headers=headers)[0], 200)
        os.environ["TANDEM_API_KEY"] = "three"
        try:
            with self.serve() as server:
                self.assertEqual(server.request("GET", "/v1/models")[0], 401)
                headers = {"Authorization": "Bearer three"}
                self.assertEqual(server.request("GET", "/v1/models", headers=headers)[0], 200)
        finally:
            del os.environ["TANDEM_API_KEY"]

    def start_answer(self, server, num_tokens):
        """A stream of `num_tokens` tokens, its head read: (connection, response)."""
        connection = server.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": server.model, "messages": [{"role": "user", "content": "hello"}], "stream": True,
             "max_tokens": num_tokens, "ignore_eos": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        response.readline()
        return connection, response

    def test_sigterm_lets_a_running_answer_finish(self):
        with self.serve() as server:
            connection, response = self.start_answer(server, 600)
            status = []
            waiter = threading.Thread(target=lambda: status.append(server.stop()))
            waiter.start()
            text = response.read().decode()
            waiter.join()
            connection.close()
            self.assertEqual(status, [0], server.output())
            self.assertTrue(text.rstrip().endswith("data: [DONE]"), text[-300:])
            self.assertIn('"finish_reason":"length"', text)
            server.wait_for_line(r"^Stopped\.")

    def test_a_second_signal_stops_at_once(self):
        with self.serve() as server:
            connection, _ = self.start_answer(server, 7000)
            server.process.send_signal(signal.SIGINT)
            server.wait_for_line(r"^Stopping")
            status = server.stop(signal.SIGINT, timeout_s=20)  # not the 30 s of a drain
            connection.close()
            self.assertEqual(status, 130, server.output())

    def test_an_idle_server_ends_well_on_either_signal(self):
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            with self.serve() as server:
                self.assertEqual(server.stop(signal_number, timeout_s=20), 0)

    def test_without_a_model_and_without_the_demo_the_places_are_named(self):
        self.assert_fails("serve", "--port", 0, says=["TANDEM_DEMO_MODEL", self.dir],
                          env={**os.environ, "TANDEM_DEMO_MODEL": self.dir})

    def test_without_a_model_the_demo_is_served_and_called_one(self):
        if not demo_model_is_here():
            self.skipTest("no demo model in server/demo/model")
        with TandemServer(TANDEM) as server:
            self.assertEqual(server.model, "tandem-demo")
            self.assertIn("tiny demo model", server.output())


class ChatTest(CommandLineTest):
    def chat(self, server_args, *args, stdin=None, **kwargs):
        return run(TANDEM, "chat", *server_args, "--max-tokens", 20, "--seed", 1, *args, input=stdin, **kwargs)

    def test_a_prompt_is_answered_by_a_server_of_its_own(self):
        status, out, err = self.chat(["--model", self.checkpoint], "-p", "hello")
        self.assertEqual(status, 0, err)
        self.assertNotIn("\x1b", out)
        self.assertIn("token limit", err)  # random weights end nowhere

    def test_lines_of_stdin_are_turns_of_one_conversation(self):
        with TandemServer(TANDEM, "--model", self.checkpoint) as server:
            url = ["--url", server.url]
            status, out, err = self.chat(url, stdin="/help\nhello\n/reset\nhello\n/thinking\n/exit\nnever asked\n")
            self.assertEqual(status, 0, err)
            self.assertIn("/reset", out)
            before, after = out.split("The conversation is forgotten.\n")
            self.assertIn("Thinking is shown.", after)
            # The same seed and a conversation that begins anew: the same answer.
            first = before.split("Ctrl-C stops an answer.\n")[1]
            self.assertEqual(first, after.split("Thinking is shown.")[0])
            self.assertEqual(self.chat(url + ["--thinking"], "-p", "-", stdin="two\nlines")[0], 0)
            self.assertEqual(self.chat(["--url", server.url + "/v1/"], "-p", "hello")[0], 0)

    def test_a_server_that_is_not_there_is_named(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:%d" % free.getsockname()[1]
            self.assert_fails("chat", "--url", url, "-p", "hello", says=[url, "tandem serve"])
        self.assert_fails("chat", "--url", "https://127.0.0.1:1", "-p", "x", says=["TLS"])
        self.assert_fails("chat", "--url", "ftp://127.0.0.1:1", "-p", "x", says=["http://HOST:PORT"])

    def test_a_key_that_is_missing_is_asked_for(self):
        with TandemServer(TANDEM, "--model", self.checkpoint, "--api-key", "secret") as server:
            self.assert_fails("chat", "--url", server.url, "-p", "hello", says=["--api-key"])
            self.assertEqual(self.chat(["--url", server.url, "--api-key", "secret"], "-p", "hello")[0], 0)

    def start_chat(self, url):
        command = [TANDEM, "chat", "--url", url, "-p", "hello"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.read(10), "word word ")
        return process

    def test_ctrl_c_stops_an_answer(self):
        with EndlessServer() as server:
            process = self.start_chat(server.url)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            self.assertTrue(out.endswith("\n(stopped)\n"), out[-100:] + err)
            self.assertEqual(process.returncode, 1)

    def test_a_server_that_goes_away_in_the_middle_is_an_error(self):
        with EndlessServer(num_events=50) as server:
            process = self.start_chat(server.url)
            out, err = process.communicate(timeout=20)
            self.assertEqual(process.returncode, 1)
            self.assertEqual(err.count("tandem: error: "), 1, err)
            self.assertRegex(err, "went away|finish_reason")

    def test_an_error_in_the_stream_is_shown(self):
        with EndlessServer(num_events=2, last='{"error": {"message": "the engine stopped"}}') as server:
            process = self.start_chat(server.url)
            self.assertIn("tandem: error: the engine stopped", process.communicate(timeout=20)[1])
            self.assertEqual(process.returncode, 1)

    def test_the_demo_greets(self):
        if not demo_model_is_here():
            self.skipTest("no demo model in server/demo/model")
        with TandemServer(TANDEM) as server:
            status, out, err = run(TANDEM, "chat", "--url", server.url, "-p", "Hello", "--temperature", 0)
            self.assertEqual(status, 0, err)
            self.assertIn("demo model", out)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        sys.exit("usage: cli_test.py TANDEM [unittest arguments]")
    TANDEM = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
