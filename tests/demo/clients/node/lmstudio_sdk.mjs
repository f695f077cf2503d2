// `@lmstudio/sdk`: WebSockets only, one for each namespace.
import { LMStudioClient } from "@lmstudio/sdk";

import { cancels, collect, embedder, llm, report, url } from "./scenario.mjs";

const client = new LMStudioClient({ baseUrl: url.replace("http:", "ws:"), verboseErrorMessages: false });
const version = await client.system.getLMStudioVersion();
const model = await client.llm.model(llm, { verbose: false });
const options = { temperature: 0, maxTokens: 24 };
const prediction = model.respond("Say hello.", options);
const fragments = await collect(prediction);
const result = await prediction.result();
const stopped = cancels && (await cancelled());
const embedding = await client.embedding.model(embedder, { verbose: false });
const refusal = await client.llm.model("no-such-model", { verbose: false }).catch((error) => error.message);

async function cancelled() {
  const endless = model.respond("Tell a long story.", { temperature: 0 });
  for await (const fragment of endless) {
    await endless.cancel();
    break;
  }
  return (await endless.result()).stats.stopReason;
}

report({
  version,
  downloaded: await client.system.listDownloadedModels(),
  loaded: (await client.llm.listLoaded()).map((one) => one.identifier),
  info: await model.getModelInfo(),
  context: await model.getContextLength(),
  fragments,
  content: result.content,
  stats: result.stats,
  structured: await model
    .respond("Is water wet?", {
      temperature: 0,
      structured: { type: "json", jsonSchema: { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"] } },
    })
    .then((one) => one.content),
  completion: await model.complete("One, two, three,", { temperature: 0, maxTokens: 8 }).then((one) => one.content),
  tokens: await model.tokenize("Chaos is a ladder."),
  count: await model.countTokens("Chaos is a ladder."),
  prompt: await model.applyPromptTemplate([{ role: "user", content: "User message 1" }]),
  embedding: await embedding.embed("a text"),
  stopped,
  refusal,
});
await model.unload();
await client[Symbol.asyncDispose]();
