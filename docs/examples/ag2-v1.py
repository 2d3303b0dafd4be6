"""An agent of AG2 1.x and a sub-agent, counted by a Mozaiks server: each model call once, under its agent's name.

    python -m venv .venv && .venv/bin/pip install ag2==1.2.1 openai
    OPENAI_API_KEY=sk-... PYTHONPATH=infra/ag2-bridge .venv/bin/python docs/examples/ag2-v1.py
"""

import asyncio
import os
import uuid

from ag2 import Agent
from ag2.config import OpenAIConfig
from mozaiks_bridge import mozaiks

CHAT_ID = f"weather-{uuid.uuid4()}"

model = OpenAIConfig(
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    api_key=os.environ["OPENAI_API_KEY"],
    base_url=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
)
researcher = Agent("researcher", prompt="You are researcher. Answer from memory.", config=model)
ask_researcher = researcher.as_tool(description="Asks a researcher.")
planner = Agent("planner", prompt="You are planner.", config=model, tools=[ask_researcher])


async def main() -> None:
    async with mozaiks(chat_id=CHAT_ID, app_id="acme", user_id="ann", workflow_name="ag2") as block:
        reply = await planner.ask("Which was the hottest day in Lima?")
    print(reply.body)
    print(f"chat {CHAT_ID}, run {block.run_ids[0]}, {block.undelivered} events undelivered")


asyncio.run(main())
