"""LangChain's ChatNVIDIA: tools in both forms, their round trip, streaming usage, structured output."""
import os
import warnings

warnings.filterwarnings("ignore")  # it does not know the model's name, and says so
from langchain_core.messages import HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_nvidia_ai_endpoints import ChatNVIDIA  # noqa: E402
from pydantic import BaseModel  # noqa: E402


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "Sunny"


class Answer(BaseModel):
    """The answer."""
    city: str
    n: int


plain = ChatNVIDIA(base_url=os.environ["TANDEM_BASE_URL"], model=os.environ["TANDEM_MODEL"],
                   api_key=os.environ["TANDEM_KEY"])
formed = plain.with_structured_output(Answer).invoke("schema-question")
assert formed == Answer(city="Paris", n=1), formed

client = plain.bind_tools([get_weather])
question = HumanMessage("tool-question")
message = client.invoke([question])
assert message.additional_kwargs["reasoning_content"] == "I should look.", message
assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_weather", {"city": "Paris"})], message
assert message.usage_metadata["total_tokens"] > 0, message

total = None
for chunk in client.stream([question]):
    total = chunk if total is None else total + chunk
assert [(call["name"], call["args"]) for call in total.tool_calls] == [("get_weather", {"city": "Paris"})], total
assert total.usage_metadata["output_tokens"] > 0, total

call = message.tool_calls[0]
answer = client.invoke([question, message, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])])
assert answer.content == "It is sunny in Paris.", answer
