#!/usr/bin/env python3
"""The program on an emulated card: cli_on_card_test.py TANDEM_ON_CARD [unittest arguments]."""
import json
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../e2e"))
from safetensors_file import largest_difference, median_row_error, production_tolerance, read_tensor  # noqa: E402
from tandem_process import TandemServer, run  # noqa: E402

TANDEM = ""


class OnCardTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp()
        cls.checkpoint = os.path.join(cls.dir, "model")
        status, _, err = run(TANDEM, "make-checkpoint", cls.checkpoint, "--preset", "tiny")
        assert status == 0, err

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def bench(self, *args):
        status, out, err = run(TANDEM, "bench", "--model", self.checkpoint, "--prompt-tokens", 20, "--batch", 1, "--context", 20,
                               "--decode-tokens", 3, "--repeats", 1, "--bandwidth-mib", 16, *args, timeout=600)
        self.assertEqual(status, 0, err)
        return out, err

    def test_a_card_is_the_default_and_bench_divides_by_the_memory_that_is_read(self):
        out, err = self.bench("--gpu-expert-layers", 1, "--json")
        self.assertRegex(err, r"GPU 0")
        report = json.loads(out)
        row = report["decode"][0]
        host_bytes = row["read_bytes_per_step"] - row["card_read_bytes_per_step"]
        self.assertGreater(host_bytes, 0)
        self.assertGreater(row["card_read_bytes_per_step"], 0)
        self.assertGreater(report["card_copy_bandwidth_gb_per_s"], 0)
        limit_ms = (host_bytes / report["read_bandwidth_gb_per_s"] +
                    row["card_read_bytes_per_step"] / report["card_copy_bandwidth_gb_per_s"]) / 1e6
        self.assertAlmostEqual(row["share_of_bandwidth"], limit_ms / row["median_step_ms"])
        # Layers: dense; MoE on the card, of 4 kernels more; MoE on the host, which cuts what is recorded in three.
        self.assertEqual(row["recordings_per_step"], 3)
        self.assertGreater(row["kernels_per_layer"], 13)
        self.assertLess(row["kernels_per_layer"], 20)

    def test_the_table_says_what_the_limit_is_made_of(self):
        out, _ = self.bench()
        self.assertRegex(out, r"(?m)^card +[\d.]+ GB/s copied within its memory")
        self.assertRegex(out, r"(?m)^batch 1, context 20: the limit is [\d.]+ ms for .* of the cards' memory at their bandwidth, "
                              r"then [\d.]+ ms for .* of the host's at the host's$")
        self.assertRegex(out, r"(?m)^batch 1, context 20: \d+ kernels and copies a step on the cards, [\d.]+ a layer")

    def test_one_card_twice_computes_the_bits_of_one_and_nearly_those_of_the_host(self):
        ids = os.path.join(self.dir, "ids.json")
        with open(ids, "w", encoding="utf-8") as file:
            json.dump(list(range(3, 40)), file)
        logits = {}
        for gpus in ("none", "0", "0,0", "0,1"):
            path = os.path.join(self.dir, f"logits-{gpus}.safetensors")
            status, _, err = run(TANDEM, "logits", "--model", self.checkpoint, "--gpus", gpus, "--tokens", ids, "--out", path, timeout=600)
            self.assertEqual(status, 0, err)
            (_, num_cols), logits[gpus] = read_tensor(path, "logits")
        self.assertEqual(largest_difference(logits["0"], logits["0,0"]), 0)
        self.assertEqual(largest_difference(logits["0"], logits["0,1"]), 0)
        self.assertGreater(largest_difference(logits["0"], logits["none"]), 0)
        self.assertLess(median_row_error(logits["0"], logits["none"], num_cols), production_tolerance(3))

    def test_a_served_answer_comes_from_the_card(self):
        with TandemServer(TANDEM, "--model", self.checkpoint, "--gpus", "0", "--max-batch-tokens", 64, timeout_s=600) as server:
            self.assertIn("dense part on GPU 0", server.output())
            answer = server.chat(messages=[{"role": "user", "content": "hi"}], max_tokens=3, temperature=0)
            self.assertEqual(answer["usage"]["completion_tokens"], 3)

    def test_a_card_that_is_not_there_is_refused(self):
        status, _, err = run(TANDEM, "bench", "--model", self.checkpoint, "--gpus", "2")
        self.assertNotEqual(status, 0)
        self.assertIn("there is no card 2, expected at most 1", err)


if __name__ == "__main__":
    TANDEM = sys.argv.pop(1)
    unittest.main()
