// What Roo Code does: one setting, two protocols. HTTP for the list and the chat, the SDK's sockets for the models.
import { LMStudioClient } from "@lmstudio/sdk";
import OpenAI from "openai";

import { asked, collect, llm, report, url } from "./scenario.mjs";

const listed = await (await fetch(`${url}/v1/models`)).json();
const sdk = new LMStudioClient({ baseUrl: url.replace(/^http:\/\//, "ws://") });
const downloaded = await sdk.system.listDownloadedModels("llm");
const before = await sdk.llm.listLoaded();
await sdk.llm.model(llm, { verbose: false });
const loaded = await Promise.all((await sdk.llm.listLoaded()).map((one) => one.getModelInfo()));

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "noop", maxRetries: 0 });
const tool = { type: "function", function: { name: "read_file", parameters: { type: "object", properties: {} } } };
const chunks = await collect(
  await client.chat.completions.create({
    model: llm,
    messages: [{ role: "system", content: "You are Roo." }, ...asked("Say hello.")],
    temperature: 0,
    max_tokens: 24,
    stream: true,
    tools: [tool],
    parallel_tool_calls: true,
  }),
);
report({ listed: listed.data, downloaded, before: before.length, loaded, chunks });
await sdk[Symbol.asyncDispose]();
