// `openai` for Node: native fetch.
import OpenAI from "openai";

import { asked, collect, embedder, llm, report, url } from "./scenario.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "lm-studio", maxRetries: 0 });
const limits = { model: llm, temperature: 0, max_tokens: 24 };
const refusal = await client.chat.completions
  .create({ model: "no-such-model", messages: asked("hi") })
  .catch((error) => ({ name: error.constructor.name, status: error.status, message: error.message }));
const first = await client.responses.create({ model: llm, input: "Say hello.", temperature: 0, max_output_tokens: 16 });

report({
  models: (await client.models.list()).data,
  chat: await client.chat.completions.create({ ...limits, messages: asked("Say hello.") }),
  stream: await collect(
    await client.chat.completions.create({
      ...limits,
      messages: asked("Say hello."),
      stream: true,
      stream_options: { include_usage: true },
    }),
  ),
  completion: await client.completions.create({ ...limits, prompt: "One, two, three," }),
  embeddings: (await client.embeddings.create({ model: embedder, input: ["first", "second"] })).data,
  responses: [
    first,
    await collect(
      await client.responses.create({
        model: llm,
        input: "And again.",
        previous_response_id: first.id,
        temperature: 0,
        max_output_tokens: 16,
        stream: true,
      }),
    ),
  ],
  refusal,
});
