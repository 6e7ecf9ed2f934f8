"""lm-eval's local-completions: log-likelihoods, generation and two tiny tasks, with the server's own tokenizer."""
import json
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing of it comes from anywhere else

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

os.environ["OPENAI_API_KEY"] = os.environ["TANDEM_KEY"]
model = LocalCompletionsAPI(
    base_url=os.environ["TANDEM_BASE_URL"] + "/completions", model=os.environ["TANDEM_MODEL"],
    auth_token=os.environ["TANDEM_KEY"],  # for the tokenizer's endpoints
    tokenizer_backend="remote", batch_size=2)


def request(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


scores = model.loglikelihood([request("loglikelihood", "Q: Is one plus one two? A:", answer)
                              for answer in (" yes", " no", " plain-question")])
assert len(scores) == 3 and all(score < 0 for score, _ in scores), scores
rolling = model.loglikelihood_rolling([request("loglikelihood_rolling", "Say hi there")])
assert rolling[0] < 0, rolling
texts = model.generate_until([request("generate_until", "plain-question",
                                      {"until": ["\n"], "max_gen_toks": 60})])
assert texts == ["<think>Hm.</think>plain-answer"], texts
print(scores, rolling, texts)

# And as evaluations go: a task of its own, read from a file, scored by log-likelihood and by generation.
with tempfile.TemporaryDirectory() as folder:
    documents = os.path.join(folder, "documents.json")
    with open(documents, "w", encoding="utf-8") as file:
        for idx in range(4):
            file.write(json.dumps({"question": f"plain-question {idx}", "choices": ["yes", "no"], "answer": idx % 2}) + "\n")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": documents}, "cache_dir": folder},
            "test_split": "test", "doc_to_text": "{{question}}"}
    tasks = [{**data, "task": "tiny_choice", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
              "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]},
             {**data, "task": "tiny_text", "output_type": "generate_until", "doc_to_target": "<think>Hm.</think>plain-answer",
              "generation_kwargs": {"until": ["\n"], "max_gen_toks": 60}, "metric_list": [{"metric": "exact_match"}]}]
    results = lm_eval.simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0)["results"]
assert 0 <= results["tiny_choice"]["acc,none"] <= 1, results
assert results["tiny_text"]["exact_match,none"] == 1, results
print(results)
