"""LangChain's ChatNVIDIA, streaming."""
import os
import warnings

from example_tools import expect_words

warnings.filterwarnings("ignore")  # it does not know the model's name, and says so
from langchain_nvidia_ai_endpoints import ChatNVIDIA  # noqa: E402

client = ChatNVIDIA(
    base_url=os.environ["TANDEM_BASE_URL"],
    model=os.environ["TANDEM_MODEL"],
    api_key=os.environ["TANDEM_KEY"],
    temperature=1, seed=1,
    top_p=0.9,
    max_completion_tokens=1024,
)

thinking, answer, usage = "", "", None
question = {"role": "user", "content": "which one is bigger, 9.11 or 9.9? think carefully."}
for chunk in client.stream([question]):
    if chunk.additional_kwargs and "reasoning_content" in chunk.additional_kwargs:
        reasoning = chunk.additional_kwargs["reasoning_content"] or ""
        thinking += reasoning
        print(reasoning, end="", flush=True)
    answer += chunk.content
    print(chunk.content, end="", flush=True)
    usage = chunk.usage_metadata or usage
print()

assert thinking, "no thinking was streamed"
assert usage and usage["output_tokens"] > 0, usage
expect_words("the answer", answer, "9.9 is bigger")
