// What AnythingLLM does, with its version of `openai` (node-fetch, no token, no retries) and plain fetch for the rest.
import OpenAI from "openai-4";

import { asked, embedder, llm, report, url } from "./scenario.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: null, maxRetries: 0 });
const headers = { "Content-Type": "application/json" };
const limits = await (await fetch(`${url}/api/v0/models`, { headers })).json();

// It leaves at the first finish_reason: before usage and [DONE].
async function chat(request) {
  let text = "";
  let reasoning = "";
  const stream = await client.chat.completions.create({ model: llm, stream: true, temperature: 0, ...request });
  for await (const chunk of stream) {
    const [choice] = chunk.choices;
    text += choice?.delta?.content ?? "";
    reasoning += choice?.delta?.reasoning_content ?? "";
    if (choice?.finish_reason) return { text, reasoning, finish: choice.finish_reason };
  }
  throw new Error("the stream ended without a finish_reason");
}

const tool = { type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } };
report({
  limits: limits.data
    .filter((model) => model.type !== "embeddings")
    .map((model) => [model.id, model.max_context_length]),
  dropdown: (await client.models.list()).data,
  capabilities: (await (await fetch(`${url}/api/v1/models`, { headers })).json()).models
    .filter((model) => model.key === llm)
    .map((model) => model.capabilities),
  chats: [await chat({ messages: asked("Say hello.") }), await chat({ messages: asked("Say it again.") })],
  whole: await client.chat.completions.create({ model: llm, messages: asked("Say hello."), temperature: 0 }),
  agent: await chat({ messages: asked("Say hello."), tools: [tool], stream_options: { include_usage: true } }),
  embedding: await client.embeddings.create({ model: embedder, input: "a text", encoding_format: "base64" }),
});
