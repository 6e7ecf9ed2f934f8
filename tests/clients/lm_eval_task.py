"""lm-eval's local-completions: log-likelihood and generation of a tiny task, with the server's own tokenizer."""
import os

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
