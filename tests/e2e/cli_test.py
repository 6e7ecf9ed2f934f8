#!/usr/bin/env python3
"""The command line from outside: cli_test.py TANDEM [unittest arguments]."""
import json
import os
import re
import shutil
import stat
import threading
import unittest
import unittest.mock

from cli_case import TANDEM, CommandLineTest
from safetensors_file import largest_difference, median_row_error, production_tolerance, read_tensor
from tandem_process import SOURCE_DIR, run

GOLDENS = os.path.join(SOURCE_DIR, "tests/data/goldens")
COMMANDS = ["serve", "chat", "check", "logits", "bench", "make-checkpoint", "version"]


def golden_names():
    return sorted(name for name in os.listdir(GOLDENS)
                  if os.path.isfile(os.path.join(GOLDENS, name, "golden.safetensors")))


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
        for flag, smallest, largest in (("--kv-host-gib", 0, 1 << 20), ("--kv-disk-gib", 1, 1 << 30)):
            for value in (smallest - 1, largest + 1, "1.5", "much"):
                self.assert_fails("serve", "--kv-disk", self.path("x"), flag, value, status=2,
                                  says=[flag, value, f"range {smallest} to {largest}"])
        self.assert_fails("serve", "--kv-disk", "", status=2, says=["--kv-disk", "expected a folder"])
        self.assert_fails("serve", "--kv-disk-gib", 5, status=2, says=["--kv-disk-gib", "requires --kv-disk"])
        self.assertFalse(os.path.exists(self.path("x")))
        self.assert_fails("logits", "--model", self.dir, status=2, says=["--tokens"])
        self.assert_fails("check", status=2, says=["DIR"])
        self.assert_fails("make-checkpoint", self.path("x"), "--preset", "huge", status=2, says=["huge", "tiny"])
        for seed in (-1, 99999999999999999999, "1.5"):
            self.assert_fails("make-checkpoint", self.path("x"), "--seed", seed, status=2, says=["--seed", seed])
        self.assert_fails("chat", "--url", "http://x:1", "--model", "y", status=2, says=["--url", "--model"])

    def test_version_names_the_kernels_that_are_forced(self):
        env = {**os.environ, "TANDEM_CPU_ISA": "scalar"}
        self.assertIn("forced to scalar by TANDEM_CPU_ISA", run(TANDEM, "version", env=env)[1])
        status, _, errors = run(TANDEM, "version", env={**env, "TANDEM_CPU_ISA": "mmx"})
        self.assertEqual(status, 1)
        self.assertRegex(errors, 'TANDEM_CPU_ISA is "mmx", expected one that this CPU has: scalar')
        self.assertNotIn("forced", run(TANDEM, "version", env={**env, "TANDEM_CPU_ISA": ""})[1])

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
        with open(os.path.join(self.checkpoint, "tiktoken.model"), encoding="utf-8") as file:
            single_bytes = file.readlines()[:256]  # no golden has room for the merges behind them
        with open(os.path.join(folder, "tiktoken.model"), "w", encoding="utf-8") as file:
            file.writelines(single_bytes)
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

    def test_the_vocabulary_that_is_said_is_the_one_that_is_written(self):
        vocabulary = os.path.join(self.checkpoint, "tiktoken.model")
        for name, more in (("few", ()), ("few_of_file", ("--vocab", vocabulary))):
            status, out, err = run(TANDEM, "make-checkpoint", self.path(name), "--layers", 2, "--vocab-size", 10, *more)
            self.assertEqual(status, 0, err)
            rows = self.check_json(self.path(name))[1]["config"]["vocab_size"]
            self.assertGreater(rows, 256)
            self.assertRegex(out, rf"vocabulary {rows}\b")

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

    def test_a_vocabulary_that_cannot_be_served_is_a_problem(self):
        def problems_of(name, spoil):
            folder = shutil.copytree(self.checkpoint, self.path(name))
            spoil(folder)
            status, report = self.check_json(folder)
            self.assertEqual((status, report["ok"], len(report["problems"])), (1, False, 1), report)
            return report["problems"][0]

        def make_folder(folder):
            os.remove(os.path.join(folder, "tokenizer_config.json"))
            os.mkdir(os.path.join(folder, "tokenizer_config.json"))

        def spoil_line(folder):
            with open(os.path.join(folder, "tiktoken.model"), "a", encoding="utf-8") as file:
                file.write("no token\n")

        def cut(folder):
            path = os.path.join(folder, "tiktoken.model")
            with open(path, encoding="utf-8") as file:
                lines = file.readlines()
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines[:-10])

        self.assertRegex(problems_of("config_folder", make_folder), "tokenizer_config.json: .*found a folder")
        self.assertRegex(problems_of("spoilt_line", spoil_line), r"tiktoken.model:\d+: expected")
        self.assertRegex(problems_of("cut_vocabulary", cut), "first id .*is tiktoken.model whole")

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
        # AMX takes the steps of many tokens and leaves the others to another instruction set: either alone.
        has_amx = run(TANDEM, "version", env={**os.environ, "TANDEM_CPU_ISA": "amx_bf16"})[0] == 0
        isas = ["avx512_vnni", "amx_bf16"] if has_amx else [os.environ.get("TANDEM_CPU_ISA", "")]
        for isa in isas:
            with self.subTest(isa), unittest.mock.patch.dict(os.environ, TANDEM_CPU_ISA=isa):
                self.check_chunking_and_threads()

    def check_chunking_and_threads(self):
        token_ids = [(token_idx * 53 + 5) % 256 for token_idx in range(100)]
        _, whole = self.logits(self.checkpoint, token_ids, "whole", "--chunk", 100)
        for args in (["--chunk", 1], ["--chunk", 33], ["--chunk", 100, "--threads", 1]):
            self.assertEqual(self.logits(self.checkpoint, token_ids, "cut", *args)[1], whole, args)

    def test_links_and_fifos_stay_what_they_are(self):
        _, wanted = self.logits(self.checkpoint, [1, 2, 3], "plain")
        for existing in (True, False):
            target = self.path("target_%s.safetensors" % existing)
            link = self.path("link_%s.safetensors" % existing)
            if existing:
                self.write(os.path.basename(target), "old")
            os.symlink(target, link)
            self.assertEqual(self.logits(self.checkpoint, [1, 2, 3], "link_%s" % existing)[1], wanted)
            self.assertTrue(os.path.islink(link))
            self.assertEqual(read_tensor(target, "logits")[1], wanted)
        fifo = self.path("fifo.safetensors")
        os.mkfifo(fifo)
        received = []

        def read_all():
            with open(fifo, "rb") as file:
                received.append(file.read())
        reader = threading.Thread(target=read_all, daemon=True)
        reader.start()
        ids = self.write("fifo.json", "[1, 2, 3]")
        status, out, err = run(TANDEM, "logits", "--model", self.checkpoint, "--tokens", ids, "--out", fifo)
        self.assertEqual(status, 0, out + err)
        self.assertTrue(stat.S_ISFIFO(os.stat(fifo).st_mode))
        reader.join(60)
        with open(self.path("plain.safetensors"), "rb") as file:
            self.assertEqual(received, [file.read()])

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


if __name__ == "__main__":
    unittest.main(verbosity=2)
