// Runs a decoder folder in onnxruntime-web's WebAssembly and compares its greedy tokens with those of plain onnxruntime.
//
//     npm install onnxruntime-web      # once, in the current folder
//     onnxquant convert model.gguf -o decoder --target ort
//     node scripts/check_web_decoder.mjs decoder "The capital of France is" --python .venv/bin/python [--tokens 16]
//
// The Python has onnxquant with its package tokenizers. Prints tokens, time of loading, tokens a second of prompt and text.
// Exit code 1: a token differs.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

// Reads a prompt and writes the tokens of it and after it, by plain onnxruntime.
const ORACLE = `
import json, sys
from pathlib import Path
from onnxquant import language
from onnxquant.language.running.text import TextTokenizer
folder, prompt, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ids = TextTokenizer(Path(folder)).encode(prompt)
context = language.Decoder(folder, threads=1).start(capacity=len(ids) + count)
tokens, logits = [], context.read([ids])
for _ in range(count):
    tokens.append(int(logits[0].argmax()))
    logits = context.read([tokens[-1:]]) if len(tokens) < count else None
print(json.dumps({"prompt": ids, "tokens": tokens}))
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: 'string', default: 'python' }, tokens: { type: 'string', default: '16' }, threads: { type: 'string', default: '1' },
  },
});
if (positionals.length !== 2) { console.error('usage: node check_web_decoder.mjs FOLDER PROMPT [--python PYTHON] [--tokens 16]'); process.exit(2); }
const [folder, prompt] = [resolve(positionals[0]), positionals[1]], count = Number(values.tokens);
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const environment = { ...process.env, PYTHONPATH: root };
const expected = JSON.parse(execFileSync(values.python, ['-c', ORACLE, folder, prompt, String(count)], { env: environment }).toString());
const require = createRequire(join(process.cwd(), 'x.js'));
const found = await inRuntime();
const equal = expected.tokens.findIndex((token, i) => token !== found.tokens[i]);
const rate = (tokens, ms) => (tokens / ms * 1000).toFixed(1);
console.log(`${found.program}: loaded in ${(found.load / 1000).toFixed(2)} s` + `, prompt ${rate(expected.prompt.length, found.read)} tokens/s, text ${rate(count - 1, found.write)} tokens/s`);
console.log(`${equal < 0 ? count : equal} of ${count} tokens are equal: ${found.tokens.join(' ')}`);
process.exit(equal < 0 ? 0 : 1);

async function inRuntime() {
  const entry = require.resolve('onnxruntime-web');
  const ort = await import(pathToFileURL(join(dirname(entry), 'ort.wasm.min.mjs')).href);
  ort.env.wasm.numThreads = Number(values.threads);
  ort.env.logLevel = 'error';
  const { model } = JSON.parse(readFileSync(join(folder, 'genai_config.json')));
  const { inputs, outputs, num_hidden_layers: layers, num_key_value_heads: heads, head_size: head, filename } = model.decoder;
  const data = readFileSync(join(folder, `${filename}.data`));
  const begin = performance.now();
  const session = await ort.InferenceSession.create(readFileSync(join(folder, filename)), { externalData: [{ path: `${filename}.data`, data }] });
  const load = performance.now() - begin;
  const type = session.inputMetadata.find(({ name }) => name.startsWith(inputs.past_key_names.split('%d')[0])).type;
  const pairs = [];
  for (let layer = 0; layer < layers; ++layer) {
    for (const part of ['key', 'value']) {
      pairs.push([inputs[`past_${part}_names`], outputs[`present_${part}_names`]].map((name) => name.replace('%d', layer)));
    }
  }
  const nothing = type === 'int8' ? new Int8Array(0) : new Float32Array(0);
  let past = Object.fromEntries(pairs.map(([name]) => [name, new ort.Tensor(type, nothing, [1, heads, 0, head])]));
  let length = 0;
  const read = async (tokens) => {
    length += tokens.length;
    const integers = (list) => new ort.Tensor('int64', BigInt64Array.from(list, BigInt), [1, list.length]);
    const results = await session.run({ [inputs.input_ids]: integers(tokens), [inputs.attention_mask]: integers(Array(length).fill(1)), ...past });
    past = Object.fromEntries(pairs.map(([name, present]) => [name, results[present]]));
    const logits = results[outputs.logits].data.slice(-model.vocab_size);
    return logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0);
  };
  const start = performance.now();
  const tokens = [await read(expected.prompt)];
  const first = performance.now();
  while (tokens.length < count) tokens.push(await read(tokens.slice(-1)));
  const version = JSON.parse(readFileSync(join(dirname(entry), '..', 'package.json'))).version;
  return { program: `onnxruntime-web ${version}`, load, read: first - start, write: performance.now() - first, tokens };
}
