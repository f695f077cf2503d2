// LM Studio's own log over `@lmstudio/sdk`, while one short answer is given: `node log.mjs URL SETTINGS`.
import { LMStudioClient } from "@lmstudio/sdk";

const [, , url, settings] = process.argv;
const { llm } = JSON.parse(settings);
const client = new LMStudioClient({ baseUrl: url.replace("http:", "ws:"), verboseErrorMessages: false });
const seen = [];
let sawOutput;
const output = new Promise((resolve) => (sawOutput = resolve));
const stop = client.diagnostics.unstable_streamLogs((event) => {
  seen.push(event);
  if (event.data.type === "llm.prediction.output") sawOutput();
});
const model = await client.llm.model(llm, { verbose: false });
await model.respond("Say hello.", { temperature: 0, maxTokens: 8 });
await Promise.race([output, new Promise((resolve) => setTimeout(resolve, 3000))]);
stop();
await client[Symbol.asyncDispose]();
process.stdout.write(JSON.stringify(seen));
