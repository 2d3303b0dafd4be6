"""A group chat of classic AG2 whose tokens a Mozaiks server counts, debits and shows as they are spent.

    npm start                                            # in another terminal
    python -m venv .venv && .venv/bin/pip install autogen==0.14.1 openai
    OPENAI_API_KEY=sk-... PYTHONPATH=infra/ag2-bridge .venv/bin/python docs/examples/ag2-round-robin.py

OPENAI_BASE_URL names another provider, MOZAIKS_URL another server, MOZAIKS_KEY its service key.
"""

import asyncio
import json
import os
import urllib.request
import uuid

from autogen import ConversableAgent, LLMConfig
from autogen.agentchat import a_run_group_chat
from autogen.agentchat.group.patterns import RoundRobinPattern
from mozaiks_bridge import mozaiks

SERVER = os.environ.get("MOZAIKS_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("MOZAIKS_KEY")
CHAT_ID = f"report-{uuid.uuid4()}"

llm = LLMConfig(
    {
        "api_type": "openai",
        "model": os.environ.get("MODEL", "gpt-4o-mini"),
        "api_key": os.environ["OPENAI_API_KEY"],
        "base_url": os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    }
)
planner = ConversableAgent("planner", system_message="You are planner. Plan in three lines.", llm_config=llm)
writer = ConversableAgent("writer", system_message="You are writer. Write what was planned.", llm_config=llm)
for agent in (planner, writer):
    agent.human_input_mode = "NEVER"


async def main() -> None:
    pattern = RoundRobinPattern(initial_agent=planner, agents=[planner, writer])
    async with mozaiks(chat_id=CHAT_ID, app_id="acme", user_id="ann", workflow_name="ag2"):
        response = await a_run_group_chat(pattern=pattern, messages="A report on the weather.", max_rounds=5)
        await response.process()
    show(f"/api/sessions/{CHAT_ID}")


def show(path: str) -> None:
    """Prints what the server counted."""
    request = urllib.request.Request(SERVER + path, headers={"Authorization": f"Bearer {KEY}"} if KEY else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        tokens = json.load(answer)["real_time_tracking"]["tokens"]
    print(f"{CHAT_ID}: {tokens['total_tokens']} tokens, {tokens['total_cost']:.6f} USD")
    for share in tokens["by_agent"]:
        print(f"  {share['agent']}: {share['total_tokens']} tokens")


asyncio.run(main())
