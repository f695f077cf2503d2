// What every script here has in common: `node SCRIPT URL SETTINGS`, the result as JSON on standard output.

export const url = process.argv[2];
// `cancels`: the model is slow enough to be stopped in the middle.
export const { llm, embedder, cancels } = JSON.parse(process.argv[3]);
export const asked = (text) => [{ role: "user", content: text }];

export async function collect(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}

export function report(result) {
  process.stdout.write(JSON.stringify(result));
}
